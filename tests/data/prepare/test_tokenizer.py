"""Byte-level BPE: loses nothing, never makes the end of a document out of text, and is the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from kaiyuan_jax.data.prepare import tokenizer as t

TEXTS = ["The quick brown fox jumps over the lazy dog. 数据 数据库\n    return x + 1\n"] * 20 + [f"row {i} of {i * i}" for i in range(200)]
TRAINED = t.train(TEXTS, 400)


def tokens(texts, tokenizer=TRAINED, eod=0):
    """The encoder's tokens of each text, without the end."""
    flat, lengths = t.Encoder(tokenizer.to_str(), eod)(texts)
    assert flat.dtype == np.uint32 and lengths.sum() == len(flat)
    parts = np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
    assert all(part[-1] == eod for part in parts)
    return [part[:-1].tolist() for part in parts]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_text_comes_back_from_its_tokens(texts):
    for text, ids in zip(texts, tokens(texts), strict=True):
        assert TRAINED.decode(ids, skip_special_tokens=False) == text


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=80) | st.text("ab c\n'\t1<|endoftext>\u3000é数", max_size=80), min_size=1, max_size=6))
def test_the_fast_encoder_gives_the_ids_of_the_exact_one(texts):
    encoder = t.Encoder(TRAINED.to_str(), 0)
    assert encoder.fast is not None
    exact = Tokenizer.from_str(TRAINED.to_str())
    exact.encode_special_tokens = True
    assert tokens(texts) == [exact.encode(text, add_special_tokens=False).ids for text in texts]


def test_encoders_that_disagree_end_the_job():
    encoder = t.Encoder(TRAINED.to_str(), 0)
    encoder.fast = t.Encoder(t.train(TEXTS, 300).to_str(), 0).fast
    with pytest.raises(t.TokenizerError, match="gigatoken and tokenizers disagree on 'The quick"):
        encoder(TEXTS)


def test_a_tokenizer_that_the_fast_encoder_does_not_know_is_used_all_the_same():
    words = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<eos>"])
    assert t.Encoder(words.to_str(), 0).fast is None and tokens(["a b", "", "b x"], words) == [[1, 2], [], [2, 3]]


def test_text_that_spells_the_end_does_not_give_the_end():
    text = f"a {t.END} b{t.END}"
    (ids,) = tokens([text])
    assert 0 not in ids and TRAINED.decode(ids) == text


def test_a_tokenizer_that_makes_the_end_out_of_text_is_refused():
    a = t.train(["a b c"], 300)
    with pytest.raises(t.TokenizerError, match="--end_of_document"):
        tokens(["a"], a, a.token_to_id("a"))


def test_training_is_deterministic_and_keeps_to_the_vocabulary():
    assert t.train(TEXTS, 400).to_str() == TRAINED.to_str()
    assert t.vocabulary(TRAINED) <= 400 and t.end_of_document(TRAINED) == 0
    assert t.vocabulary(t.train(["ab"], 5000)) < 300


def test_merges_make_common_words_one_token():
    (ids,) = tokens([" quick"])
    assert len(ids) == 1


def test_batches_do_not_change_the_tokens():
    assert [ids for text in TEXTS for ids in tokens([text])] == tokens(TEXTS)


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
