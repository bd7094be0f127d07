"""Log-probabilities of continuations against a model whose every next-token probability is known."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.evaluation.harness import likelihood
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import mesh, rules

V = 24
ids = st.integers(0, V - 1)
pairs_of = st.lists(st.tuples(st.lists(ids, min_size=1, max_size=90), st.lists(ids, min_size=1, max_size=40)), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def bigram(bigram_model):
    """(logits float[V, V], graphdef, params): what follows depends on the last token alone."""
    logits_VV = np.random.default_rng(0).normal(0, 2, (V, V))
    return (logits_VV, *bigram_model(logits_VV))


def expected(logits_VV, context, continuation):
    """(log-probability, whether each token is the likeliest), by hand."""
    logs_VV = logits_VV - np.log(np.exp(logits_VV).sum(axis=1, keepdims=True))
    steps = list(zip([context[-1], *continuation[:-1]], continuation, strict=True))
    return sum(logs_VV[step] for step in steps), all(logits_VV[before].argmax() == after for before, after in steps)


def random_pairs(count, length):
    random = np.random.default_rng(1)
    pairs = []
    for _ in range(count):
        sizes = random.integers(1, 60), random.integers(1, length)
        pairs.append(likelihood.fit(*(random.integers(0, V, size).tolist() for size in sizes), length))
    question = tuple(random.integers(0, V, 20).tolist())
    pairs += [(question, (7, letter)) for letter in range(18)]  # more than share a row
    greedy = [3]
    return pairs, greedy


@pytest.mark.parametrize(("devices", "length"), [(1, 48), (4, 32)])
def test_answers_are_those_of_the_known_probabilities_on_any_number_of_devices(bigram, devices, length):
    logits_VV, graphdef, params = bigram
    pairs, chain = random_pairs(20, length)
    while len(chain) < 12:
        chain.append(int(logits_VV[chain[-1]].argmax()))
    pairs.append((tuple(chain[:5]), tuple(chain[5:])))
    placed = mesh.make_mesh(config.Mesh(), jax.devices()[:devices])
    place = rules.placement(placed)
    params = jax.device_put(params, rules.shardings(params, placed))
    found = {}
    for batch in likelihood.answer(
        likelihood.log_probabilities(graphdef, place), params, pairs, length=length, batch_tokens=256, ways=place.ways("B")
    ):
        found |= {number: (nats, greedy) for number, nats, greedy in batch}
    assert sorted(found) == list(range(len(pairs)))
    for number, pair in enumerate(pairs):
        nats, greedy = expected(logits_VV, *pair)
        assert found[number][0] == pytest.approx(nats, abs=2e-4) and found[number][1] == greedy
    assert found[len(pairs) - 1][1]


def test_a_large_vocabulary_is_met_in_parts_with_the_same_result(bigram, monkeypatch):
    logits_VV, graphdef, params = bigram
    monkeypatch.setattr(likelihood, "LOGITS", 8 * V)  # read when the program is traced
    pairs = [pair for pair in random_pairs(20, 30)[0] if len(pair[1]) > likelihood.FEW]
    compute = likelihood.log_probabilities(graphdef, Placement("cpu"))  # a program of its own
    for batch in likelihood.answer(compute, params, pairs, length=30, batch_tokens=128):
        for number, nats, _ in batch:
            assert nats == pytest.approx(expected(logits_VV, *pairs[number])[0], abs=2e-4)


@given(pairs_of, st.integers(40, 100))
def test_every_pair_stands_in_one_row_that_shows_its_tokens_where_they_are_predicted(drawn, length):
    pairs = [likelihood.fit(context, continuation, length) for context, continuation in drawn]
    seen = []
    for (width, places, sharers), rows in likelihood.shapes(pairs, length).items():
        assert width <= length
        for numbers in rows:
            tokens, at, targets = np.zeros(width, int), np.zeros(places, int), np.zeros((places, sharers), int)
            likelihood.fill((tokens, at, targets), [pairs[number] for number in numbers])
            for k, number in enumerate(numbers):
                context, continuation = pairs[number]
                count = len(continuation)
                assert tuple(targets[:count, k]) == continuation
                assert [*tokens[: at[count - 1] + 1], continuation[-1]] == [*context, *continuation]
                assert list(at[:count]) == list(range(len(context) - 1, len(context) - 1 + count))
            seen += numbers
    assert sorted(seen) == list(range(len(pairs)))


@given(st.lists(ids, min_size=1, max_size=50), st.lists(ids, min_size=1, max_size=20), st.integers(20, 40))
def test_a_long_context_loses_its_beginning_and_a_continuation_nothing(context, continuation, length):
    kept, same = likelihood.fit(context, continuation, length)
    assert same == tuple(continuation) and kept == tuple(context)[-len(kept) :]
    assert len(kept) + len(same) == min(length + 1, len(context) + len(continuation))


def test_what_cannot_be_scored_is_refused():
    for context, continuation in (([], [1]), ([1], []), ([1], [1] * 9)):
        with pytest.raises(ValueError, match="must be at least 1, and 1 to 8"):
            likelihood.fit(context, continuation, 8)
