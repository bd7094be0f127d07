"""The multi-power law against its formula, its limits, and the parameters that 2503.12811 published."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws import huber, multi_power
from kaiyuan_jax.schedules.laws.curves import Curve
from tests.schedules.laws.released import curves as released_curves
from tests.schedules.laws.synthetic import WARMUP, blank

VALUES = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}
RISING = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 0.02, "beta": 2.0, "gamma": 0.9}


def formula(curve, values, first):
    """The law written out, one term after another."""
    L0, A, alpha, B, C, beta, gamma = values.values()
    rates, found = curve.rates, []
    for s in curve.steps:
        gain = 0.0
        for k in range(first, s + 1):
            if rates[k - 1] != rates[k]:
                gain += (rates[k - 1] - rates[k]) * (1 - (1 + C * rates[k] ** -gamma * rates[k : s + 1].sum()) ** -beta)
        found.append(L0 + A * rates[: s + 1].sum() ** -alpha - B * gain)
    return np.array(found)


@pytest.mark.parametrize("values", [VALUES, RISING], ids=["published shape", "steep shape"])
def test_both_readings_are_the_formula(values):
    for curve in blank(steps=1200, stride=170):
        for law, first in ((multi_power.LAW, 1), (multi_power.AFTER_WARMUP, WARMUP)):
            predicted = law.evaluate(law.prepare([curve]), law.theta(values))
            np.testing.assert_allclose(predicted, formula(curve, values, first), atol=1e-6)


def test_the_warm_up_inside_the_sum_takes_back_almost_b_times_the_peak():
    curve = blank(steps=24_000, stride=1000)[1]
    inside, after = (law.evaluate(law.prepare([curve]), law.theta(VALUES)) for law in (multi_power.LAW, multi_power.AFTER_WARMUP))
    raised = inside - after
    assert (raised > 0).all() and (np.diff(raised) > 0).all() and raised[-1] == pytest.approx(400 * 3e-4, rel=0.15)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), length=st.integers(2, 300))
def test_the_readings_are_one_without_a_warm_up(seed, length):
    rates = np.random.default_rng(seed).uniform(1e-5, 3e-4, length)
    curve = Curve("random", np.arange(length), np.ones(length), rates, 0)
    inside, after = (law.evaluate(law.prepare([curve]), law.theta(VALUES)) for law in (multi_power.LAW, multi_power.AFTER_WARMUP))
    np.testing.assert_allclose(inside, after, rtol=1e-14)


def test_a_constant_rate_gains_nothing_after_the_warm_up():
    curve, law = blank()[1], multi_power.AFTER_WARMUP
    prepared = law.prepare([curve])
    loss, columns = law.jacobian(prepared, law.theta(VALUES))
    np.testing.assert_allclose(loss, 3.0 + 0.5 * np.cumsum(curve.rates)[curve.steps] ** -0.5, rtol=1e-14)
    assert not columns[:, 3:].any()


@pytest.mark.parametrize("lnC", [-80.0, 0.0, 80.0])
def test_rates_down_to_zero_stay_finite(lnC):
    rates = np.concatenate([np.full(50, 3e-4), np.geomspace(3e-4, 1e-30, 50), np.zeros(20)])
    law = multi_power.LAW
    theta = law.theta(VALUES)
    theta[4] = lnC
    prepared = law.prepare([Curve("to zero", np.arange(40, 120), np.ones(80), rates, 0)])
    loss, columns = law.jacobian(prepared, theta)
    assert np.isfinite(loss).all() and np.isfinite(columns).all() and np.isfinite(law.evaluate(prepared, theta)).all()


@pytest.mark.parametrize(
    ("size", "published", "measured"),
    [
        (25, (3.0405, 0.5247, 0.5079, 363.788, 2.0656, 0.5828, 0.6414), 2.912e-4),
        (100, (2.6514, 0.6012, 0.4530, 437.946, 2.1325, 0.5979, 0.6552), 2.810e-4),
    ],
    ids=["25M", "100M"],
)
def test_published_parameters_have_the_objective_measured_with_the_released_code(size, published, measured):
    law, curves = multi_power.LAW, released_curves(size)
    theta = law.theta(dict(zip(law.parameters, published, strict=True)))
    residuals = huber.residuals(np.concatenate([curve.losses for curve in curves]), law.evaluate(law.prepare(curves), theta))
    assert huber.huber(residuals).sum() == pytest.approx(measured, rel=0.01)  # published to four digits
