"""How well training curves determine a law, and whether the intervals keep their word."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws import baselines, converged, uncertainty
from kaiyuan_jax.schedules.laws.curves import Curve

THETA = baselines.ONE_POWER.theta(dict(L0=2.8, A=0.6, alpha=0.5))


def correlated(generator, size, deviation=2e-3, keep=0.8):
    noise = np.empty(size)
    noise[0] = generator.normal()
    for i in range(1, size):
        noise[i] = keep * noise[i - 1] + np.sqrt(1 - keep**2) * generator.normal()
    return deviation * noise


def observed(seed):
    """A constant and a cosine run of a one-power law with correlated noise."""
    generator, step = np.random.default_rng(seed), np.arange(20_000)
    curves = []
    for name, shape in (("constant", np.ones(20_000)), ("cosine", 0.5 * (1.1 + 0.9 * np.cos(np.pi * step / 20_000)))):
        curve = Curve(name, np.arange(500, 20_000, 100), np.ones(195), 3e-4 * shape, 0)
        clean = baselines.ONE_POWER.evaluate(baselines.ONE_POWER.prepare([curve]), THETA)
        curves.append(dataclasses.replace(curve, losses=clean * np.exp(correlated(generator, clean.size))))
    return curves


def test_scatter_finds_deviation_and_correlation():
    generator = np.random.default_rng(0)
    parts = [correlated(generator, 4000) for _ in range(5)]
    deviation, length = uncertainty.scatter(parts)
    assert deviation == pytest.approx(2e-3, rel=0.1)
    assert length == pytest.approx((1 + 0.8) / (1 - 0.8), rel=0.25)
    assert uncertainty.scatter([generator.normal(size=4000)])[1] == pytest.approx(1, abs=0.3)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = []
    for seed in range(25):
        curves = observed(seed)
        fit = uncertainty.attach(converged.fit(baselines.ONE_POWER, curves, starts=2), curves)
        ends = uncertainty.interval(fit, 0.9)
        hits += [ends[name][0] <= value <= ends[name][1] for name, value in baselines.ONE_POWER.values(THETA).items()]
    assert 0.75 <= np.mean(hits) <= 0.99, np.mean(hits)


def test_samples_have_the_covariance():
    curves = observed(0)
    fit = uncertainty.attach(converged.fit(baselines.ONE_POWER, curves, starts=2), curves)
    draws = uncertainty.samples(fit, 20_000, seed=1)
    np.testing.assert_allclose(draws.mean(axis=0), fit.theta, atol=4 * np.sqrt(np.diag(fit.covariance).max() / 20_000))
    np.testing.assert_allclose(np.cov(draws.T), fit.covariance, rtol=0.1, atol=1e-9)


def test_without_a_covariance_there_is_nothing_to_vary():
    fit = converged.fit(baselines.ONE_POWER, observed(0), starts=2)
    assert np.all(uncertainty.samples(fit, 3) == fit.theta)
    assert all(low == high for low, high in uncertainty.interval(fit).values())


def test_longer_correlation_widens_the_intervals():
    curves = observed(0)
    fit = converged.fit(baselines.ONE_POWER, curves, starts=2)
    shuffled = [dataclasses.replace(curve) for curve in curves]
    generator = np.random.default_rng(0)
    clean = np.split(fit.law.evaluate(fit.law.prepare(curves), fit.theta), 2)
    for curve, prediction in zip(shuffled, clean, strict=True):
        curve.losses[:] = prediction * np.exp(generator.permutation(np.log(curve.losses / prediction)))
    loose = uncertainty.attach(fit, shuffled).covariance
    tight = uncertainty.attach(fit, observed(0)).covariance
    assert np.all(np.diag(tight) > 3 * np.diag(loose))


def test_a_short_curve_beside_long_ones_changes_nothing():
    generator = np.random.default_rng(0)
    parts = [correlated(generator, 400) for _ in range(3)]
    alone, beside = uncertainty.scatter(parts), uncertainty.scatter([*parts, correlated(generator, 4)])
    np.testing.assert_allclose(beside, alone, rtol=0.05)
