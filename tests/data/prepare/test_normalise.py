"""Normalisation unifies spelling and leaves everything that can be seen."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.normalise import normalise, normalise_text, text_hash
from kaiyuan_jax.data.prepare.read import COLUMNS


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


def test_empty_documents_go_and_missing_ids_become_hashes():
    table = normalise(pa.table([[None, "b", "c"], ["x\r\n", " \n", "y"], [None, 1.0, 2.0]], schema=COLUMNS))
    assert table["id"].to_pylist() == [text_hash("x").hex(), "c"] and table["quality"].to_pylist() == [None, 2.0]
    assert table["hash"].to_pylist() == [text_hash("x"), text_hash("y")]


def test_a_table_of_nothing_but_blanks_gives_no_rows():
    assert normalise(pa.table([[None], [" "], [None]], schema=COLUMNS)).num_rows == 0
