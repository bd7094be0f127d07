"""Cutting loses no words and keeps to the limit where the text has places to cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.corpora.pieces import definitions, docstrings, paragraphs

PARAGRAPHS = st.lists(st.text("ab \n", min_size=1, max_size=80), min_size=1, max_size=20).map("\n\n".join)


@settings(deadline=None, max_examples=80)
@given(PARAGRAPHS, st.integers(10, 100))
def test_no_word_is_lost_and_only_uncuttable_pieces_pass_the_limit(text, limit):
    for cut in (paragraphs, definitions):
        pieces = cut(text, limit)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(len(piece) <= limit or "\n\n" not in piece.strip() or cut is definitions for piece in pieces)


def test_code_is_cut_before_definitions_and_decorators():
    source = "import a\n\n\n" + "".join(f"@wrap\ndef f{i}():\n    return {i}\n\n\n" for i in range(20))
    pieces = definitions(source, 120)
    assert "".join(pieces) == source and len(pieces) > 5
    assert all(piece.startswith(("import", "@wrap")) for piece in pieces)


def test_long_classes_are_cut_before_methods():
    source = "class A:\n" + "".join(f"    def f{i}(self):\n        return {i}\n\n" for i in range(20))
    pieces = definitions(source, 120)
    assert "".join(pieces) == source and all(piece.startswith(("class", "    def")) for piece in pieces)


def test_docstrings_of_public_things_are_found_without_running_the_module():
    source = '"""module"""\nraise SystemExit\nclass A:\n  """a"""\n  def f(self):\n    """f\n\n       g"""\n  def _p(self):\n    """no"""\n'
    assert dict(docstrings(source)) == {"": "module", "A": "a", "A.f": "f\n\ng"}
    assert not list(docstrings("def (:"))
