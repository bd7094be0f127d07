import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_lengths_of_the_tokens_sum_to_the_bytes_of_any_text(tokenizer, text):
    lengths = byte_lengths(tokenizer, 400)
    ids = tokenizer.encode(text).ids
    assert lengths[ids].sum() == len(text.encode())


def test_chinese_characters_have_three_bytes_however_they_are_cut(tokenizer):
    lengths = byte_lengths(tokenizer, 400)
    for text in ("不亦说乎", "魑魅魍魉", "rain 雨 and 𠀀"):
        ids = tokenizer.encode(text).ids
        assert lengths[ids].sum() == len(text.encode())
    assert max(lengths[tokenizer.encode("魑").ids]) < 3  # never seen in training: split inside the character


def test_the_end_of_document_and_ids_beyond_the_tokenizer_have_no_bytes(tokenizer):
    lengths = byte_lengths(tokenizer, 400)
    assert lengths[tokenizer.token_to_id("<|endoftext|>")] == 0
    assert np.all(lengths[tokenizer.get_vocab_size() :] == 0)
    ordinary = np.delete(lengths[: tokenizer.get_vocab_size()], tokenizer.token_to_id("<|endoftext|>"))
    assert np.all(ordinary >= 1)


def test_added_text_tokens_count_their_utf8_bytes(tokenizer):
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    copy.add_tokens(["乎不"])
    assert byte_lengths(copy, 400)[copy.token_to_id("乎不")] == 6


def test_a_tokenizer_that_is_not_byte_level_is_refused():
    plain = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match="not byte-level"):
        byte_lengths(plain, 10)


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(tokenizer):
    with pytest.raises(UserError, match="model's vocabulary is 100"):
        byte_lengths(tokenizer, 100)
