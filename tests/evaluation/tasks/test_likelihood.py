"""Losses of choices: exactly the tokens of the choice, with enough before them, and numbers that follow from them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.evaluation import heldout, tasks
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths
from kaiyuan_jax.evaluation.tasks import likelihood
from tests.evaluation.conftest import CHINESE, ENGLISH

SHAPE = dict(batch_size=2, length=32)  # one for all tests: two programs are compiled, of 16 and of 32 tokens


@given(st.integers(1, 300), st.integers(0, 300), st.integers(2, 64))
def test_every_token_of_a_choice_counts_once_with_half_a_window_before_it(first, more, length):
    tokens, seen = first + more, []
    for start, targets, counted in likelihood.cut(first, tokens, length):
        assert 0 < counted <= targets <= length and start >= 0 and start + targets < tokens
        begin = start + 1 + targets - counted
        assert begin - start >= min(begin, length // 2)
        seen += range(begin, start + 1 + targets)
    assert seen == list(range(first, tokens))


def test_a_choice_that_fits_with_its_end_is_one_window_as_far_back_as_it_goes():
    assert likelihood.cut(10, 20, 32) == [(0, 19, 10)]
    assert likelihood.cut(90, 100, 32) == [(67, 32, 10)]


@pytest.fixture(scope="module")
def model(tokenizer, bigram_model):
    """A decoder whose loss of a token depends on the token before it alone, and those losses in nats."""
    size = tokenizer.get_vocab_size()
    logits_VV = np.random.default_rng(0).normal(0, 2, (size, size))
    return *bigram_model(logits_VV), np.log(np.exp(logits_VV).sum(axis=1, keepdims=True)) - logits_VV


def item(number, context, choices, gold=0, level=1):
    return tasks.Item(f"item-{number}", context, tuple(choices), gold, level)


words = st.lists(st.sampled_from([*ENGLISH, *CHINESE[:5]]), max_size=12).map(" ".join)
choices = st.lists(words.filter(bool), min_size=2, max_size=4, unique=True)


@settings(max_examples=8)
@given(st.lists(st.tuples(words, choices), min_size=1, max_size=3))
def test_the_nats_are_the_sum_over_the_tokens_of_the_choice_by_itself(tokenizer, model, drawn):
    graphdef, params, nats_VV = model
    bytes_V = byte_lengths(tokenizer, tokenizer.get_vocab_size())
    task = tasks.Task("t", tuple(item(n, context, [" " + one for one in some]) for n, (context, some) in enumerate(drawn)))
    found = tasks.score(heldout.token_losses(graphdef), params, tokenizer, bytes_V, task, **SHAPE)
    for number, (context, some) in enumerate(drawn):
        nats = []
        for one in some:
            before, after = tokenizer.encode(context.rstrip()).ids, tokenizer.encode(" " + one).ids
            row = np.array([0, *before, *after])
            nats.append(nats_VV[row[:-1], row[1:]][-len(after) :].sum())
        assert found.gold_nats[number] == pytest.approx(nats[0], rel=1e-4)
        assert found.gold_bytes[number] == len((" " + some[0]).encode())
        assert found.margin[number] == pytest.approx(min(nats[1:]) - nats[0], abs=1e-3)
        assert found.correct[number] == (nats[0] < min(nats[1:])) or abs(min(nats[1:]) - nats[0]) < 1e-4
        assert found.probability[number] == pytest.approx(1 / sum(math.exp(nats[0] - one) for one in nats), rel=1e-3)


def test_a_choice_that_the_tokenizer_would_merge_with_its_context_keeps_its_own_bytes(tokenizer, model):
    graphdef, params, _ = model
    bytes_V = byte_lengths(tokenizer, tokenizer.get_vocab_size())
    assert tokenizer.encode("the").ids != tokenizer.encode("th").ids + tokenizer.encode("e").ids
    task = tasks.Task("t", (item(0, "th", ["e", "ere is"]),))
    found = tasks.score(heldout.token_losses(graphdef), params, tokenizer, bytes_V, task, **SHAPE)
    assert found.gold_bytes.tolist() == [1]


def test_blanks_at_the_end_of_a_context_belong_to_the_choice():
    assert likelihood.pair("the cat \n", "sat") == ("the cat", " \nsat")


def test_the_order_of_the_items_and_what_else_is_scored_change_nothing(tokenizer, model):
    graphdef, params, _ = model
    compute, bytes_V = heldout.token_losses(graphdef), byte_lengths(tokenizer, tokenizer.get_vocab_size())
    items = [item(n, " ".join(ENGLISH[n : 3 * n + 2]), [f" {ENGLISH[n]}", f" {ENGLISH[-n - 1]} on"], n % 2) for n in range(6)]

    def of(some):
        return tasks.score(compute, params, tokenizer, bytes_V, tasks.Task("t", tuple(some)), **SHAPE).gold_nats

    np.testing.assert_allclose(of(items[::-1])[::-1], of(items), rtol=1e-6)
    np.testing.assert_allclose(of(items[2:3]), of(items)[2:3], rtol=1e-6)


def test_many_models_at_once_give_what_each_gives_alone(tokenizer, model):
    graphdef, params, _ = model
    import jax

    bytes_V = byte_lengths(tokenizer, tokenizer.get_vocab_size())
    task = tasks.Task("t", tuple(item(n, ENGLISH[n], [f" {ENGLISH[n + 1]}", f" {ENGLISH[n + 2]} it"], n % 2) for n in range(3)))
    compute, options = heldout.token_losses(graphdef), SHAPE
    pair = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), params)
    together = tasks.score_members(jax.vmap(compute, (0, None)), pair, tokenizer, bytes_V, task, **options)
    for number, found in enumerate(together):
        alone = tasks.score(compute, jax.tree.map(lambda leaf, n=number: leaf[n], pair), tokenizer, bytes_V, task, **options)
        np.testing.assert_allclose(found.gold_nats, alone.gold_nats, rtol=1e-5)
        np.testing.assert_array_equal(found.correct, alone.correct)
    assert not np.allclose(together[0].gold_nats, together[1].gold_nats)


def test_equal_choices_share_the_point_and_a_reference_answer_has_none():
    rows = likelihood.Rows([], np.zeros(0), np.array([2, 4, 4, 3]), *[np.zeros(0, np.int64)] * 4)
    task = tasks.Task("t", (item(0, "", ["a", "b", "c"], gold=1),))
    found = likelihood.scores_of(task, rows, np.array([2.0, 2.0, 3.0]))
    assert found.correct == 0.5 and found.correct_per_byte == 1.0 and found.margin == 0.0 and found.chance == pytest.approx(1 / 3)
    loss = tasks.Task("t", (tasks.Item("x", "", ("a",), kind="loss"),))
    found = likelihood.scores_of(loss, likelihood.Rows([], np.zeros(0), np.array([4]), *[np.zeros(0, np.int64)] * 4), np.array([2.0]))
    assert found.gold_nats == 2.0 and found.gold_bytes == 4 and np.isnan([found.correct, found.margin, found.probability]).all()
