"""Forecasts: the law's own prediction, a band that holds what it promises, and the step at which a run leaves it."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws import catalogue, forecast
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

LAW = catalogue.LAWS["multi_power"]
THETA = LAW.theta(dict(L0=3.0, A=0.5, alpha=0.5, B=300.0, C=2.0, beta=0.5, gamma=0.6))
RATES = np.concatenate([np.linspace(0, 3e-4, 101), np.full(1500, 3e-4), np.linspace(3e-4, 3e-5, 500)])
STEPS = np.arange(100, RATES.size, 25)
CURVE = Curve("a", STEPS, np.ones(STEPS.size), RATES, 100)


def fit(covariance=None, **bands):
    return Fit(LAW, "converged", THETA, 0.0, ("a",), covariance, {}, bands)


def test_the_forecast_is_the_law_and_without_uncertainty_the_band_is_a_line():
    loss, low, high = forecast.predict(fit(), RATES, STEPS)
    np.testing.assert_allclose(loss, LAW.evaluate(LAW.prepare([CURVE]), THETA), rtol=1e-12)
    np.testing.assert_array_equal(low, loss)
    np.testing.assert_array_equal(high, loss)


def test_the_band_holds_nine_in_ten_of_the_losses_it_describes():
    random = np.random.default_rng(0)
    deviations = np.array([0.01, 0.02, 0.01, 0.05, 0.1, 0.02, 0.01])
    made = fit(np.diag(deviations**2), residual=0.004, model={"scale": 0.003})
    loss, low, high = forecast.predict(made, RATES, STEPS)
    prepared, inside = LAW.prepare([CURVE]), []
    for theta in random.normal(THETA, deviations, (400, 7)):
        run = np.log(LAW.evaluate(prepared, theta)) + random.normal(0, 0.003) + random.normal(0, 0.004, STEPS.size)
        inside.append((run > np.log(low)) & (run < np.log(high)))
    assert np.mean(inside) == pytest.approx(forecast.COVERAGE, abs=0.03)
    assert np.all((low < loss) & (loss < high))


def test_each_part_of_the_uncertainty_widens_the_band():
    width = lambda made: np.subtract(*forecast.predict(made, RATES, STEPS)[:0:-1])  # noqa: E731
    parts = [fit(residual=1e-3), fit(model={"scale": 1e-3}), fit(np.eye(7) * 1e-6)]
    for part in parts:
        together = dataclasses.replace(part, bands={"residual": 2e-3, "model": {"scale": 2e-3}}, covariance=np.eye(7) * 2e-6)
        assert np.all(width(part) > 0) and np.all(width(together) > width(part))


def test_a_run_leaves_the_band_where_five_points_in_a_row_are_outside_on_one_side():
    made = fit(residual=1e-3)
    loss, _, high = forecast.predict(made, RATES, STEPS)
    outside = 1.01 * high
    assert forecast.leaves(made, dataclasses.replace(CURVE, losses=loss)) is None
    for first, count, expected in ((20, 4, None), (20, 5, STEPS[20]), (70, 14, STEPS[70])):
        losses = loss.copy()
        losses[first : first + count] = outside[first : first + count]
        assert forecast.leaves(made, dataclasses.replace(CURVE, losses=losses)) == expected
    both = loss.copy()
    both[30:40:2], both[31:40:2] = outside[30:40:2], 0.9 * loss[31:40:2]  # noise on both sides is no departure
    assert forecast.leaves(made, dataclasses.replace(CURVE, losses=both)) is None
    both[50:56], both[20:26] = outside[50:56], 0.9 * loss[20:26]
    assert forecast.leaves(made, dataclasses.replace(CURVE, losses=both)) == STEPS[20]
    assert forecast.leaves(made, dataclasses.replace(CURVE, losses=outside), in_a_row=1) == STEPS[0]
    short = dataclasses.replace(CURVE, steps=STEPS[:3], losses=outside[:3])
    assert forecast.leaves(made, short) is None


def test_forecasts_far_beyond_the_training_curves_or_at_another_peak_are_doubted():
    known = dataclasses.replace(fit(), details={"reach": forecast.reach([CURVE])})
    assert forecast.doubts(known, "x", RATES) == []
    assert forecast.doubts(fit(), "x", 5 * RATES) == []  # a fit that does not say what it was made of
    (far,) = forecast.doubts(known, "x", np.concatenate([RATES, np.full(9000, 1e-4)]))
    assert "an extrapolation" in far
    (peak,) = forecast.doubts(known, "x", 2 * RATES)
    assert "its peak rate is 0.0006, that of the training curves 0.0003" in peak


def test_a_limit_below_zero_is_implausible():
    assert forecast.implausible(fit()) == []
    (sentence,) = forecast.implausible(dataclasses.replace(fit(), theta=np.array([-190.0, *THETA[1:]])))
    assert "is fitted as -190: the curves are too short" in sentence
