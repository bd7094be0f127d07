"""How well training curves determine a law: a covariance of its parameters, by Laplace's approximation or by a block bootstrap.

Residuals of a loss curve are correlated: a run is a little better or worse than another of the same schedule for hundreds of steps. With
deviation s and autocorrelations rho_j, a sum over points varies like s^2 (1 + 2 sum_j rho_j) = s^2 n for independent points that stand for n
each, so the objective (Huber losses, curvature H in theta) is a log-likelihood in units of

    v = s^2 n,         covariance = (H / v + prior precision + 1 / WIDE^2)^-1

The bootstrap draws blocks of consecutive residuals of each training curve, adds them to the fitted curve in ln loss and fits again; it
needs no normality and about a second. Both say how the parameters would vary *if the law held*. What the law gets wrong on schedules it was
not fitted to is a third part of a forecast's band (`forecast`), measured where whole curves could be left out: on the released curves
of one model size, with everything fitted and chosen on the other size, 90% bands with this `MODEL` part cover what docs/results/laws.md says.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.schedules.laws import huber, robust
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

METHODS = ("laplace", "bootstrap")
WIDE = 3.0  # deviation of a parameter of which nothing is known: all are logarithms, exponents or losses, of order one
MODEL = 1.2e-3  # deviation of ln loss between the law and a schedule it was not fitted to
DRAWS, BLOCK = 40, 24  # of the bootstrap: refits, and consecutive points drawn together


def attach(fit: Fit, curves: Sequence[Curve], method: str = "laplace", seed: int = 0) -> Fit:
    """The fit with `covariance` and `bands`, from its training `curves`. `method` is one of METHODS; `seed` is the bootstrap's."""
    prepared = fit.law.prepare(curves)
    losses = np.concatenate([curve.losses for curve in curves])
    prediction, columns = fit.law.jacobian(prepared, fit.theta)
    parts = np.split(huber.residuals(losses, prediction), np.cumsum([curve.steps.size for curve in curves])[:-1])
    deviation, length = scatter(parts)
    prior = _prior_precision(fit)
    if method == "bootstrap":
        covariance = np.cov(_bootstrap(fit, prepared, prediction, parts, seed).T)
    else:
        slopes = columns / prediction[:, None]
        curvature = np.minimum(1.0, huber.DELTA / np.maximum(np.abs(np.concatenate(parts)), 1e-300))
        hessian = slopes.T @ (curvature[:, None] * slopes)
        covariance = np.linalg.inv(hessian / (deviation**2 * length) + prior + np.eye(len(fit.theta)) / WIDE**2)
    bands = {"method": method, "residual": deviation, "points_per_independent_one": length, "model": {"scale": MODEL}}
    return dataclasses.replace(fit, covariance=covariance, bands=bands)


def samples(fit: Fit, count: int, seed: int = 0) -> np.ndarray:
    """Draws theta float64[count, P] from the normal distribution that `attach` found; every draw equals theta without a covariance."""
    if fit.covariance is None:
        return np.repeat(fit.theta[None], count, axis=0)
    return np.random.default_rng(seed).multivariate_normal(fit.theta, fit.covariance, count, method="eigh")


def interval(fit: Fit, coverage: float = 0.9) -> dict[str, tuple[float, float]]:
    """By parameter the ends of its `coverage` interval, logarithms undone; without a covariance both are the value itself."""
    from scipy.special import ndtri

    wide = ndtri(0.5 + coverage / 2) * (np.sqrt(np.diag(fit.covariance)) if fit.covariance is not None else np.zeros(len(fit.theta)))
    low, high = fit.law.values(fit.theta - wide), fit.law.values(fit.theta + wide)
    return {name: (low[name], high[name]) for name in fit.law.parameters}


def scatter(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Deviation of the residuals, and how many neighbouring points stand for one independent one, of residuals by curve.

    The deviation is robust (1.4826 times the median size), as the fit is. Autocorrelations are summed up to the first that is not
    positive, at most a quarter of a curve, and pooled over curves by their points.
    """
    everything = np.concatenate(parts)
    deviation = max(1.4826 * float(np.median(np.abs(everything))), 1e-9)
    bounded = [np.clip(part / deviation, -3, 3) for part in parts]  # a few early points must not decide
    longest = max(1, min(part.size for part in parts) // 4)
    power = sum(float(part @ part) for part in bounded)
    length = 1.0
    for lag in range(1, longest + 1):
        correlation = sum(float(part[lag:] @ part[:-lag]) for part in bounded) / max(power, 1e-300)
        if correlation <= 0:
            break
        length += 2 * correlation
    return deviation, length


def _prior_precision(fit: Fit) -> np.ndarray:
    precision = np.zeros((len(fit.theta), len(fit.theta)))
    if "prior" in fit.details:
        shape = [fit.law.parameters.index(name) for name in fit.details["prior"]["parameters"]]
        precision[shape, shape] = 1 / np.array(fit.details["prior"]["deviation"]) ** 2
    return precision


def _bootstrap(fit: Fit, prepared, prediction: np.ndarray, parts: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """theta float64[DRAWS, P] of refits to the fitted curves with blocks of residuals drawn anew (and a prior's mean, where there is one)."""
    generator, draws = np.random.default_rng(seed), []
    precision = _prior_precision(fit)
    for _ in range(DRAWS):
        drawn = np.concatenate([_blocks(part, generator) for part in parts])
        prior = None
        if precision.any():
            mean = fit.theta.copy()
            at = [fit.law.parameters.index(name) for name in fit.details["prior"]["parameters"]]
            mean[at] = generator.normal(fit.theta[at], fit.details["prior"]["deviation"])
            prior = (mean, robust.VARIANCE * precision)
        draws.append(huber.minimise(fit.law, prepared, prediction * np.exp(drawn), fit.theta, prior=prior, most=30).theta)
    return np.array(draws)


def _blocks(residuals: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many residuals, put together from random stretches of BLOCK consecutive ones."""
    size = residuals.size
    block = min(BLOCK, size)
    begins = generator.integers(0, size - block + 1, -(-size // block))
    return np.concatenate([residuals[begin : begin + block] for begin in begins])[:size]
