"""Multi-epoch SGD on linear regression, by running it: the check of what regression.py computes, and dense features, which it cannot.

    y = x w* + noise,  w* = 1,  x ~ N(0, diag(curvature)) or one-hot;   w <- w - h x (x w - y),  a fresh random order every epoch

For one pass over Gaussian features the second moments m_i = E[(w - w*)_i^2] are exact without sampling, because E[x x' M x x'] =
2 H M H + tr(H M) H:

    m_i <- (1 - 2 h l_i + 2 h^2 l_i^2) m_i + h^2 l_i (sum_j l_j m_j + noise^2)
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from kaiyuan_jax.experiments.reuse import effective, regression


def gaussian(curvature: np.ndarray, noise: float, samples: int, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(x [S, N, d], y [S, N]), S = `repeats` independent sets of N = `samples`."""
    random = np.random.default_rng(seed)
    x_SNd = random.standard_normal((repeats, samples, curvature.size)) * np.sqrt(curvature)
    return x_SNd, x_SNd.sum(axis=2) + noise * random.standard_normal((repeats, samples))


def one_hot(design: regression.Design, samples: int, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of a design of one-hot features."""
    random = np.random.default_rng(seed)
    which_SN = random.choice(design.probability.size, size=(repeats, samples), p=design.probability)
    x_SNd = np.eye(design.probability.size)[which_SN] * np.sqrt(design.scale)
    return x_SNd, x_SNd.sum(axis=2) + design.noise * random.standard_normal((repeats, samples))


def run(x_SNd: np.ndarray, y_SN: np.ndarray, curvature: np.ndarray, rates: np.ndarray, epochs: int, seed: int) -> np.ndarray:
    """float64[S, G, K]: the excess risk 1/2 sum_i l_i (w - w*)_i^2 of every set and rate at the end of every epoch."""
    random = np.random.default_rng(seed)
    sets, samples, dimension = x_SNd.shape
    w_SGd = np.zeros((sets, rates.size, dimension))
    found = np.empty((sets, rates.size, epochs))
    rows = np.arange(sets)
    with np.errstate(over="ignore", invalid="ignore"):  # a rate that diverges
        for epoch in tqdm(range(epochs), desc=f"SGD, N = {samples}", leave=False, disable=None):
            order_SN = random.permuted(np.tile(np.arange(samples), (sets, 1)), axis=1)
            for step in range(samples):
                x_Sd = x_SNd[rows, order_SN[:, step]]
                error_SG = np.einsum("sgd,sd->sg", w_SGd, x_Sd) - y_SN[rows, order_SN[:, step]][:, None]
                w_SGd -= (rates * error_SG)[:, :, None] * x_Sd[:, None, :]
            found[:, :, epoch] = 0.5 * ((w_SGd - 1) ** 2 @ curvature)
    return found


def gaussian_one_pass(curvature: np.ndarray, noise: float, rates: np.ndarray, samples: Sequence[int]) -> effective.Curve:
    """R*(1, N') over Gaussian features, exactly but for the grid of rates float64[G]; `samples` ascending."""
    moments_Gd = np.ones((rates.size, curvature.size))
    h, best, wanted = rates[:, None], [], set(samples)
    with np.errstate(over="ignore", invalid="ignore"):
        shrink_Gd, kick_Gd = 1 - 2 * h * curvature + 2 * (h * curvature) ** 2, h**2 * curvature
        for step in range(1, samples[-1] + 1):
            moments_Gd = shrink_Gd * moments_Gd + kick_Gd * ((moments_Gd @ curvature)[:, None] + noise**2)
            if step in wanted:
                best.append(np.nanmin(0.5 * moments_Gd @ curvature))
    return effective.Curve(np.asarray(samples, np.float64), np.array(best))


def gaussian_reuse(curvature: np.ndarray, noise: float, sizes: Sequence[int], epochs: int, *, repeats: int, seed: int = 0) -> dict:
    """E(K, N) of SGD over dense Gaussian features, K = 1 to `epochs`, by N; and the curve of one pass.

    Rates are c ln(K N) / (K N), c on a grid, as in 2511.13421, and E R is the mean of `repeats` sets for each rate, then its least.
    """
    top = 1 / curvature.sum()
    longest = int(max(sizes) * min(epochs, 1 + 2 * regression.slope(curvature) * np.log(max(sizes) * epochs)))
    points = np.unique(np.geomspace(1, longest, 121).round().astype(int)).tolist()
    curve = gaussian_one_pass(curvature, noise, np.minimum(top, np.geomspace(1e-5, 1, 81)), points)
    found = {}
    for samples in sizes:
        x_SNd, y_SN = gaussian(curvature, noise, samples, repeats, seed)
        largest = np.log(samples) / (2 * curvature.min() * samples)
        rates = np.unique(np.minimum(top, largest * np.geomspace(2 / epochs, 4, 20)))
        risk_GK = run(x_SNd, y_SN, curvature, rates, epochs, seed + 1).mean(axis=0)
        found[samples] = effective.reuse(curve, np.nanmin(risk_GK, axis=0), samples)
    return {"curve": curve, "reuse": found}
