"""The released procedure's own numbers, and its quirks."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import huber, metrics, multi_power, reference
from kaiyuan_jax.schedules.laws.catalogue import LAWS
from tests.schedules.laws import released
from tests.schedules.laws.synthetic import generated

VALUES = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}

# What running the released code gives: parameters, steps until it stops, its lowest loss, and the means over the six test curves.
RUN = {
    25: {
        "values": {"L0": 3.040454, "A": 0.524687, "alpha": 0.507868, "B": 363.7887, "C": 2.065612, "beta": 0.582791, "gamma": 0.641423},
        "steps": 101,
        "lowest": 2.786e-4,
        "kept": 2.912e-4,
        "mean": {"r2": 0.9988023, "mae": 0.0037598, "rmse": 0.0046515, "prede": 0.0011021, "worste": 0.0040947},
    },
    100: {
        "values": {"L0": 2.6514, "A": 0.6012, "alpha": 0.4530, "B": 437.946, "C": 2.1325, "beta": 0.5979, "gamma": 0.6552},
        "steps": 108,
        "lowest": 2.751e-4,
        "kept": 2.810e-4,
        "mean": {"r2": 0.99830, "mae": 0.004348, "rmse": 0.005919, "prede": 0.001425, "worste": 0.005829},
    },
}
DIGITS = {25: 1e-4, 100: 4e-4}  # at 100M the numbers are known to four digits only


@pytest.mark.parametrize("size", sorted(RUN))
def test_the_released_run_is_reproduced(size):
    run, curves = RUN[size], released.curves(size)
    fit = reference.fit(multi_power.LAW, curves)
    assert fit.details["steps"] == run["steps"]
    assert fit.values == pytest.approx(run["values"], rel=DIGITS[size] / 4)
    assert fit.details["lowest"] == pytest.approx(run["lowest"], rel=3e-4)
    assert fit.objective == pytest.approx(run["kept"], rel=3e-4)
    found = metrics.measure(fit.law, fit.theta, curves, released.curves(size, released.TEST), [])["mean"]
    assert {key: found[key] for key in run["mean"]} == pytest.approx(run["mean"], rel=DIGITS[size])


def test_the_parameters_kept_are_those_after_the_step_whose_loss_was_lowest():
    curves = generated(multi_power.LAW, VALUES, noise=1e-3)
    fit = reference.fit(multi_power.LAW, curves)
    losses = np.concatenate([curve.losses for curve in curves])
    own = huber.huber(huber.residuals(losses, fit.law.evaluate(fit.law.prepare(curves), fit.theta))).sum()
    assert fit.objective == pytest.approx(own) and fit.objective != pytest.approx(fit.details["lowest"], rel=1e-6)


def test_b_hardly_leaves_the_value_of_the_linear_law():
    fit = reference.fit(multi_power.LAW, generated(multi_power.LAW, VALUES, noise=1e-3))
    steps = fit.details["steps"]
    most = fit.details["linear"]["B"] * (1 - (1 - 0.05 * 0.01) ** steps) + 2 * 0.05 * steps
    assert 0 < abs(fit.values["B"] - fit.details["linear"]["B"]) < most


def test_adamw_takes_steps_of_its_rates_and_shrinks_the_parameters(monkeypatch):
    monkeypatch.setattr(reference, "MOST", 1)
    law, curves = multi_power.LAW, generated(multi_power.LAW, VALUES)
    prepared, start = law.prepare(curves), np.array(list(VALUES.values()))
    targets = np.log(np.concatenate([curve.losses for curve in curves])) + 0.01  # predictions are too low everywhere
    kept, _, steps = reference.adamw(law, prepared, targets, start)
    rates = np.array(list(reference.RATES.values()))
    # A first step of Adam is the rate times the sign of the gradient; weight decay comes before it, in proportion to the parameter.
    np.testing.assert_allclose(np.abs(kept - start * (1 - 0.01 * rates)), rates, rtol=0.02)  # B's gradient is near epsilon
    assert steps == 1 and kept[0] > start[0] and kept[1] > start[1]


def test_laws_that_the_release_does_not_fit_are_refused():
    with pytest.raises(UserError, match="protocol: found 'reference' for the law momentum"):
        reference.fit(LAWS["momentum"], generated(multi_power.LAW, VALUES))


@pytest.mark.filterwarnings("error")
def test_parameters_that_the_steps_take_below_zero_are_refused(monkeypatch):
    curves = generated(multi_power.LAW, VALUES)
    monkeypatch.setitem(reference.RATES, "A", 1.0)  # as where B is small because rates are of order one
    with pytest.raises(UserError, match="reference steps to A = -.*, where the law has no meaning .*; take robust or converged"):
        reference.fit(multi_power.LAW, [dataclasses.replace(curve, losses=0.9 * curve.losses) for curve in curves])
