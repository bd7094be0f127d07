"""The multi-power law (2503.12811): a power of the summed rate, less what each fall of the rate has gained since.

    L(s) = L0 + A S(s)^-alpha - B sum over k of (eta_{k-1} - eta_k) G(eta_k^-gamma x_k),     G(x) = 1 - (1 + C x)^-beta
    S(s) = eta_0 + ... + eta_s,    x_k = eta_k + ... + eta_s

Two readings of the warm-up. The released code sums over every k >= 1, so the rise of the warm-up counts as negative falls and L0 absorbs
about B peak; the paper's formula starts after the warm-up. In both the rates of the warm-up are part of S. (owner: H2 completes this)
"""

import numpy as np

from kaiyuan_jax.schedules.laws import quadrature
from kaiyuan_jax.schedules.laws.law import Law

FORMULA = "L0 + A S^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma x_k)^-beta)"


def prepare_all(curves) -> quadrature.Nodes:
    """The whole schedule, warm-up included."""
    return quadrature.concatenate(quadrature.build(curve.rates, curve.steps, 1) for curve in curves)


def prepare_after_warmup(curves) -> quadrature.Nodes:
    """Only what comes after the warm-up; its rates still count in S."""
    return quadrature.concatenate(quadrature.build(curve.rates, curve.steps, curve.warmup + 1) for curve in curves)


def evaluate(nodes: quadrature.Nodes, theta: np.ndarray) -> np.ndarray:
    L0, lnA, alpha, lnB, lnC, beta, gamma = theta
    log1p_cx = np.log1p(np.exp(lnC - gamma * nodes.log_rate) * nodes.x)
    return L0 + np.exp(lnA - alpha * np.log(nodes.total)) - np.exp(lnB) * nodes.sum(-np.expm1(-beta * log1p_cx))


def jacobian(nodes: quadrature.Nodes, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    L0, lnA, alpha, lnB, lnC, beta, gamma = theta
    log_total = np.log(nodes.total)
    cx = np.exp(lnC - gamma * nodes.log_rate) * nodes.x
    log1p_cx = np.log1p(cx)
    left = np.exp(-beta * log1p_cx)  # (1 + cx)^-beta
    by_lnC = left * cx / (1 + cx)
    terms = np.stack([1 - left, by_lnC, left * log1p_cx, by_lnC * nodes.log_rate], axis=1)
    gain, d_lnC, d_beta, d_gamma = (np.exp(lnB) * nodes.sum(terms)).T
    power = np.exp(lnA - alpha * log_total)
    columns = [np.ones_like(power), power, -power * log_total, -gain, -beta * d_lnC, -d_beta, beta * d_gamma]
    return L0 + power - gain, np.stack(columns, axis=1)


def starts(curves, generator: np.random.Generator, count: int) -> np.ndarray:
    lowest = min(curve.losses.min() for curve in curves)
    draw = generator.uniform
    rows = [
        [lowest - draw(0.05, 0.5), np.log(draw(0.2, 1.5)), draw(0.2, 1.0), np.log(draw(100, 1000)),
         draw(np.log(0.01), np.log(20)), draw(0.1, 2.0), draw(0.1, 1.2)]
        for _ in range(count)
    ]
    return np.array(rows)


_SHAPE = dict(
    parameters=("L0", "A", "alpha", "B", "C", "beta", "gamma"), logged=(False, True, False, True, True, False, False),
    formula=FORMULA, evaluate=evaluate, jacobian=jacobian, starts=starts,
)
LAW = Law(name="multi_power", source="2503.12811, as released: the warm-up counts in the sum", prepare=prepare_all, **_SHAPE)
AFTER_WARMUP = Law(name="multi_power_after_warmup", source="2503.12811, as written", prepare=prepare_after_warmup, **_SHAPE)
