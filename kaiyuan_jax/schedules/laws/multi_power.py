"""The multi-power law (2503.12811): a power of the summed rate, less what each fall of the rate has gained since.

    L(s) = L0 + A S(s)^-alpha - B sum over k of (eta_{k-1} - eta_k) G(eta_k^-gamma x_k),     G(x) = 1 - (1 + C x)^-beta
    S(s) = eta_0 + ... + eta_s,    x_k = eta_k + ... + eta_s

Two readings of the warm-up. The released code sums over every k >= 1, so the rise of the warm-up counts as negative falls and L0 absorbs
about B peak; the paper's formula starts after the warm-up. In both the rates of the warm-up are part of S.

With c = C eta_k^-gamma x_k and g = (1 + c)^-beta the derivatives of the sum by ln C, gamma and beta have the terms beta g c / (1 + c),
minus that times ln eta_k, and g ln(1 + c). eta^-gamma is formed as exp(-gamma ln eta) from a floored logarithm, 1 - g as an expm1: both
are stable for rates and C near zero.
"""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws import quadrature
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law, gain_starts, power_starts, summed_rates


def prepare_all(curves: Sequence[Curve]) -> quadrature.Nodes:
    """The whole schedule, warm-up included."""
    return quadrature.concatenate(quadrature.build(curve.rates, curve.steps, 1) for curve in curves)


def prepare_after_warmup(curves: Sequence[Curve]) -> quadrature.Nodes:
    """Only what comes after the warm-up; its rates still count in S."""
    return quadrature.concatenate(quadrature.build(curve.rates, curve.steps, curve.warmup + 1) for curve in curves)


def evaluate(nodes: quadrature.Nodes, theta: np.ndarray) -> np.ndarray:
    """Loss float64[E]."""
    L0, lnA, alpha, lnB, lnC, beta, gamma = theta
    terms = nodes.log_rate * -gamma
    terms += lnC
    np.exp(terms, out=terms)
    terms *= nodes.x
    np.log1p(terms, out=terms)
    terms *= -beta
    np.expm1(terms, out=terms)
    return L0 + np.exp(lnA - alpha * np.log(nodes.total)) + np.exp(lnB) * nodes.sum(terms)


def jacobian(nodes: quadrature.Nodes, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss float64[E] and its derivatives float64[E, 7]."""
    L0, lnA, alpha, lnB, lnC, beta, gamma = theta
    terms = np.empty((4, nodes.x.size))
    gained, by_lnC, by_beta, by_gamma = terms
    np.multiply(nodes.log_rate, -gamma, out=by_lnC)
    by_lnC += lnC
    np.exp(by_lnC, out=by_lnC)
    by_lnC *= nodes.x  # c
    np.log1p(by_lnC, out=by_beta)
    np.multiply(by_beta, -beta, out=gained)
    np.expm1(gained, out=gained)  # g - 1
    np.add(gained, 1.0, out=by_gamma)  # g, until the last line needs the row
    by_beta *= by_gamma
    by_gamma *= by_lnC
    by_lnC += 1.0
    np.divide(by_gamma, by_lnC, out=by_lnC)
    np.multiply(by_lnC, nodes.log_rate, out=by_gamma)
    by_L, by_C, by_b, by_g = np.exp(lnB) * nodes.sum(terms)
    log_total = np.log(nodes.total)
    power = np.exp(lnA - alpha * log_total)
    columns = [np.ones_like(power), power, -power * log_total, by_L, -beta * by_C, -by_b, beta * by_g]
    return L0 + power + by_L, np.stack(columns, axis=1)


def kernel_starts(curves: Sequence[Curve], generator: np.random.Generator, count: int) -> np.ndarray:
    """Random (ln C, gamma), float64[count, 2]: after a fall from the peak C eta^-gamma x is 1 at some 0.1 to 30% of the summed rate."""
    peak = max(curve.rates.max() for curve in curves)
    total = max(curve.rates.sum() for curve in curves)
    gamma = generator.uniform(0.1, 1.2, count)
    lnC = gamma * np.log(peak) - np.log(total) - generator.uniform(np.log(0.001), np.log(0.3), count)
    return np.stack([lnC, gamma], axis=1)


def starts(curves: Sequence[Curve], generator: np.random.Generator, count: int) -> np.ndarray:
    """Random starting points float64[count, 7]."""
    power = power_starts(curves, generator, count, [summed_rates(curve) for curve in curves])
    lnB = gain_starts(curves, generator, count)
    lnC, gamma = kernel_starts(curves, generator, count).T
    return np.column_stack([power, lnB, lnC, generator.uniform(0.1, 2.0, count), gamma])


_SHAPE = dict(
    parameters=("L0", "A", "alpha", "B", "C", "beta", "gamma"),
    logged=(False, True, False, True, True, False, False),
    evaluate=evaluate,
    jacobian=jacobian,
    starts=starts,
)
LAW = Law(
    name="multi_power",
    formula="L0 + A S^-alpha - B sum_{k>=1} (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma x_k)^-beta)",
    source="2503.12811, section 3, as its code is released: the rises of the warm-up count as negative falls",
    prepare=prepare_all,
    **_SHAPE,
)
AFTER_WARMUP = Law(
    name="multi_power_after_warmup",
    formula="L0 + A S^-alpha - B sum_{k>warmup} (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma x_k)^-beta)",
    source="2503.12811, section 3, as written: the sum starts after the warm-up",
    prepare=prepare_after_warmup,
    **_SHAPE,
)
