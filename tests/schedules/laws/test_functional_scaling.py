"""The functional scaling law's practical form against its formula; only falls of the rate count."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.functional_scaling import LAW
from tests.schedules.laws.synthetic import WARMUP, blank

VALUES = {"L0": 3.0, "c1": 0.5, "s": 0.5, "c2": 150.0, "c3": 0.8, "c4": 30.0, "g": 0.7}


def formula(curve):
    L0, c1, s, c2, c3, c4, g = VALUES.values()
    rates, total = curve.rates, np.cumsum(curve.rates)
    found = []
    for k in curve.steps:
        i = np.arange(max(curve.warmup, 0) + 1, k + 1)
        falls = np.maximum(rates[i - 1] - rates[i], 0.0)
        gain = np.sum(falls * (c3 + total[i] ** -s) * (1 - (1 + c4 * (total[k] - total[i])) ** -g))
        found.append(L0 + c1 * total[k] ** -s - c2 * gain)
    return np.array(found)


def test_the_law_is_the_formula():
    for curve in blank(steps=1200, stride=90):
        np.testing.assert_allclose(LAW.evaluate(LAW.prepare([curve]), LAW.theta(VALUES)), formula(curve), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), length=st.integers(2, 400))
def test_the_law_is_the_formula_on_rates_that_rise_and_fall(seed, length):
    generator = np.random.default_rng(seed)
    rates = np.where(generator.uniform(size=length) < 0.5, generator.uniform(1e-5, 3e-4, length), 2e-4)
    curve = Curve("random", np.arange(length), np.ones(length), rates, 0)
    np.testing.assert_allclose(LAW.evaluate(LAW.prepare([curve]), LAW.theta(VALUES)), formula(curve), rtol=1e-6)


def test_the_warm_up_adds_nothing_but_its_intrinsic_time():
    curve = blank()[1]
    total = np.cumsum(curve.rates)[curve.steps]
    assert curve.warmup == WARMUP - 1
    np.testing.assert_allclose(LAW.evaluate(LAW.prepare([curve]), LAW.theta(VALUES)), 3 + 0.5 * total**-0.5, rtol=1e-14)
