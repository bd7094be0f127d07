"""The functional scaling law's practical form (2509.19189, appendix B.2), in intrinsic time T(k) = eta_0 + ... + eta_k.

    L(k) = L0 + c1 T(k)^-s - c2 sum over i <= k of (eta_{i-1} - eta_i)^+ (c3 + T(i)^-s) (1 - (1 + c4 (T(k) - T(i)))^-g)

A fall gains more early, when the signal still moves (T(i)^-s), than late, when only noise is left (c3). Only falls count, so the
warm-up adds nothing but its intrinsic time; rises later do not take back what falls have gained.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws import quadrature
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law, gain_starts, power_starts, summed_rates


@dataclasses.dataclass(frozen=True, eq=False)
class Falls:
    """The nodes of the falls alone, and what the law reads of them."""

    nodes: quadrature.Nodes
    log_total: np.ndarray  # float64[E]: ln T(k)
    log_begin: np.ndarray  # float64[P]: ln T(i)
    elapsed: np.ndarray  # float64[P]: T(k) - T(i)


def prepare(curves: Sequence[Curve]) -> Falls:
    nodes = quadrature.concatenate(quadrature.build(curve.rates, curve.steps, curve.warmup + 1, falls_only=True) for curve in curves)
    elapsed = np.repeat(nodes.total, np.diff(nodes.start)) - nodes.begin
    return Falls(nodes, np.log(nodes.total), np.log(nodes.begin), np.maximum(elapsed, 0.0))


def evaluate(falls: Falls, theta: np.ndarray) -> np.ndarray:
    """Loss float64[E]."""
    L0, lnc1, s, lnc2, lnc3, lnc4, lng = theta
    g, size = np.exp(lng), np.exp(lnc3) + np.exp(-s * falls.log_begin)
    gain = falls.nodes.sum(size * np.expm1(-g * np.log1p(np.exp(lnc4) * falls.elapsed)))
    return L0 + np.exp(lnc1 - s * falls.log_total) + np.exp(lnc2) * gain


def jacobian(falls: Falls, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss float64[E] and its derivatives float64[E, 7]."""
    L0, lnc1, s, lnc2, lnc3, lnc4, lng = theta
    signal = np.exp(-s * falls.log_begin)
    g, size = np.exp(lng), np.exp(lnc3) + signal
    c = np.exp(lnc4) * falls.elapsed
    log1p_c = np.log1p(c)
    lost = np.expm1(-g * log1p_c)  # minus what has been gained
    left = size * (lost + 1)
    terms = np.stack([size * lost, lost, signal * falls.log_begin * lost, left * c / (1 + c), left * log1p_c])
    by_L, by_c3, by_s, by_c4, by_g = np.exp(lnc2) * falls.nodes.sum(terms)
    power = np.exp(lnc1 - s * falls.log_total)
    columns = [np.ones_like(power), power, -power * falls.log_total - by_s, by_L, np.exp(lnc3) * by_c3, -g * by_c4, -g * by_g]
    return L0 + power + by_L, np.stack(columns, axis=1)


def starts(curves: Sequence[Curve], generator: np.random.Generator, count: int) -> np.ndarray:
    """Random starting points float64[count, 7]."""
    power = power_starts(curves, generator, count, [summed_rates(curve) for curve in curves])
    total = max(curve.rates.sum() for curve in curves)
    # c3 is 0.1 to 3 times the signal at the end; c4 (T(k) - T(i)) is 1 at some 0.1 to 30% of the whole intrinsic time.
    lnc3 = -power[:, 2] * np.log(total) + generator.uniform(np.log(0.1), np.log(3.0), count)
    lnc4 = -np.log(total) - generator.uniform(np.log(0.001), np.log(0.3), count)
    lnc2 = gain_starts(curves, generator, count) - np.logaddexp(lnc3, -power[:, 2] * np.log(total))
    return np.column_stack([power, lnc2, lnc3, lnc4, generator.uniform(np.log(0.1), np.log(2.0), count)])


LAW = Law(
    name="functional_scaling",
    parameters=("L0", "c1", "s", "c2", "c3", "c4", "g"),
    logged=(False, True, False, True, True, True, True),
    formula="L0 + c1 T^-s - c2 sum_i (eta_{i-1} - eta_i)^+ (c3 + T_i^-s) (1 - (1 + c4 (T - T_i))^-g)",
    source="2509.19189, appendix B.2, the practical form",
    prepare=prepare,
    evaluate=evaluate,
    jacobian=jacobian,
    starts=starts,
)
