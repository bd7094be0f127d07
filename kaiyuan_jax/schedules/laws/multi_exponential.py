"""The multi-exponential law: the multi-power law whose gains arrive exponentially (an ablation of 2503.12811).

    L(s) = L0 + A S^-alpha - B sum over k after the warm-up of (eta_{k-1} - eta_k) (1 - exp(-C eta_k^-gamma x_k))

gamma is free here; gamma = 0 is the reading in which a fall's gain depends on the summed rate alone, and a prior on gamma fixes it.
"""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws import multi_power, quadrature
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law, gain_starts, power_starts, summed_rates


def evaluate(nodes: quadrature.Nodes, theta: np.ndarray) -> np.ndarray:
    """Loss float64[E]."""
    L0, lnA, alpha, lnB, lnC, gamma = theta
    terms = np.expm1(-np.exp(lnC - gamma * nodes.log_rate) * nodes.x)
    return L0 + np.exp(lnA - alpha * np.log(nodes.total)) + np.exp(lnB) * nodes.sum(terms)


def jacobian(nodes: quadrature.Nodes, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss float64[E] and its derivatives float64[E, 6]."""
    L0, lnA, alpha, lnB, lnC, gamma = theta
    c = np.exp(lnC - gamma * nodes.log_rate) * nodes.x
    left = np.exp(-c)
    by_L, by_C, by_g = np.exp(lnB) * nodes.sum(np.stack([np.expm1(-c), left * c, left * c * nodes.log_rate]))
    log_total = np.log(nodes.total)
    power = np.exp(lnA - alpha * log_total)
    columns = [np.ones_like(power), power, -power * log_total, by_L, -by_C, by_g]
    return L0 + power + by_L, np.stack(columns, axis=1)


def starts(curves: Sequence[Curve], generator: np.random.Generator, count: int) -> np.ndarray:
    """Random starting points float64[count, 6]."""
    power = power_starts(curves, generator, count, [summed_rates(curve) for curve in curves])
    return np.column_stack([power, gain_starts(curves, generator, count), multi_power.kernel_starts(curves, generator, count)])


LAW = Law(
    name="multi_exponential",
    parameters=("L0", "A", "alpha", "B", "C", "gamma"),
    logged=(False, True, False, True, True, False),
    formula="L0 + A S^-alpha - B sum_{k>warmup} (eta_{k-1} - eta_k) (1 - exp(-C eta_k^-gamma x_k))",
    source="2503.12811, the ablation with an exponential in place of the power",
    prepare=multi_power.prepare_after_warmup,
    evaluate=evaluate,
    jacobian=jacobian,
    starts=starts,
)
