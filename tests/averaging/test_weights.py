"""Averaging weights: the numbers of 2511.18903's readings, and the decay that wma stands in for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.averaging.weights import FACTORS, decay_weights, metric_weights, weights
from kaiyuan_jax.config import Averaging, ConfigError
from kaiyuan_jax.schedules import shapes


@pytest.mark.parametrize(
    ("kind", "newest_first"),
    [
        ("sma", [0.1667, 0.1667, 0.1667, 0.1667, 0.1667, 0.1667]),
        ("ema", [0.271, 0.217, 0.173, 0.139, 0.111, 0.089]),
        ("ema_seeded", [0.2, 0.16, 0.128, 0.1024, 0.0819, 0.3277]),
        ("ema_powers", [0.8000, 0.1600, 0.0320, 0.0064, 0.0013, 0.0003]),
    ],
)
def test_six_checkpoints_at_alpha_a_fifth_weigh_what_the_readings_of_the_paper_say(kind, newest_first):
    digits = 5e-4 if kind == "ema" else 5.5e-5  # ema_powers is 0.80005, 0.16001, ... before rounding
    np.testing.assert_allclose(weights(Averaging(kind=kind, last=6, alpha=0.2)), newest_first, atol=digits, rtol=0)


def test_seeded_ema_is_the_recursion_started_from_the_oldest_checkpoint():
    thetas = np.random.default_rng(0).normal(size=7)  # oldest first
    average = thetas[0]
    for theta in thetas[1:]:
        average = 0.3 * theta + 0.7 * average
    assert weights(Averaging(kind="ema_seeded", last=7, alpha=0.3)) @ thetas[::-1] == pytest.approx(average, rel=1e-12)


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(["sma", "ema", "ema_seeded", "ema_powers", "wma"]),
    last=st.integers(1, 40),
    alpha=st.floats(0.01, 0.99),
    shape=st.sampled_from(sorted(FACTORS)),
)
def test_all_weights_are_positive_and_sum_to_one(kind, last, alpha, shape):
    found = weights(Averaging(kind=kind, last=last, alpha=alpha, shape=shape))
    assert found.shape == (last,) and found.dtype == np.float64
    assert (found > 0).all() and found.sum() == pytest.approx(1, abs=1e-12)
    if kind in ("sma", "ema", "ema_powers") and alpha <= 0.5:
        assert (np.diff(found) <= 0).all()  # never more for an older checkpoint


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 30), shape=st.sampled_from(sorted(FACTORS)), seed=st.integers(0, 99))
def test_wma_equals_scaling_the_update_after_checkpoint_j_by_the_decay_at_j_over_k(count, shape, seed):
    thetas = np.random.default_rng(seed).normal(size=(count, 3))  # oldest first
    decayed = thetas[0].copy()
    for j in range(1, count):
        decayed += shapes.FACTORS[shape](j / count) * (thetas[j] - thetas[j - 1])
    np.testing.assert_allclose(decay_weights(shape, count) @ thetas[::-1], decayed, atol=1e-12)


def test_wma_of_a_linear_decay_is_the_plain_mean():
    np.testing.assert_allclose(decay_weights("linear", 6), np.full(6, 1 / 6), atol=1e-15)


def test_wma_of_a_sqrt_decay_weighs_the_oldest_most():
    found = weights(Averaging(kind="wma", last=6, shape="sqrt"))
    assert np.round(found, 3).tolist() == [0.087, 0.096, 0.109, 0.130, 0.169, 0.408]


def test_wma_factors_are_the_decay_shapes_of_the_schedules():
    assert FACTORS.keys() == shapes.FACTORS.keys()
    r = np.linspace(0, 1, 101)
    for name, factor in FACTORS.items():
        np.testing.assert_array_equal(factor(r), shapes.FACTORS[name](r))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9), st.floats(1e-3, 1e3), st.floats(-5, 5))
def test_a_metric_weighs_by_its_differences_alone_the_best_most(losses, temperature, shift):
    found = metric_weights(losses, temperature)
    assert found.sum() == pytest.approx(1, abs=1e-12) and (found >= 0).all()
    for i, j in itertools.product(range(len(losses)), repeat=2):  # the ratio of two weights is the definition
        if losses[j] >= losses[i]:
            assert found[j] == pytest.approx(found[i] * np.exp((losses[i] - losses[j]) / temperature), rel=1e-9, abs=1e-300)
    np.testing.assert_allclose(metric_weights(np.array(losses) + shift, temperature), found, rtol=1e-6, atol=1e-9)


def test_a_metric_at_a_high_temperature_is_the_plain_mean_and_at_a_low_one_the_best_checkpoint():
    losses = [2.0, 1.9, 2.1]
    np.testing.assert_allclose(metric_weights(losses, 1e6), np.full(3, 1 / 3), rtol=1e-6)
    assert metric_weights(losses, 1e-4).tolist() == [0, 1, 0]


def test_weighing_by_the_mean_loss_of_n_tokens_at_one_over_n_is_the_posterior_of_the_checkpoints():
    tokens = 37
    nats = np.random.default_rng(0).gamma(2, size=(4, tokens))  # of every token under every checkpoint
    likelihood = np.exp(-nats.sum(axis=1))
    np.testing.assert_allclose(metric_weights(nats.mean(axis=1), 1 / tokens), likelihood / likelihood.sum(), rtol=1e-9)


@pytest.mark.parametrize(("losses", "temperature"), [([1.0], 0.0), ([1.0], float("nan")), ([], 1.0), ([1.0, float("nan")], 1.0)])
def test_a_metric_that_gives_no_weights_is_refused(losses, temperature):
    with pytest.raises(ConfigError, match="of a metric-weighted average: found"):
        metric_weights(losses, temperature)


def test_given_weights_are_used_as_they_are_newest_first():
    assert weights(Averaging(kind="weights", last=3, weights=(1.5, -0.25, -0.25))).tolist() == [1.5, -0.25, -0.25]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(kind="none"), "config.averaging.kind: found 'none', must be one of sma"),
        (dict(kind="sma", last=0), "config.averaging.last: found 0, must be at least 1"),
        (dict(kind="ema", alpha=1.0), "config.averaging.alpha: found 1.0, must lie between 0 and 1"),
        (dict(kind="wma", shape="inverse"), "config.averaging.shape: found 'inverse', wma needs a shape that falls to 0"),
        (dict(kind="weights", last=3, weights=(0.5, 0.5)), "config.averaging.weights: found 2 weights, must be config.averaging.last = 3"),
        (dict(kind="weights", last=2, weights=(0.5, 0.4)), "config.averaging.weights: they sum to 0.9, must sum to 1"),
        (dict(kind="weights", last=2, weights=(float("nan"), 0.4)), "config.averaging.weights: they sum to nan"),
    ],
)
def test_what_gives_no_average_is_refused_in_one_line(fields, message):
    with pytest.raises(ConfigError, match=message):
        weights(Averaging(**fields))
