"""The effective reuse rate E(K, N) of 2511.13421: how many times N fresh samples K epochs over the same N samples are worth.

    E(K, N) = (1 / N) min{N' >= 0: R*(1, N') <= R*(K, N)}

With a curve R(1, N') of one long pass it is one inversion: N' by interpolation of ln N' over ln R, where the curve has first been made to
fall everywhere: by the least-squares falling curve, since the running minimum of a noisy curve is too low.
E(K, N) <= K up to noise. How long reuse pays is the saturation K(share, N): where E falls below `share` of K.
"""

import dataclasses
import functools

import numpy as np
from scipy import optimize


@dataclasses.dataclass(frozen=True)
class Curve:
    """One pass over fresh data: a loss or risk at each number of samples (or tokens), ascending."""

    samples: np.ndarray  # float64[P], above 0
    losses: np.ndarray  # float64[P], above 0

    @functools.cached_property
    def falling(self) -> np.ndarray:
        """float64[P]: the losses as the nearest falling curve, in the logarithm."""
        return np.exp(optimize.isotonic_regression(np.log(self.losses), increasing=False).x)

    def samples_for(self, losses: np.ndarray) -> np.ndarray:
        """float64[...]: the least N' of which the curve reaches each loss; inf for losses below its end, its first N' for those above."""
        logs, x = np.log(self.falling), np.log(self.samples)
        # np.interp takes a rising abscissa; of a flat stretch it must answer with the beginning.
        first = np.concatenate([[True], np.diff(logs) < 0])
        found = np.exp(np.interp(-np.log(losses), -logs[first], x[first]))
        return np.where(np.log(losses) < logs[-1], np.inf, found)


def reuse(curve: Curve, losses: np.ndarray, fresh: float) -> np.ndarray:
    """float64[...]: E(K, N) of losses L(K, N) that were reached with `fresh` = N samples; inf where one pass never got so low."""
    return curve.samples_for(np.asarray(losses, np.float64)) / fresh


def saturation(epochs: np.ndarray, reuse: np.ndarray, share: float = 0.75) -> float:
    """K(share, N): the first K, interpolated, at which E(K) falls below `share` K; inf where it does not.

    epochs, reuse: float64[P], ascending epochs. Points where E is infinite (beyond the one-pass curve) count as not below.
    """
    excess = reuse / epochs - share
    below = np.flatnonzero(excess < 0)
    if not below.size:
        return float("inf")
    last = int(below[0])
    if last == 0:
        return float(epochs[0])
    before = excess[last - 1]
    if not np.isfinite(before):
        return float(epochs[last])
    part = before / (before - excess[last])
    return float(np.exp(np.log(epochs[last - 1]) + part * np.log(epochs[last] / epochs[last - 1])))
