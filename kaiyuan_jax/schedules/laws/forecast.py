"""What a fitted law says about a schedule: the loss at every step, a band around it, and where a run leaves the band.

The band holds 90% of the losses that runs are expected to show. In ln loss its variance is the sum of three:

    g^T C g     the parameters': C their covariance, g the gradient of ln prediction (linear, so wrong where C is large)
    residual^2  the scatter of single points around the law, `Fit.bands["residual"]`
    scale^2     what the law itself gets wrong on schedules that it was not fitted to, `Fit.bands["model"]["scale"]`
"""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws import curves
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from kaiyuan_jax.schedules.laws.rebuild import warmup_of

COVERAGE, DEVIATIONS = 0.90, 1.6448536269514722  # of a normal distribution
IN_A_ROW = 5  # points outside the band that count as leaving it


def predict(fit: Fit, rates: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, lower and upper end of the band, float64[E] each, at `steps` int64[E] of a schedule with the rates float64[T]."""
    steps, rates = np.asarray(steps, np.int64), np.asarray(rates, np.float64)
    curve = Curve("schedule", steps, np.ones(steps.size), rates, warmup_of(rates))
    loss, jacobian = fit.law.jacobian(fit.law.prepare([curve]), fit.theta)
    spread = np.exp(DEVIATIONS * np.sqrt(_variance(fit, jacobian / loss[:, None])))
    return loss, loss / spread, loss * spread


def _variance(fit: Fit, gradient: np.ndarray) -> np.ndarray:
    constant = fit.bands.get("residual", 0.0) ** 2 + fit.bands.get("model", {}).get("scale", 0.0) ** 2
    if fit.covariance is None:
        return np.full(len(gradient), constant)
    return np.maximum(np.einsum("ep,pq,eq->e", gradient, fit.covariance, gradient), 0) + constant


def leaves(fit: Fit, curve: Curve, in_a_row: int = IN_A_ROW) -> int | None:
    """The first step of a curve from which `in_a_row` points one after the other lie outside the band, on the same side; None if none."""
    _, low, high = predict(fit, curve.rates, curve.steps)
    firsts = []
    for outside in (curve.losses < low, curve.losses > high):
        counts = np.convolve(outside, np.ones(in_a_row), "valid") if outside.size >= in_a_row else np.zeros(0)
        firsts += list(np.flatnonzero(counts == in_a_row)[:1])
    return int(curve.steps[min(firsts)]) if firsts else None


def doubts(fit: Fit, name: str, rates: np.ndarray) -> list[str]:
    """Why not to believe a forecast of this schedule, a sentence each: far beyond the training curves, or another peak."""
    seen = fit.details.get("reach")
    if not seen:
        return []
    found = [curves.extrapolation(name, rates, (seen["updates"], seen["summed_rate"]))]
    low, high = seen["peaks"]
    if not low * 0.99 <= rates.max() <= high * 1.01:
        between = f"{low:.3g}" if high <= 1.01 * low else f"{low:.3g} to {high:.3g}"
        found.append(f"{name}: its peak rate is {rates.max():.3g}, that of the training curves {between}: the law is for theirs")
    return [sentence for sentence in found if sentence]


def implausible(fit: Fit) -> list[str]:
    """What a fit cannot mean, a sentence each: a loss that tends to less than nothing while the rate is held."""
    limit = fit.values.get("L0", 0.0)
    if limit >= 0:
        return []
    return [
        f"L0, which the loss tends to while the rate is held, is fitted as {limit:.4g}: the curves are too short to show where the loss "
        "levels off, and forecasts of longer runs are guesses"
    ]


def reach(train: Sequence[Curve]) -> dict:
    """What `doubts` compares with, JSON-able; belongs in `Fit.details["reach"]`."""
    updates, summed = curves.reach(train)
    peaks = [float(curve.rates.max()) for curve in train]
    return {"updates": updates, "summed_rate": summed, "peaks": [min(peaks), max(peaks)]}
