"""Normalisation unifies spelling and leaves everything that can be seen."""

import sys

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.normalise import normalise_array, normalise_text


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise_text(text)
    assert normalise_text(once) == once


def test_newlines_controls_and_trailing_blanks_are_unified():
    assert normalise_text("\ufeffa \t\r\nb\x00\x08c\rd\u2028e\n\n\n\n\n\nf\n\n") == "a\nbc\nd\ne\n\n\nf"


def test_composed_and_decomposed_letters_become_one():
    assert normalise_text("e\u0301") == normalise_text("\u00e9") == "\u00e9"


def test_code_and_mathematics_survive():
    text = "def f(x):\n\tif x:\n\t    return x ** 2  # x² ≤ ∑ﬁ\n\n\ndef g(): pass"
    assert normalise_text(text) == text
    assert normalise_text("  indented first line") == "  indented first line"


ODD = st.text(
    st.one_of(
        st.sampled_from("\r\n\n\n\r \t\u00a0\u3000\u2028\u2029\u0085\x00\x0b\x0c\x1c\x7f\u2003\u1680\ufeff\ufffe\uffff\u200b"),
        st.sampled_from("aeA\u0301\u0308\u0323\u0345\u212b\u2126\u1100\u1161\u11a8\uac00\u0958\u09c7\u09be\u2adc\ufb1d\U0001d15e"),
        st.characters(codec="utf-8"),
    ),
    max_size=40,
)


@given(st.lists(st.none() | ODD, max_size=8))
@settings(max_examples=600, deadline=None)
def test_an_array_is_normalised_as_each_of_its_texts(texts):
    expected = [None if text is None else normalise_text(text) for text in texts]
    array = pa.array(["left out", *texts], pa.large_string())[1:]
    assert normalise_array(array).to_pylist() == expected


def test_an_array_keeps_its_type_when_nothing_changes():
    array = pa.array(["a", "b"], pa.large_string())
    assert normalise_array(array).equals(array)


def test_an_array_treats_every_character_as_a_text_does():
    points = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    texts = [f"a{chr(point)}\nb{chr(point)}{chr(point)}\n\nc{chr(point)}" for point in points]
    texts = [*texts[:0x3200], *texts[0x3200:0xD000:50], *texts[0xD000:0xF800], *texts[0xF800::97]]
    assert normalise_array(pa.array(texts, pa.large_string())).to_pylist() == [normalise_text(text) for text in texts]
