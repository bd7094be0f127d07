"""The minimum of the released objective (2503.12811, section 3: Huber loss of log residuals, summed over points and curves).

Random starts descend independently; the lowest end is the fit, and the share of starts that end there says how unique it is. A lower
training objective is not a better law: with three training curves the minimum of the multi-power law predicts unseen schedules worse than
the released procedure, which stops early (docs/results/laws.md). Use `robust` to predict.
"""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import huber
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from kaiyuan_jax.schedules.laws.law import Law

STARTS = 16
SAME = 1e-3  # ends whose objectives differ by less than this share are the same minimum


def fit(law: Law, curves: Sequence[Curve], starts: int = STARTS, seed: int = 0) -> Fit:
    """The lowest of the minima that `starts` random starts reach.

    `details["uniqueness"]` is the share of starts that ended there, `details["ends"]` every start's objective as a multiple of the lowest
    (None where the law was not positive at the start), in ascending order. Raises UserError where that is so of every start.
    """
    prepared = law.prepare(curves)
    losses = np.concatenate([curve.losses for curve in curves])
    points = law.starts(curves, np.random.default_rng(seed), starts)
    minima = [huber.minimise(law, prepared, losses, point) for point in points]
    best = min(minima, key=lambda minimum: minimum.objective)
    if not np.isfinite(best.objective):
        names = ", ".join(curve.name for curve in curves)
        raise UserError(f"{law.name}: no random start has a finite objective, so some loss or rate of {names} is not usable")
    ends = np.sort([minimum.objective for minimum in minima]) / best.objective
    details = {
        "starts": starts,
        "uniqueness": float(np.mean(ends <= 1 + SAME)),
        "ends": [float(end) if np.isfinite(end) else None for end in ends],
        "iterations": best.iterations,
        "converged": best.converged,
        "gradient_norm": best.gradient_norm,
    }
    return Fit(law, "converged", best.theta, best.objective, tuple(curve.name for curve in curves), details=details)
