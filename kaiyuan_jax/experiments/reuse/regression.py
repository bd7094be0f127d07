"""Multi-epoch SGD on linear regression, exactly: expected excess risk without a single sample (2511.13421, sections 4 and 5).

Features are one-hot: x = sqrt(L_i) e_i with probability p_i, so H = diag(p_i L_i), and y = x w* + noise of variance s^2, w* = 1 in every
coordinate. SGD of batch 1 and constant rate h from w = 0 goes K times over the same N samples, each time in a fresh random order. A
coordinate that occurs n times an epoch sees a = h L_i, r = 1 - a, and with f = r^n, its error after K epochs has the second moment

    f^2K + h^2 L_i s^2 [q S(f^2) + (g^2 / n) (S(f)^2 - S(f^2))],     S(f) = 1 + f + ... + f^(K-1),
    g = (1 - r^n) / a,   q = (1 - r^2n) / (1 - r^2)

(q: the noise inside an epoch; g^2 / n: the covariance of two epochs, which hold the same noise in independent orders), and n is binomial.
The excess risk is R = 1/2 sum_i p_i L_i E[that]. Without noise the expectation over n has the closed form of 2511.13421,
R = 1/2 sum_i p_i L_i (1 - p_i (1 - r_i^2K))^N. One formula, then, for the strongly convex regime (few coordinates, noise) and for the
Zipf one (very many, p_i ~ i^-(a-b), L_i = i^-b, no noise).

Predictions, to leading order in N: with noise, l the least p_i L_i and d coordinates,

    R*(1, N) = s^2 tr(H) / (8 l) ln(N) / N,   R*(inf, N) = s^2 d / (2 N),   E_sat(N) = tr(H) / (4 l d) ln N

and for Zipf R ~ (K N)^-((a-1)/a) for small K, N^-((a-1)/(a-b)) for large K, E_sat ~ N^(b/(a-b)).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from kaiyuan_jax.experiments.reuse import effective


@dataclasses.dataclass(frozen=True)
class Design:
    """A distribution of one-hot features."""

    probability: np.ndarray  # float64[d], p_i, sums to 1
    scale: np.ndarray  # float64[d], L_i, the squared length of feature i
    noise: float = 0.0  # s, standard deviation of a label

    @property
    def curvature(self) -> np.ndarray:
        """float64[d]: the eigenvalues p_i L_i of H."""
        return self.probability * self.scale


def slope(curvature: np.ndarray) -> float:
    """tr(H) / (4 l d): how fast E_sat grows with ln N in the strongly convex regime, of eigenvalues float64[d]."""
    return float(curvature.mean() / (4 * curvature.min()))


def strongly_convex(dimension: int = 10, condition: float = 8.0, noise: float = 0.1) -> Design:
    """Equally likely features whose eigenvalues fall geometrically by `condition` from first to last."""
    return Design(np.full(dimension, 1 / dimension), condition ** -np.linspace(0, 1, dimension), noise)


def zipf(dimension: int = 100_000, a: float = 4.5, b: float = 1.0) -> Design:
    """p_i ~ i^-(a-b), L_i = i^-b, no noise; the defaults are 2511.13421's. Raises ValueError unless a - b > 1 and b > 0."""
    if not (a - b > 1 and b > 0):
        raise ValueError(f"a = {a}, b = {b}: must have a - b > 1 and b > 0")
    index = np.arange(1, dimension + 1, dtype=np.float64)
    weight = index ** -(a - b)
    return Design(weight / weight.sum(), index**-b)


def risk(design: Design, samples: int, epochs: float, rates: np.ndarray) -> np.ndarray:
    """float64[G]: expected excess risk after `epochs` over `samples`, of each constant rate float64[G] in (0, 1 / max L_i].

    `epochs` = inf gives the limit: for small rates that of the minimum of the empirical risk. `samples` = 0 gives the risk at w = 0.
    """
    rates_G = np.asarray(rates, np.float64)
    if design.noise == 0:
        rest_Gd = 1 - np.minimum(rates_G[:, None] * design.scale, 1)
        left_Gd = rest_Gd ** (2 * epochs)
        return 0.5 * np.exp(samples * np.log1p(-design.probability * (1 - left_Gd))) @ design.curvature
    total_G = np.zeros_like(rates_G)
    for p, scale in zip(design.probability, design.scale, strict=True):
        counts_n, weights_n = _binomial(samples, p)
        total_G += 0.5 * p * scale * (_second_moment(rates_G[:, None], scale, design.noise, counts_n, epochs) @ weights_n)
    return total_G


def best(design: Design, samples: int, epochs: float) -> tuple[float, float]:
    """(R*(K, N), its rate): the least risk over constant rates in (0, 1 / max L_i]."""
    top = 1 / design.scale.max()
    if design.noise == 0:
        return float(risk(design, samples, epochs, np.array([top]))[0]), float(top)  # without noise the largest rate is best
    grid = top * np.geomspace(1e-7, 1, 57)
    for _ in range(3):
        values = risk(design, samples, epochs, grid)
        place = int(values.argmin())
        found = float(values[place]), float(grid[place])
        grid = np.geomspace(grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)], 17)
    return found


def one_pass(design: Design, longest: int, points: int = 161) -> effective.Curve:
    """R*(1, N') at `points` values of N' from 1 to `longest`, evenly in its logarithm."""
    samples = np.unique(np.geomspace(1, longest, points).round().astype(np.int64))
    return effective.Curve(samples.astype(np.float64), np.array([best(design, int(n), 1)[0] for n in samples]))


def reuse(design: Design, samples: int, epochs: Sequence[float], curve: effective.Curve) -> np.ndarray:
    """float64[K]: E(K, N) of each number of epochs, by the one-pass `curve` of the same design."""
    return effective.reuse(curve, np.array([best(design, samples, k)[0] for k in epochs]), samples)


def exponent(x: np.ndarray, y: np.ndarray) -> float:
    """The slope of ln y over ln x by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _second_moment(rate, scale, noise, count, epochs):
    """E[error^2] of a coordinate that occurs `count` times an epoch; arrays broadcast, float64."""
    a = np.minimum(rate * scale, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_f = np.where(count > 0, count * np.log1p(-a), 0.0)  # -inf where the rate forgets everything
        f, f2 = -np.expm1(log_f), -np.expm1(2 * log_f)  # 1 - f, 1 - f^2
        left, left2 = -np.expm1(epochs * log_f), -np.expm1(2 * epochs * log_f)  # 1 - f^K, 1 - f^2K
        inside = f2 / (a * (2 - a))  # q
        across = (f / a) ** 2 / count  # g^2 / n
        spread = rate**2 * scale * noise**2 * (inside * left2 / f2 + across * ((left / f) ** 2 - left2 / f2))
    return np.where(count > 0, (1 - left2) + spread, 1.0)


def _binomial(samples: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts float64[n] and weights float64[n] that stand for a binomial: nine deviations to each side, six nodes a deviation at least."""
    mean, deviation = samples * p, np.sqrt(samples * p * (1 - p))
    step = max(1, int(deviation / 6))
    low, high = max(0, int(mean - 9 * deviation) - 20), min(samples, int(mean + 9 * deviation) + 20)
    counts = np.arange(low, high + 1, step, dtype=np.float64)
    logs = special.gammaln(samples + 1) - special.gammaln(counts + 1) - special.gammaln(samples - counts + 1)
    logs += special.xlogy(counts, p) + special.xlog1py(samples - counts, -p)
    weights = np.exp(logs - logs.max())
    return counts, weights / weights.sum()
