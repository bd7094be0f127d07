"""The least sum of Huber losses of log residuals, by Levenberg-Marquardt with the law's own Jacobian.

    r_i = ln loss_i - ln prediction_i,      objective = sum_i w_i h(r_i) + (theta - m)^T P (theta - m) / 2
    h(r) = r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2)

Every iteration replaces h by the parabola that touches it at +-r and lies above it everywhere (curvature min(1, delta / |r|)) and the law
by its tangent, and solves (H + lambda diag H) step = -gradient. Scaling by diag H makes the parameters' units irrelevant. Two additions
matter, because C, beta and gamma trade off against one another along a narrow, bent valley:

* geodesic acceleration (Transtrum and Sethna, 1201.5885): half the second derivative of the residuals along the step, from one more
  evaluation, bends the step with the valley. Random starts of the multi-power law then need 22 Jacobians in the median, not 105;
* no step moves a parameter by more than `LONGEST`. Parameters are logarithms, exponents and losses, all of order one, and a longer
  step leaves the region where a tangent says anything: without the bound a sixth of the random starts ran away to infinity.
"""

import dataclasses

import numpy as np

from kaiyuan_jax.schedules.laws.law import Law

DELTA = 1e-3  # as in 2503.12811
LONGEST = 1.0
CLOSE = 1e-9
PROBE = 0.1  # share of a step at which its second derivative is taken
BEND = 0.75  # an acceleration longer than this share of twice the step is not to be trusted


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum:
    """Where a descent ended."""

    theta: np.ndarray  # float64[P]
    objective: float  # infinite when the law was not positive at the start
    iterations: int
    converged: bool  # the quadratic model promised less than the share `close` of the objective more
    gradient_norm: float  # Euclidean norm of the objective's gradient by theta


def residuals(losses: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """float64[E]: ln loss - ln prediction; infinite where a prediction is not positive."""
    with np.errstate(all="ignore"):
        found = np.log(losses) - np.log(predictions)
    return np.where(np.isfinite(found), found, np.inf)


def huber(residual: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """float64[E]: the Huber loss of every residual."""
    size = np.abs(residual)
    inner = np.minimum(size, delta)
    return inner * (size - inner / 2)


def minimise(
    law: Law,
    prepared,
    losses: np.ndarray,
    theta0: np.ndarray,
    *,
    delta: float = DELTA,
    weights: np.ndarray | None = None,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
    most: int = 200,
    close: float = CLOSE,
) -> Minimum:
    """Descends from `theta0` float64[P] to a minimum over `prepared` (law.prepare) with measured `losses` float64[E].

    `weights` float64[E] multiply the points, `prior` is (mean float64[P], precision float64[P, P]), `most` bounds the
    iterations, and a descent has converged when its quadratic model promises less than the share `close` of the objective.
    """
    mean, precision = prior if prior is not None else (np.zeros(len(theta0)), None)
    theta = np.array(theta0, np.float64)

    def residuals_at(at):
        with np.errstate(all="ignore"):
            return residuals(losses, law.evaluate(prepared, at))

    def objective(at):
        sizes = huber(residuals_at(at), delta)
        total = float(sizes.sum() if weights is None else sizes @ weights)
        if precision is not None:
            total += 0.5 * float((at - mean) @ precision @ (at - mean))
        return total if np.isfinite(total) else np.inf

    best = objective(theta)
    if not np.isfinite(best):
        return Minimum(theta, np.inf, 0, False, np.inf)
    damping, converged, norm, iteration = 1e-3, False, np.inf, 0
    for iteration in range(1, most + 1):  # noqa: B007
        with np.errstate(all="ignore"):
            prediction, columns = law.jacobian(prepared, theta)
            slopes = columns / prediction[:, None]  # -dr/dtheta
        r = residuals(losses, prediction)
        curvature = np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300))
        if weights is not None:
            curvature = curvature * weights
        gradient = -slopes.T @ (curvature * r)
        hessian = slopes.T @ (curvature[:, None] * slopes)
        if precision is not None:
            gradient += precision @ (theta - mean)
            hessian += precision
        norm = float(np.linalg.norm(gradient))
        if not np.isfinite(norm):
            break
        scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        values, vectors = np.linalg.eigh(hessian * scale[:, None] * scale)
        values, vectors = np.maximum(values, 0.0), vectors * scale[:, None]
        along = vectors.T @ gradient
        if 0.5 * np.sum(along**2 / (values + 1e-9)) <= close * best:
            converged = True
            break
        for _ in range(20):
            velocity = -vectors @ (along / (values + damping))
            velocity *= min(1.0, LONGEST / np.abs(velocity).max())
            bend = 2 / PROBE * ((residuals_at(theta + PROBE * velocity) - r) / PROBE + slopes @ velocity)
            step = velocity
            if np.isfinite(bend).all():
                acceleration = 0.5 * vectors @ ((vectors.T @ (slopes.T @ (curvature * bend))) / (values + damping))
                if 2 * np.linalg.norm(acceleration / scale) <= BEND * np.linalg.norm(velocity / scale):
                    step = velocity + acceleration
            found = objective(theta + step)
            if found < best:
                break
            damping *= 10
        else:
            break
        best, theta, damping = found, theta + step, max(damping / 3, 1e-9)
    return Minimum(theta, best, iteration, converged, norm)
