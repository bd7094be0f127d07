"""JSON that anybody wrote: its value, or one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import json_text

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"]))
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abé"), inner, max_size=4), max_leaves=20)


@given(TREES, st.booleans())
def test_what_json_writes_is_read(tree, plain):
    text = json.dumps(tree, ensure_ascii=plain)
    assert json_text.parse(text) == json_text.parse(text.encode()) == tree


@given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_a_value_or_one_line(text):
    try:
        json_text.parse(text)
    except json_text.JSONError as error:
        assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "not UTF-8 at byte 0"),
        ("[" * 65 + "]" * 65, "brackets more than 64 deep"),
        ("[" * 10**6, "brackets more than 64 deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "brackets more than 64 deep"),
        ("9" * 5000, "Exceeds the limit"),
        (r'"\ud800"', "a lone surrogate"),
        (r'{"\uDFFF": 1}', "a lone surrogate"),
        ("", "Expecting value"),
    ],
)
def test_what_cannot_be_used_is_refused(text, said):
    with pytest.raises(json_text.JSONError, match=said):
        json_text.parse(text)


def test_depth_up_to_the_limit_and_whole_pairs_are_read():
    assert json_text.parse("[" * 64 + "]" * 64) and json_text.parse(r'"\ud83d\ude00"') == "😀"


def test_a_file_is_read_up_to_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1, 2]")  # with a byte order mark
    assert json_text.read(path) == json_text.read(str(path)) == [1, 2]
    monkeypatch.setattr(json_text, "LIMIT", 8)
    with pytest.raises(json_text.JSONError, match="larger than"):
        json_text.read(path)
    with pytest.raises(FileNotFoundError):
        json_text.read(tmp_path / "none.json")
