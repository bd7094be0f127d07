"""Byte-level BPE: loses nothing, never makes the end of a document out of text, and is the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from kaiyuan_jax.data.prepare import tokenizer as t

TEXTS = ["The quick brown fox jumps over the lazy dog. 数据 数据库\n    return x + 1\n"] * 20 + [f"row {i} of {i * i}" for i in range(200)]
TRAINED = t.train(TEXTS, 400)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_text_comes_back_from_its_tokens(texts):
    for text, ids in zip(texts, t.encode(TRAINED, texts, 0), strict=True):
        assert TRAINED.decode(ids.tolist(), skip_special_tokens=False) == text


def test_text_that_spells_the_end_does_not_give_the_end():
    text = f"a {t.END} b{t.END}"
    (ids,) = t.encode(TRAINED, [text], 0)
    assert 0 not in ids and TRAINED.decode(ids.tolist()) == text


def test_a_tokenizer_that_makes_the_end_out_of_text_is_refused():
    a = t.train(["a b c"], 300)
    with pytest.raises(t.TokenizerError, match="--end_of_document"):
        list(t.encode(a, ["a"], a.token_to_id("a")))


def test_training_is_deterministic_and_keeps_to_the_vocabulary():
    assert t.train(TEXTS, 400).to_str() == TRAINED.to_str()
    assert t.vocabulary(TRAINED) <= 400 and t.end_of_document(TRAINED) == 0
    assert t.vocabulary(t.train(["ab"], 5000)) < 300


def test_merges_make_common_words_one_token():
    (ids,) = t.encode(TRAINED, [" quick"], 0)
    assert len(ids) == 1


def test_batches_do_not_change_the_tokens(monkeypatch):
    whole = [ids.tolist() for ids in t.encode(TRAINED, TEXTS, 0)]
    monkeypatch.setattr(t, "BATCH_BYTES", 50)
    assert [ids.tolist() for ids in t.encode(TRAINED, TEXTS, 0)] == whole
    assert all(ids.dtype == np.uint32 for ids in t.encode(TRAINED, TEXTS, 0))


def test_a_tokenizer_is_loaded_from_its_file_or_folder_with_its_text_unchanged(tmp_path):
    (tmp_path / "tokenizer.json").write_text(TRAINED.to_str(pretty=True))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded, text = t.load(str(path))
        assert text == TRAINED.to_str(pretty=True) and loaded.get_vocab() == TRAINED.get_vocab()


def test_tokenizers_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(t.TokenizerError, match="at least 257"):
        t.train(TEXTS, 100)
    with pytest.raises(t.TokenizerError, match="no such file"):
        t.load(str(tmp_path / "x.json"))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(t.TokenizerError, match="not a tokenizer.json"):
        t.load(str(tmp_path / "x.json"))
    with pytest.raises(t.TokenizerError, match="its special tokens: none"):
        t.end_of_document(Tokenizer(models.BPE()))
    with pytest.raises(t.TokenizerError, match="<x>"):
        t.end_of_document(TRAINED, "<x>")
