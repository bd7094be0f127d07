"""What every law keeps: its derivatives, the order of curves, parameters by name and starts in any units."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws.catalogue import LAWS
from tests.schedules.laws.synthetic import blank

EVERY = pytest.mark.parametrize("name", sorted(LAWS))


def start(law, curves, seed=0):
    return law.starts(curves, np.random.default_rng(seed), 1)[0]


def test_laws_are_found_by_their_own_names():
    assert all(law.name == name for name, law in LAWS.items())
    assert {"multi_power", "one_power", "chinchilla_steps", "linear", "multi_exponential", "momentum", "functional_scaling"} <= set(LAWS)


@EVERY
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_derivatives_are_those_of_central_differences(name, seed):
    law, curves = LAWS[name], blank(steps=1200, stride=150)
    prepared, theta = law.prepare(curves), start(law, curves, seed)
    loss, columns = law.jacobian(prepared, theta)
    np.testing.assert_allclose(loss, law.evaluate(prepared, theta), rtol=1e-12)
    width = 1e-5
    for p, column in enumerate(columns.T):
        step = width * (np.arange(theta.size) == p)
        difference = (law.evaluate(prepared, theta + step) - law.evaluate(prepared, theta - step)) / (2 * width)
        np.testing.assert_allclose(column, difference, rtol=1e-6, atol=1e-7 * np.abs(difference).max() + 1e-9)


@EVERY
def test_curves_prepared_together_come_back_in_order(name):
    law, curves = LAWS[name], blank()
    theta = start(law, curves)
    alone = [law.evaluate(law.prepare([curve]), theta) for curve in curves]
    np.testing.assert_allclose(law.evaluate(law.prepare(curves), theta), np.concatenate(alone), rtol=1e-13)


@EVERY
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_parameters_by_name_and_theta_are_inverses(name, seed):
    law = LAWS[name]
    theta = start(law, blank(), seed)
    values = law.values(theta)
    assert tuple(values) == law.parameters and all(value > 0 for value, logged in zip(values.values(), law.logged, strict=True) if logged)
    np.testing.assert_allclose(law.theta(values), theta, rtol=1e-13)


@pytest.mark.parametrize("name", sorted(set(LAWS) - {"multi_power_fading"}))  # which quotes B and C at one rate
@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_starts_say_the_same_in_any_unit_of_the_rate(name, scale):
    law, curves = LAWS[name], blank()
    scaled = [dataclasses.replace(curve, rates=scale * curve.rates) for curve in curves]
    for seed in range(3):
        here = law.evaluate(law.prepare(curves), start(law, curves, seed))
        there = law.evaluate(law.prepare(scaled), start(law, scaled, seed))
        np.testing.assert_allclose(there, here, rtol=1e-6)


@EVERY
def test_starts_predict_finite_positive_losses(name):
    law, curves = LAWS[name], blank()
    prepared = law.prepare(curves)
    for theta in law.starts(curves, np.random.default_rng(1), 50):
        predicted = law.evaluate(prepared, theta)
        assert np.isfinite(predicted).all() and (predicted > 0).all()


@EVERY
def test_starts_depend_on_nothing_but_the_generator(name):
    law, curves = LAWS[name], blank()
    first, again, other = (law.starts(curves, np.random.default_rng(seed), 4) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, len(law.parameters)) and (first != other).any(axis=0).all()
