"""The released fitting procedure of 2503.12811, step for step, quirks included.

1. The linear law L0 + A S^-alpha - B (peak - eta_s) at the minimum of the Huber objective. The release descends with L-BFGS-B from a
   grid of 135 starts around a regression. Not so here: a few random starts of `huber.minimise` reach the same minimum, the only one found.
2. From there, with C = 1 and beta = gamma = 0.5, AdamW on the raw parameters as torch implements it: betas 0.9 and 0.999, epsilon 1e-8, and
   torch's default weight decay of 0.01, which is active. Rates 0.05 for L0, A, B and C, 0.005 for the exponents; so B, some hundreds,
   hardly leaves its stage-1 value. At most 200 steps; it ends when 20 steps brought no new minimum or the gradient's norm is below 1e-5.
3. The parameters kept are those *after* the step at whose start the loss was lowest: off by one, and higher in loss than what was
   recorded. `details["lowest"]` is the recorded loss, `Fit.objective` that of the parameters kept.
4. Measured losses are float32, and so are their logarithms; the law is float64.

It ends far from the objective's minimum, and that acts as regularisation (docs/results/laws.md).
"""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import baselines, huber, multi_power
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from kaiyuan_jax.schedules.laws.law import Law

LAWS = (multi_power.LAW.name, multi_power.AFTER_WARMUP.name)
BEGIN = {"C": 1.0, "beta": 0.5, "gamma": 0.5}
RATES = {"L0": 5e-2, "A": 5e-2, "alpha": 5e-3, "B": 5e-2, "C": 5e-2, "beta": 5e-3, "gamma": 5e-3}
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
MOST, PATIENCE, FLAT = 200, 20, 1e-5
STARTS = 3


def fit(law: Law, curves: Sequence[Curve]) -> Fit:
    """The parameters that the released procedure finds; UserError for any law but the multi-power law."""
    if law.name not in LAWS:
        raise UserError(f"protocol: found 'reference' for the law {law.name}, must be converged or robust; the release fits {LAWS[0]} only")
    first = linear(curves)
    values = baselines.LINEAR.values(first.theta) | BEGIN
    prepared = law.prepare(curves)
    losses = np.concatenate([curve.losses for curve in curves])
    targets = np.log(losses.astype(np.float32)).astype(np.float64)
    kept, lowest, steps = adamw(law, prepared, targets, np.array([values[name] for name in law.parameters]))
    if gone := [i for i, logged in enumerate(law.logged) if logged and kept[i] <= 0]:
        raise UserError(
            f"protocol: reference steps to {law.parameters[gone[0]]} = {kept[gone[0]]:.3g} on these curves, where the "
            "law has no meaning (its rates are made for the released curves); take robust or converged"
        )
    theta = law.theta(dict(zip(law.parameters, kept, strict=True)))
    objective = float(huber.huber(huber.residuals(losses, law.evaluate(prepared, theta))).sum())
    details = {"steps": steps, "lowest": lowest, "linear": baselines.LINEAR.values(first.theta) | {"objective": first.objective}}
    return Fit(law, "reference", theta, objective, tuple(curve.name for curve in curves), details=details)


def linear(curves: Sequence[Curve]) -> huber.Minimum:
    """Stage 1: the linear law at its minimum."""
    law = baselines.LINEAR
    prepared, losses = law.prepare(curves), np.concatenate([curve.losses for curve in curves])
    starts = law.starts(curves, np.random.default_rng(0), STARTS)
    # To the last digits, because AdamW's path and the means over test curves are sensitive to where it starts.
    return min((huber.minimise(law, prepared, losses, start, close=1e-14) for start in starts), key=lambda minimum: minimum.objective)


def adamw(law: Law, prepared, targets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Stage 2 from raw parameters `values` float64[P] with `targets` ln loss float64[E]: (values kept, lowest loss, steps taken)."""
    logged = np.array(law.logged)
    rates = np.array([RATES[name] for name in law.parameters])
    beta1, beta2 = BETAS
    mean, square = np.zeros_like(values), np.zeros_like(values)
    kept, lowest, at = values, np.inf, 0
    for step in range(MOST):
        theta = np.where(logged, np.log(np.where(logged, values, 1.0)), values)
        prediction, columns = law.jacobian(prepared, theta)
        r = targets - np.log(prediction)
        loss = float(huber.huber(r).sum())
        by_theta = -(np.clip(r, -huber.DELTA, huber.DELTA) / prediction) @ columns
        gradient = by_theta / np.where(logged, values, 1.0)
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        values = values * (1 - rates * WEIGHT_DECAY)
        size = np.sqrt(square / (1 - beta2 ** (step + 1))) + EPSILON
        values = values - rates / (1 - beta1 ** (step + 1)) * mean / size
        if loss < lowest:
            kept, lowest, at = values, loss, step
        if (step > PATIENCE and step - at >= PATIENCE) or np.linalg.norm(gradient) < FLAT:
            break
        if (values[logged] <= 0).any():  # the law is not defined from here on
            break
    return kept, lowest, step + 1
