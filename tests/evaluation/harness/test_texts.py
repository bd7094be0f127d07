"""Stop strings, on a model that recites the alphabet."""

import numpy as np
import pytest

from kaiyuan_jax.evaluation import generate
from kaiyuan_jax.evaluation.harness import texts

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def reciter(bigram_model, tokenizer):
    """(graphdef, params) after every letter comes the next one, after z the end of the document."""
    size = tokenizer.get_vocab_size()
    logits_VV = np.zeros((size, size))
    ids = [tokenizer.token_to_id(letter) for letter in LETTERS] + [tokenizer.token_to_id("<|endoftext|>")]
    for before, after in zip(ids[:-1], ids[1:], strict=True):
        logits_VV[before, after] = 20
    return bigram_model(logits_VV)


def letters(tokenizer, text):
    return [tokenizer.token_to_id(letter) for letter in text]


def write(reciter, tokenizer, prompts, **options):
    settings = dict(stops=(), new_tokens=30, numbers=range(len(prompts)), window=64, eod=tokenizer.token_to_id("<|endoftext|>"))
    return texts.until(*reciter, tokenizer, [letters(tokenizer, prompt) for prompt in prompts], **settings | options)


def test_texts_end_before_the_first_stop_string_or_the_document_s_end(reciter, tokenizer):
    assert write(reciter, tokenizer, ["a", "x", "de", "p"], stops=("hij", "q", ""), new_tokens=12) == ["bcdefg", "yz", "fg", ""]


def test_texts_are_written_in_pieces_until_all_have_stopped_or_have_their_tokens(reciter, tokenizer, monkeypatch):
    monkeypatch.setattr(texts, "PIECE", 4)
    asked = []
    whole = generate.generate

    def counted(graphdef, params, prompts, **options):
        asked.append((len(prompts), options["new_tokens"]))
        return whole(graphdef, params, prompts, **options)

    monkeypatch.setattr(generate, "generate", counted)
    assert write(reciter, tokenizer, ["a", "b", "c"], stops=("d",)) == ["bc", "c", ""]
    assert asked == [(4, 4)]  # a row more, for a power of two
    found = write(reciter, tokenizer, ["a", "u", "k", "de"], stops=("ij",), new_tokens=12)
    assert found == ["bcdefgh", "vwxyz", "lmnopqrstuvw", "fgh"]  # the last one's stop string lies across two pieces
    assert asked[1:] == [(4, 4), (4, 8)]


def test_drawn_texts_follow_from_their_numbers_not_from_their_neighbours(untrained_model, small_experiment, tokenizer):
    graphdef, params = untrained_model(small_experiment(tokenizer.get_vocab_size()))
    options = dict(stops=(), new_tokens=6, window=32, eod=-1, temperature=1.5)
    prompts = [letters(tokenizer, word) for word in ("cat", "dog", "rain")]
    alone = [
        texts.until(graphdef, params, tokenizer, [prompt], numbers=[n], **options)[0] for n, prompt in zip((5, 6, 5), prompts, strict=True)
    ]
    together = texts.until(graphdef, params, tokenizer, prompts, numbers=[5, 6, 5], **options)
    assert alone == together
    again = texts.until(graphdef, params, tokenizer, [prompts[0]] * 4, numbers=[5, 6, 7, 8], **options)
    assert again[0] == together[0] and len(set(again)) > 1
