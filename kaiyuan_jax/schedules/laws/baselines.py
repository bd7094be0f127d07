"""Laws without memory: a power of progress and, at most, the present rate.

    one_power          L0 + A S^-alpha                       no loss reduction at all: the multi-power law with B = 0
    chinchilla_steps   L0 + A n^-alpha                       n = s + 1 updates; blind to the schedule
    linear             L0 + A S^-alpha - B (peak - eta_s)    every fall of the rate gains at once what it will ever gain

`linear` is stage 1 of the released fitting procedure of 2503.12811. S = eta_0 + ... + eta_s.
"""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law, gain_starts, power_starts, summed_rates


def _updates(curve):
    return curve.steps + 1.0


def _power(argument):
    # The law L0 + A u^-alpha whose argument u float64[E] is a function of the curve.
    def prepare(curves: Sequence[Curve]) -> np.ndarray:
        return np.log(np.concatenate([argument(curve) for curve in curves]))

    def starts(curves, generator, count):
        return power_starts(curves, generator, count, [argument(curve) for curve in curves])

    return dict(
        parameters=("L0", "A", "alpha"),
        logged=(False, True, False),
        prepare=prepare,
        evaluate=lambda log_u, theta: theta[0] + np.exp(theta[1] - theta[2] * log_u),
        jacobian=_power_jacobian,
        starts=starts,
    )


def _power_jacobian(log_u, theta):
    power = np.exp(theta[1] - theta[2] * log_u)
    return theta[0] + power, np.stack([np.ones_like(power), power, -power * log_u], axis=1)


def _linear_prepare(curves):
    log_total = np.log(np.concatenate([summed_rates(curve) for curve in curves]))
    fallen = np.concatenate([curve.rates.max() - curve.rates[curve.steps] for curve in curves])
    return log_total, fallen


def _linear_evaluate(prepared, theta):
    log_total, fallen = prepared
    return theta[0] + np.exp(theta[1] - theta[2] * log_total) - np.exp(theta[3]) * fallen


def _linear_jacobian(prepared, theta):
    log_total, fallen = prepared
    loss, columns = _power_jacobian(log_total, theta)
    gain = np.exp(theta[3]) * fallen
    return loss - gain, np.column_stack([columns, -gain])


def _linear_starts(curves, generator, count):
    power = power_starts(curves, generator, count, [summed_rates(curve) for curve in curves])
    return np.column_stack([power, gain_starts(curves, generator, count)])


ONE_POWER = Law(
    name="one_power",
    formula="L0 + A S^-alpha",
    source="2503.12811, the ablation without loss reduction",
    **_power(summed_rates),
)
CHINCHILLA_STEPS = Law(
    name="chinchilla_steps",
    formula="L0 + A n^-alpha, n updates",
    source="2203.15556, equation 2, at one model size and batch: tokens are proportional to updates",
    **_power(_updates),
)
LINEAR = Law(
    name="linear",
    parameters=("L0", "A", "alpha", "B"),
    logged=(False, True, False, True),
    formula="L0 + A S^-alpha - B (peak - eta_s)",
    source="2503.12811, the ablation with linear loss reduction; stage 1 of its released fit",
    prepare=_linear_prepare,
    evaluate=_linear_evaluate,
    jacobian=_linear_jacobian,
    starts=_linear_starts,
)
