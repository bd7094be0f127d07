"""The default protocol predicts schedules that its training curves do not show."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws import baselines, converged, fading, metrics, multi_power, robust
from kaiyuan_jax.schedules.laws.curves import Curve
from tests.schedules.laws import released

# Test means of the released procedure (2503.12811, released README): MAE, RMSE, WorstE.
RELEASED_PROCEDURE = {25: (0.003760, 0.004652, 0.004095), 100: (0.004348, 0.005919, 0.005829)}


def truth(**changes):
    shape = dict(zip(robust.SHAPE, robust.RELEASED.mean, strict=True)) | {"C": np.exp(robust.RELEASED.mean[0])}
    return fading.LAW.theta(dict(L0=3.0, A=0.6, alpha=0.5, B=500.0) | shape | changes)


def synthetic(theta, noise=0.0, seed=0):
    """Cosine, constant and two-stage to train on, WSD to test on: curves that the law itself draws."""
    step, generator = np.arange(12_000), np.random.default_rng(seed)
    shapes = {
        "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * step / 12_000)),
        "constant": np.ones(12_000),
        "two_stage": np.where(step < 6000, 1.0, 0.3),
        "wsd": np.clip((12_000 - step) / 2000, 0.1, 1),
    }
    curves = []
    for name, shape in shapes.items():
        rates = 3e-4 * shape * np.minimum(1, step / 600)
        curve = Curve(name, np.arange(800, 12_000, 100), np.ones(112), rates, 600)
        losses = fading.LAW.evaluate(fading.LAW.prepare([curve]), theta)
        curves.append(dataclasses.replace(curve, losses=losses * np.exp(noise * generator.normal(size=losses.size))))
    return curves[:3], curves[3]


def error(fit, curve):
    return metrics.of_curve(curve.losses, metrics.predictions(fit.law, fit.theta, [curve])[0])["mae"]


def test_curves_of_a_kernel_as_the_prior_has_it_are_predicted_to_a_ten_thousandth():
    train, test = synthetic(truth())
    fit = robust.fit(multi_power.LAW, train)
    assert fit.law is fading.LAW
    assert error(fit, test) < 1e-4


def test_curves_that_speak_clearly_overrule_the_prior():
    theta = truth(beta=robust.RELEASED.mean[1] + 4 * robust.DEVIATION[1])
    train, test = synthetic(theta)
    fit = robust.fit(multi_power.LAW, train)
    stubborn = dataclasses.replace(robust.RELEASED, deviation=robust.DEVIATION / 100)
    assert fit.details["moved"]["beta"] > 0.5
    assert error(fit, test) < 0.8 * error(robust.fit(multi_power.LAW, train, prior=stubborn), test)


def test_curves_that_say_little_leave_the_shape_where_the_prior_has_it():
    train, test = synthetic(truth(), noise=0.01)
    fit = robust.fit(multi_power.LAW, train)
    free = converged.fit(fading.LAW, train, starts=8)
    assert all(abs(moved) < 1.5 for moved in fit.details["moved"].values())
    assert error(fit, test) < error(free, test) + 1e-4


def test_a_law_without_a_prior_is_fitted_to_its_minimum():
    train, _ = synthetic(truth())
    fit = robust.fit(baselines.ONE_POWER, train)
    assert fit.protocol == "robust"
    np.testing.assert_array_equal(fit.theta, converged.fit(baselines.ONE_POWER, train).theta)


@pytest.fixture(scope="module")
def nine():
    return {size: converged.fit(fading.LAW, released.curves(size, released.TRAIN + released.TEST), starts=4) for size in released.SIZES}


@pytest.mark.parametrize("size", released.SIZES)
def test_with_the_other_size_as_prior_every_measure_beats_the_released_procedure(nine, size):
    prior = robust.prior_of([fit for other, fit in nine.items() if other != size], "the other size")
    train, test = released.curves(size, released.TRAIN), released.curves(size, released.TEST)
    fit = robust.fit(multi_power.LAW, train, prior=prior)
    measured = metrics.measure(fit.law, fit.theta, train, test, [("cosine_24000", "wsd_20000_24000")])
    for key, theirs in zip(("mae", "rmse", "worste"), RELEASED_PROCEDURE[size], strict=True):
        assert measured["mean"][key] < theirs
    assert abs(measured["pairs"]["cosine_24000-wsd_20000_24000"]["gap_error"]) < 0.010


def test_the_shipped_prior_is_the_mean_of_the_released_sizes(nine):
    np.testing.assert_allclose(robust.RELEASED.mean, robust.prior_of(list(nine.values()), "").mean, atol=5e-3)
