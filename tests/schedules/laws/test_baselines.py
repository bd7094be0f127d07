"""Laws without memory: their formulas, what they cannot see, and the multi-power law of which they are limits."""

import numpy as np

from kaiyuan_jax.schedules.laws import baselines, multi_power
from tests.schedules.laws.synthetic import PEAK, blank

POWER = {"L0": 3.0, "A": 0.5, "alpha": 0.5}
GAIN = {"B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}


def predicted(law, curves, values):
    return law.evaluate(law.prepare(curves), law.theta(values))


def test_one_power_is_a_power_of_the_summed_rate():
    for curve in blank():
        total = np.cumsum(curve.rates)[curve.steps]
        np.testing.assert_allclose(predicted(baselines.ONE_POWER, [curve], POWER), 3 + 0.5 / np.sqrt(total), rtol=1e-14)


def test_chinchilla_in_steps_counts_updates_and_is_blind_to_the_schedule():
    cosine, constant, _ = blank()
    values = {"L0": 3.0, "A": 50.0, "alpha": 0.5}
    seen = predicted(baselines.CHINCHILLA_STEPS, [constant], values)
    np.testing.assert_allclose(seen, 3 + 50 / np.sqrt(constant.steps + 1), rtol=1e-14)
    np.testing.assert_array_equal(predicted(baselines.CHINCHILLA_STEPS, [cosine], values), seen)


def test_linear_law_gains_at_once_what_the_rate_has_fallen_from_its_peak():
    curves = blank()
    gained = predicted(baselines.ONE_POWER, curves, POWER) - predicted(baselines.LINEAR, curves, POWER | {"B": 400.0})
    fallen = np.concatenate([PEAK - curve.rates[curve.steps] for curve in curves])
    np.testing.assert_allclose(gained, 400 * fallen, atol=1e-14)


def test_memoryless_laws_are_limits_of_the_multi_power_law():
    curves = blank()
    no_gain = predicted(multi_power.AFTER_WARMUP, curves, POWER | GAIN | {"B": 1e-12})
    np.testing.assert_allclose(no_gain, predicted(baselines.ONE_POWER, curves, POWER), rtol=1e-14)
    at_once = predicted(multi_power.AFTER_WARMUP, curves, POWER | GAIN | {"C": 1e40})
    np.testing.assert_allclose(at_once, predicted(baselines.LINEAR, curves, POWER | {"B": 400.0}), rtol=1e-9)
