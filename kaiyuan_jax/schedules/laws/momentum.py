"""The momentum law (2408.11029): the area under an exponentially forgotten sum of past falls of the rate.

    L(s) = L0 + A S1^-alpha - C S2,    S2(s) = m_1 + ... + m_s,    m_i = lambda m_{i-1} + (eta_{i-1} - eta_i)

Falls count after the warm-up, rates from the start. lambda is a parameter here, as window = -1 / ln lambda in updates (the paper tries
lambda of .99 to .999, a window of 100 to 1000). A fall at k has added (1 - lambda^(s-k+1)) / (1 - lambda) times itself to S2 by step s:

    S2 = (F - lambda Q) / (1 - lambda),    F(s) = sum over k <= s of the falls,    Q(s) = sum over k <= s of lambda^(s-k) falls

and both Q and R = lambda dQ/dlambda (the falls weighted by (s-k) lambda^(s-k)) are first-order filters: from one evaluated step to the
next, D updates later, Q <- lambda^D Q and R <- lambda^D (R + D Q), plus the falls between them. O(T) in all.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law, gain_starts, power_starts, summed_rates


@dataclasses.dataclass(frozen=True, eq=False)
class Falls:
    """The falls of the rate between evaluated steps."""

    log_total: np.ndarray  # float64[E]: ln S
    fallen: np.ndarray  # float64[E]: F, net of rises
    since: np.ndarray  # float64[E]: updates since the evaluated step before; infinite at the first of a curve
    owner: np.ndarray  # int64[K]: the first evaluated step at or after fall k
    gap: np.ndarray  # float64[K]: eta_{k-1} - eta_k
    age: np.ndarray  # float64[K]: updates from k to that step


def prepare(curves: Sequence[Curve]) -> Falls:
    parts = [_falls(curve) for curve in curves]
    offsets = np.cumsum([0, *(part.since.size for part in parts)])
    owner = [part.owner + offset for part, offset in zip(parts, offsets, strict=False)]
    names = ("log_total", "fallen", "since", "gap", "age")
    return Falls(owner=np.concatenate(owner), **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _falls(curve):
    gap = curve.rates[:-1] - curve.rates[1:]
    gap[: curve.warmup] = 0.0
    k = np.flatnonzero(gap) + 1
    k = k[k <= curve.steps[-1]] if curve.steps.size else k[:0]
    owner = np.searchsorted(curve.steps, k)
    return Falls(
        log_total=np.log(summed_rates(curve)),
        fallen=np.concatenate([[0.0], np.cumsum(gap)])[curve.steps],
        since=np.diff(curve.steps.astype(np.float64), prepend=-np.inf),
        owner=owner,
        gap=gap[k - 1],
        age=(curve.steps[owner] - k).astype(np.float64),
    )


def _filter(falls, window):
    # Q and R float64[E].
    terms = falls.gap * np.exp(falls.age / -window)
    count = falls.since.size
    Q = np.bincount(falls.owner, terms, minlength=count).tolist()
    R = np.bincount(falls.owner, terms * falls.age, minlength=count).tolist()
    shrink, since = np.exp(falls.since / -window).tolist(), np.where(np.isfinite(falls.since), falls.since, 0.0).tolist()
    for i in range(1, count):
        R[i] += shrink[i] * (R[i - 1] + since[i] * Q[i - 1])
        Q[i] += shrink[i] * Q[i - 1]
    return np.array(Q), np.array(R)


def evaluate(falls: Falls, theta: np.ndarray) -> np.ndarray:
    """Loss float64[E]."""
    return jacobian(falls, theta)[0]


def jacobian(falls: Falls, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss float64[E] and its derivatives float64[E, 5]."""
    L0, lnA, alpha, lnC, ln_window = theta
    window = np.exp(ln_window)
    forgotten = -np.expm1(-1 / window)  # 1 - lambda
    Q, R = _filter(falls, window)
    S2 = (falls.fallen - (1 - forgotten) * Q) / forgotten
    by_window = (1 - forgotten) / (window * forgotten) * (S2 - Q - R)
    power, C = np.exp(lnA - alpha * falls.log_total), np.exp(lnC)
    columns = [np.ones_like(power), power, -power * falls.log_total, -C * S2, -C * by_window]
    return L0 + power - C * S2, np.stack(columns, axis=1)


def starts(curves: Sequence[Curve], generator: np.random.Generator, count: int) -> np.ndarray:
    """Random starting points float64[count, 5]: windows of 30 to 3000 updates."""
    power = power_starts(curves, generator, count, [summed_rates(curve) for curve in curves])
    ln_window = generator.uniform(np.log(30), np.log(3000), count)
    return np.column_stack([power, gain_starts(curves, generator, count) - ln_window, ln_window])


LAW = Law(
    name="momentum",
    parameters=("L0", "A", "alpha", "C", "window"),
    logged=(False, True, False, True, True),
    formula="L0 + A S1^-alpha - C sum_{i<=s} m_i, m_i = exp(-1 / window) m_{i-1} + (eta_{i-1} - eta_i) after the warm-up",
    source="2408.11029, section 3: scaling law with learning-rate annealing",
    prepare=prepare,
    evaluate=evaluate,
    jacobian=jacobian,
    starts=starts,
)
