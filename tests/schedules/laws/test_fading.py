"""The multi-power law with a gain that fades."""

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws import fading, multi_power
from kaiyuan_jax.schedules.laws.curves import Curve

THETA = fading.LAW.theta(dict(L0=3.1, A=0.55, alpha=0.48, B=480.0, C=270.0, beta=0.3, gamma=0.45, fading=0.15))


@pytest.fixture(scope="module")
def curves():
    step = np.arange(6000)
    wsd = 3e-4 * np.clip((6000 - step) / 1500, 0.1, 1)
    cosine = 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * step / 6000))
    warm = np.minimum(1, step / 300)
    return [Curve(name, np.arange(400, 6000, 100), np.ones(56), rates * warm, 300) for name, rates in (("wsd", wsd), ("cosine", cosine))]


def test_without_fading_it_is_the_law_as_written(curves):
    theta = THETA.copy()
    theta[-1] = 0
    nodes = fading.LAW.prepare(curves)
    np.testing.assert_allclose(
        fading.LAW.evaluate(nodes, theta), multi_power.AFTER_WARMUP.evaluate(nodes, fading.plain(theta)), rtol=0, atol=1e-13
    )


def test_the_gain_shrinks_by_the_power_of_the_summed_rate(curves):
    nodes, still = fading.LAW.prepare(curves), THETA.copy()
    still[-1] = 0
    level = 3.1 + 0.55 * nodes.total**-0.48
    fading_gain, still_gain = level - fading.LAW.evaluate(nodes, THETA), level - fading.LAW.evaluate(nodes, still)
    assert np.sum(still_gain > 1e-6) > 50
    np.testing.assert_allclose(fading_gain, still_gain * (nodes.total / 2.4) ** -0.15, rtol=1e-6, atol=1e-12)


def test_the_jacobian_is_the_derivative(curves):
    nodes = fading.LAW.prepare(curves)
    loss, columns = fading.LAW.jacobian(nodes, THETA)
    np.testing.assert_allclose(loss, fading.LAW.evaluate(nodes, THETA), rtol=0, atol=1e-13)
    for i in range(THETA.size):
        step = np.zeros(THETA.size)
        step[i] = 1e-5
        difference = (fading.LAW.evaluate(nodes, THETA + step) - fading.LAW.evaluate(nodes, THETA - step)) / 2e-5
        np.testing.assert_allclose(columns[:, i], difference, rtol=1e-5, atol=1e-9, err_msg=fading.LAW.parameters[i])


def test_starting_points_are_losses(curves):
    measured = [Curve(c.name, c.steps, np.full(c.steps.size, 3.3), c.rates, c.warmup) for c in curves]
    nodes = fading.LAW.prepare(measured)
    for point in fading.LAW.starts(measured, np.random.default_rng(0), 20):
        predicted = fading.LAW.evaluate(nodes, point)
        assert np.all((predicted > 0) & (predicted < 30))
