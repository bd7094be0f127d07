"""Averages of the parameters that are made inside the train state while the run goes on, in one float32 copy of them.

**Per step** (`online_decay`): with decay d, after the updates 0..t the average is the normalised exponential average of what it has seen,

    average_t = sum_{i<=t} d^(t-i) p_i / sum_{i<=t} d^(t-i)

kept in that corrected form by moving a share of the way to the new parameters:

    average_t = average_{t-1} + (1 - d) / (1 - d^(t+1)) (p_t - average_{t-1})

The share is 1 at the first update, so neither zeros nor the random initial weights are ever part of the average.

**Over a window** (`online_every`): the points are the weights after the last steps T, T - e, T - 2e, ... of a run, as many as
`averaging.last`, and the average has the weights of `averaging.kind` (averaging/weights.py), as if each point were a checkpoint of an
offline average. Taken up one by one, oldest first, with S_j the sum of the first j weights,

    average_j = S_{j-1} / S_j average_{j-1} + w_j / S_j p_j

is an average at every point, and after the last one the average, since S = 1. Where weights cancel in S_j (some are negative) the sum is
carried undivided until they do not. Between points nothing is computed, and no second copy is ever needed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.averaging import weights

_CANCELLED = 0.01  # of the sum of absolute weights: below, dividing by S_j would magnify rounding


@dataclasses.dataclass(frozen=True)
class Window:
    """One entry a point, oldest first."""

    points: np.ndarray  # int32, steps after which the weights are taken up
    keep: np.ndarray  # float32, factor of the average before
    share: np.ndarray  # float32, factor of the weights
    whole: np.ndarray  # bool, what the state then holds is an average

    def holds(self, step: int) -> bool:
        """Whether after `step` the state holds an average of the points so far."""
        passed = self.whole[self.points <= step]
        return passed.size > 0 and bool(passed[-1])


def window(averaging: config.Averaging, steps: int) -> Window:
    """The points of a run of so many steps; those before the first step, if any, never come (`check` refuses them)."""
    weights_K = weights.weights(averaging)[::-1]
    sums_K, sizes_K = np.cumsum(weights_K), np.cumsum(np.abs(weights_K))
    whole_K = np.abs(sums_K) > _CANCELLED * sizes_K
    divisors_K = np.where(whole_K, sums_K, 1.0)
    points_K = steps - averaging.online_every * np.arange(weights_K.size - 1, -1, -1)
    keep_K = np.concatenate([[0.0], divisors_K[:-1]]) / divisors_K
    return Window(points_K.astype(np.int32), keep_K.astype(np.float32), (weights_K / divisors_K).astype(np.float32), whole_K)


def check(averaging: config.Averaging, steps: int) -> None:
    """Raises ConfigError when the window does not lie inside a run of so many steps."""
    if averaging.online_every and (first := int(window(averaging, steps).points[0])) < 1:
        raise config.ConfigError(
            f"config.averaging.online_every: found {averaging.online_every}, the {averaging.last} points of the average begin at step "
            f"{first} of {steps}; must be at most {(steps - 1) // max(averaging.last - 1, 1)}, or lower config.averaging.last"
        )


def describe(averaging: config.Averaging, steps: int) -> dict | None:
    """JSON-able: what decides the average over a window, None where there is none."""
    if not averaging.online_every:
        return None
    return {"points": window(averaging, steps).points.tolist(), "weights": weights.weights(averaging)[::-1].tolist()}


def take_up(average, params, window: Window, step):
    """The float32 average after `step` (traced, 0 for none): as it was, unless the step is a point of the window."""
    at = jnp.asarray(window.points) == step
    keep, share = (jnp.where(at, factors, 0).sum() for factors in (window.keep, window.share))

    def move(average, params):
        return jax.tree.map(lambda mean, leaf: keep * mean + share * leaf.astype(jnp.float32), average, params)

    return jax.lax.cond(at.any(), move, lambda average, params: average, average, params)


def init(params):
    """A float32 copy of `params`: the average before any update."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)


def update(average, params, decay, step):
    """The float32 average after update `step` (0 for the first) produced `params`; all arguments may be traced."""
    # The share of a small 1 - d is exact in this form; (1 - share) * average would lose it to rounding, step after step.
    share = (1 - decay) / -jnp.expm1((step + 1) * jnp.log(jnp.float32(decay)))

    def move(mean, leaf):
        leaf = leaf.astype(jnp.float32)
        return jnp.where(step == 0, leaf, mean + share * (leaf - mean))

    return jax.tree.map(move, average, params)
