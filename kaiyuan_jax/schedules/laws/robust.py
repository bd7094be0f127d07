"""The default protocol: fit few training curves so that schedules they do not show are predicted well.

Three training curves do not identify how the gain of a fall of the rate unfolds. The objective's minimum puts all freedom of the kernel
into the few thousandths by which two runs of one schedule differ, and then extrapolates from that. So the kernel's shape (C, beta, gamma,
fading) has a prior, a normal distribution around the shape that all nine released curves of *other* model sizes show, and the curves at
hand decide the rest: L0, A and B freely, the shape as far as they say more than the prior.

    objective = sum of Huber losses of log residuals + VARIANCE / 2 * sum over parameters with a prior of ((theta - mean) / deviation)^2

The choices, which are ours: DEVIATION, 2 to 6 times the difference between the two released sizes; VARIANCE, which turns the prior into
the objective's units and stands for residuals of 1.5e-3 that are correlated over 20 points (the released training curves scatter by 0.5 to
0.8e-3 over 20 to 30 points, so the prior counts some three to seven times as much as they would have it: a law's error on other
schedules is larger than its residuals); ALPHA, a wide prior around a round number for the exponent of the power, which the released curves
hardly feel. Curves that end long before the loss levels off do; alone they are fitted best by alpha near 0 and a limit far below zero.

What is honest here and what is not. That the gain should fade (`fading`), and in which form, was seen on all nine curves of both released
sizes, 25M and 100M; the widths were looked at on both. The numbers of the prior were not: a test on one of these sizes takes them from the
other size alone (`prior_of`, launch/study_laws.py, docs/results/robust.md). The shipped prior holds both, so its figures on the released
curves are no test. Any other model's curves are one: nothing here looks at a test curve.

A law other than the multi-power law has no prior: `robust` is then the minimum over many starts, as in `converged`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws import converged, fading, huber, multi_power
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from kaiyuan_jax.schedules.laws.law import Law

SHAPE = ("C", "beta", "gamma", "fading")  # of `fading.LAW`, ln C first
DEVIATION = np.array([0.5, 0.15, 0.1, 0.025])
ALPHA = (0.5, 0.15)  # mean and deviation
VARIANCE = 20 * 1.5e-3**2
STARTS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """What is known of the kernel's shape before the first curve: a normal distribution, independent in (ln C, beta, gamma, fading)."""

    mean: np.ndarray  # float64[4]
    deviation: np.ndarray  # float64[4]
    source: str


RELEASED = Prior(np.array([5.62, 0.277, 0.424, 0.124]), DEVIATION, "all nine released curves of the 25M and of the 100M model")


def prior_of(fits: Sequence[Fit], source: str) -> Prior:
    """The prior that `fits` of `fading.LAW`, one for each other model size, give together: their mean, with the fixed deviations."""
    return Prior(np.mean([fit.theta[-4:] for fit in fits], axis=0), DEVIATION, source)


def fit(law: Law, curves: Sequence[Curve], prior: Prior = RELEASED, starts: int = STARTS, seed: int = 0) -> Fit:
    """Fits training curves. The multi-power law (either reading of the warm-up) is fitted with a fading gain, `fading.LAW`.

    `details` name the prior and say by how many of its deviations each parameter was moved.
    """
    if law not in (multi_power.LAW, multi_power.AFTER_WARMUP, fading.LAW):
        return dataclasses.replace(converged.fit(law, curves, seed=seed), protocol="robust")
    law = fading.LAW
    prepared = law.prepare(curves)
    losses = np.concatenate([curve.losses for curve in curves])
    mean, precision = objective_prior(prior)
    points = law.starts(curves, np.random.default_rng(seed), starts)
    points[:, -4:] = prior.mean
    minima = [huber.minimise(law, prepared, losses, point, prior=(mean, precision)) for point in points]
    best = min(minima, key=lambda minimum: minimum.objective)
    known = [law.parameters.index(name) for name in ("alpha", *SHAPE)]
    deviation = np.sqrt(VARIANCE / np.diag(precision)[known])
    moved = (best.theta - mean)[known] / deviation
    details = {
        "prior": {
            "parameters": ["alpha", *SHAPE],
            "mean": mean[known].tolist(),
            "deviation": deviation.tolist(),
            "source": prior.source,
        },
        "moved": dict(zip(("alpha", *SHAPE), moved.tolist(), strict=True)),
        "starts": starts,
        "uniqueness": float(np.mean([minimum.objective <= best.objective * (1 + converged.SAME) for minimum in minima])),
        "converged": best.converged,
    }
    residual = huber.residuals(losses, law.evaluate(prepared, best.theta))
    objective = float(huber.huber(residual).sum())
    return Fit(law, "robust", best.theta, objective, tuple(curve.name for curve in curves), details=details)


def objective_prior(prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Mean float64[8] and precision float64[8, 8] of the whole theta in units of the objective, as `huber.minimise` takes them."""
    mean, precision = np.zeros(8), np.zeros(8)
    mean[2], precision[2] = ALPHA[0], VARIANCE / ALPHA[1] ** 2
    mean[-4:], precision[-4:] = prior.mean, VARIANCE / prior.deviation**2
    return mean, np.diag(precision)
