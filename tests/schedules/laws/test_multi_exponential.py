"""The multi-exponential law is a limit of the multi-power law."""

import numpy as np

from kaiyuan_jax.schedules.laws import multi_exponential, multi_power
from tests.schedules.laws.synthetic import blank

POWER = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0}


def test_a_steep_power_is_an_exponential():
    curves, steep = blank(), 1e7
    exponential, power = multi_exponential.LAW, multi_power.AFTER_WARMUP
    expected = exponential.evaluate(exponential.prepare(curves), exponential.theta(POWER | {"C": 0.5, "gamma": 0.4}))
    limit = power.evaluate(power.prepare(curves), power.theta(POWER | {"C": 0.5 / steep, "beta": steep, "gamma": 0.4}))
    np.testing.assert_allclose(limit, expected, atol=1e-7)


def test_without_gamma_a_fall_gains_by_the_summed_rate_since_alone():
    _, _, two_stage = blank()
    law, knee = multi_exponential.LAW, two_stage.rates.size // 2
    predicted = law.evaluate(law.prepare([two_stage]), law.theta(POWER | {"C": 7.0, "gamma": 0.0}))
    total = np.cumsum(two_stage.rates)
    since = np.maximum(total[two_stage.steps] - total[knee - 1], 0.0)
    gained = 400 * (two_stage.rates[0 + 199] - two_stage.rates[-1]) * (1 - np.exp(-7.0 * since))
    np.testing.assert_allclose(predicted, 3 + 0.5 / np.sqrt(total[two_stage.steps]) - gained, atol=1e-9)
