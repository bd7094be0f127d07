"""Bits per byte of whole documents: each token once, with enough context, whatever else is in the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.evaluation import document_loss, heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths


@given(st.lists(st.integers(0, 200), max_size=6), st.integers(1, 40))
def test_each_token_counts_once_and_with_half_a_window_before_it(lengths, length):
    cut = document_loss.windows(lengths, length)
    seen = {document: [] for document in range(len(lengths))}
    for document, start, targets, counted in zip(*vars(cut).values(), strict=True):
        assert 0 < counted <= targets <= length and start + targets <= lengths[document]
        first = start + targets - counted  # of the tokens that count
        assert start == 0 or first - start >= length // 2
        seen[document] += range(first, start + targets)
    assert seen == {document: list(range(tokens)) for document, tokens in enumerate(lengths)}
    assert sum(cut.targets) <= sum(2 * tokens for tokens in lengths)


def bigram(size, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (size, size))


@pytest.fixture(scope="module")
def model(tokenizer, bigram_model):
    """A decoder whose loss of a token depends on the token before it alone, and those losses in bits."""
    size = tokenizer.get_vocab_size()
    logits_VV = bigram(size)
    bits_VV = (np.log(np.exp(logits_VV).sum(axis=1, keepdims=True)) - logits_VV) / np.log(2)
    return *bigram_model(logits_VV), bits_VV


ids_of = st.lists(st.integers(1, 250), max_size=150).map(np.array)


@settings(max_examples=15, deadline=None)
@given(st.lists(ids_of, min_size=1, max_size=5), st.sampled_from([16, 32, 50]))
def test_the_loss_is_the_sum_over_all_tokens_by_their_bytes(tokenizer, model, documents, length):
    graphdef, params, bits_VV = model
    bytes_V = byte_lengths(tokenizer, tokenizer.get_vocab_size())
    found = document_loss.bits_per_byte(heldout.token_losses(graphdef), params, documents, bytes_V, eod=0, length=length)
    for ids, value in zip(documents, found, strict=True):
        row = np.concatenate([[0], ids]).astype(int)
        if len(ids):
            assert value == pytest.approx(bits_VV[row[:-1], row[1:]].sum() / bytes_V[row[1:]].sum(), rel=1e-4)
        else:
            assert np.isnan(value)


@pytest.fixture(scope="module")
def score(tokenizer, small_experiment, untrained_model):
    made = small_experiment(tokenizer.get_vocab_size())
    _, params = untrained_model(made)
    return document_loss.scorer(made, params, tokenizer, eod=0)


def texts(count, seed=0):
    random = np.random.default_rng(seed)
    words = "the cat sat on a mat 学而时习之 <|endoftext|>".split()
    return [" ".join(random.choice(words, int(random.integers(1, 80)))) for _ in range(count)]


def test_a_document_s_loss_does_not_depend_on_what_else_is_scored(score):
    documents = texts(40)
    together = score(documents)
    np.testing.assert_allclose([score([text])[0] for text in documents[:8]], together[:8], rtol=1e-6)
    np.testing.assert_allclose(score(documents[::-1])[::-1], together, rtol=1e-6)


def test_a_short_document_is_one_window_after_the_end_of_another(score, tokenizer, small_experiment, untrained_model):
    made = small_experiment(tokenizer.get_vocab_size())
    graphdef, params = untrained_model(made)
    text = "the cat sat on the mat"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    row = np.zeros((1, 33), np.int32)
    row[0, 1 : len(ids) + 1] = ids
    batch = heldout.make_batch(row, eod=0, mask_documents=False)
    nats = np.asarray(heldout.token_losses(graphdef)(params, batch), np.float64)[0, : len(ids)].sum()
    assert score([text])[0] == pytest.approx(nats / np.log(2) / len(text.encode()), rel=1e-6)


def test_text_that_spells_the_end_of_a_document_is_text(score, tokenizer):
    assert np.isfinite(score(["<|endoftext|>"])[0])
    assert 0 not in tokenizer.encode("<|endoftext|>", add_special_tokens=False).ids


def test_a_cut_document_scores_as_its_beginning(tokenizer, small_experiment, untrained_model):
    made = small_experiment(tokenizer.get_vocab_size())
    _, params = untrained_model(made)
    text = "the cat sat on the mat and " * 20
    start = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids[:40])
    cut = document_loss.scorer(made, params, tokenizer, eod=0, most_tokens=40)
    whole = document_loss.scorer(made, params, tokenizer, eod=0)
    assert cut([text])[0] == pytest.approx(whole([start])[0], rel=1e-6)
    assert cut([text])[0] != whole([text])[0]


def test_a_model_finds_what_it_was_trained_on_likelier(tokenizer, bigram_model, small_experiment):
    """Two bigram models counted on two kinds of text: the sign of the difference tells new texts of the kinds apart."""
    size = tokenizer.get_vocab_size()
    random = np.random.default_rng(0)
    kinds = {"cat": "the cat sat on the mat and the dog ran", "sea": "a small bird sang of rain and wind to the sea"}

    def sample(kind):
        return " ".join(random.choice(kinds[kind].split(), 30))

    def fit(kind):
        counts = np.full((size, size), 0.1)
        for _ in range(30):
            ids = tokenizer.encode(sample(kind), add_special_tokens=False).ids
            np.add.at(counts, (ids[:-1], ids[1:]), 1)
        return np.log(counts / counts.sum(axis=1, keepdims=True))

    made = small_experiment(size, width=size, logit_softcap=0.0, norm_epsilon=1e-12)
    loss = {kind: document_loss.scorer(made, bigram_model(fit(kind))[1], tokenizer, eod=0) for kind in kinds}
    new = {kind: [sample(kind) for _ in range(10)] for kind in kinds}
    assert (loss["cat"](new["cat"]) - loss["sea"](new["cat"]) < 0).all()
    assert (loss["cat"](new["sea"]) - loss["sea"](new["sea"]) > 0).all()
