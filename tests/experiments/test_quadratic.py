"""The quadratic model: exact where it can be counted by hand, equal to its own simulation, and with the rates that theory gives it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.experiments import quadratic

ORDERS = ("uniform", "ascending", "descending", "folded")
SIZES = np.array([1000, 3000, 10_000, 30_000])


@pytest.fixture(scope="module")
def regimes():
    found = [quadratic.regimes(size) for size in SIZES.tolist()]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=40), st.integers(0, 9))
def test_weights_of_samples_are_those_of_the_recursion(rates, seed):
    rates, random = np.array(rates), np.random.default_rng(seed)
    kept, samples = random.random(len(rates)), random.normal(size=len(rates))
    w, total = 0.0, 0.0
    for rate, sample, share in zip(rates, samples, kept, strict=True):
        w += rate * (sample - w)
        total += share * w
    assert quadratic.sample_weights(rates, kept) @ samples == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("kind, kept", [("wsd", quadratic.last(120, 4, every=5)), ("constant", quadratic.last(120))])
@pytest.mark.parametrize("order", ORDERS)
def test_the_expected_loss_is_the_mean_of_simulated_runs(order, kind, kept):
    rates = quadratic.rates(kind, 120, end=0.1)
    losses = quadratic.simulated_loss(order, rates, kept, runs=4000)
    assert abs(losses.mean() - quadratic.expected_loss(order, rates, kept)) < 4 * losses.std() / np.sqrt(len(losses))


def test_a_rate_of_one_over_the_step_weighs_all_samples_alike():
    rates = 1 / np.arange(1.0, 51)
    np.testing.assert_allclose(quadratic.sample_weights(rates, quadratic.last(50)), 1 / 50)
    # then nothing is left of the order but the mean of all qualities, 1/2
    assert quadratic.expected_loss("ascending", rates, quadratic.last(50)) == pytest.approx(0.5 * (0.25 + 1 / 50))


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_has_the_qualities_of_the_others(order):
    mean, variance = quadratic.qualities(order, 300)
    assert mean.mean() == pytest.approx(0.5)
    assert np.mean(variance + mean**2) == pytest.approx(1 / 3, abs=1e-4)


def test_uniform_order_is_flat_whatever_the_schedule(regimes):
    for name in ("uniform, decay", "uniform, average"):
        assert np.all(regimes[name] > 0.125) and regimes[name][-1] < 0.13
        assert abs(quadratic.exponent(SIZES, regimes[name])) < 0.03


def test_ascending_order_with_an_average_falls_as_the_two_thirds_power(regimes):
    assert quadratic.exponent(SIZES, regimes["ascending, average"]) == pytest.approx(-2 / 3, abs=0.01)


def test_ascending_order_with_a_decay_to_zero_lies_between(regimes):
    assert quadratic.exponent(SIZES, regimes["ascending, decay"]) == pytest.approx(-1 / 2, abs=0.04)
    assert np.all(regimes["ascending, average"] < regimes["ascending, decay"])
    assert np.all(regimes["ascending, decay"] < regimes["uniform, decay"])


def test_a_rate_that_drops_at_once_keeps_what_it_forgot(regimes):
    assert np.all(regimes["ascending, drop"] > 0.2**2 / 2) and abs(quadratic.exponent(SIZES, regimes["ascending, drop"])) < 0.01


def test_an_average_pays_under_a_constant_rate_more_than_after_a_deep_decay():
    steps, kept = 3000, [quadratic.last(3000), quadratic.last(3000, 6, every=30)]
    left = {}
    for end in (1.0, 1 / 300):
        rates = quadratic.rates("wsd", steps, end=end)
        final, mean = (quadratic.expected_loss("ascending", rates, one) for one in kept)
        left[end] = mean / final
    assert left[1.0] < 0.4 and 0.8 < left[1 / 300] < 1


def test_ascending_is_better_at_every_end_rate():
    gaps = quadratic.gaps(300, (1.0, 0.1, 1 / 300))
    assert all(np.all(values > 0.1) for values in gaps.values())


def test_an_unknown_order_is_refused():
    with pytest.raises(ConfigError, match="must be one of uniform, ascending"):
        quadratic.qualities("sideways", 10)
