"""Dynamic loss scaling: what lets gradients pass through float16, which holds 6e-8 to 65,504.

    the objective is multiplied by s, the float32 gradient divided by s;   a gradient that is not finite means that s was too large:
    the update is skipped and  s <- s / factor;   after `growth_interval` finite steps in a row  s <- s factor

Cotangents are the objective's derivatives times s. Most of them are far below 6e-8 without it, and with a scale too large the first to
overflow makes the whole gradient infinite or NaN, which one flag over all of it shows: gradients are global arrays under `jax.jit`, so
that flag is the same on every device. Growth counts as in PyTorch's GradScaler: the k-th finite step in a row already grows the scale
(flax.training.dynamic_scale waits for one more).

An overflow in the forward pass is no question of s. It makes the loss itself not finite, is skipped and counted like any other, and since
no smaller s cures it, one that stays brings s below its floor after log_factor(s / floor) + 1 steps: then the run stops.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kaiyuan_jax import config


class LossScale(NamedTuple):
    """Part of the train state, so that a resumed run goes on with the same scale; every field is a scalar."""

    scale: jax.Array  # float32: what the objective of the next step is multiplied by
    good_steps: jax.Array  # int32: finite steps since the scale last changed
    skipped: jax.Array  # int32: updates skipped in the whole run
    nonfinite_loss: jax.Array  # int32: those of them whose loss was not finite, which is the forward pass


def init(precision: config.Precision) -> LossScale | tuple[()]:
    """The state before the first step; empty where the compute dtype has the range of float32 and needs no scale."""
    if precision.compute != "float16":
        return ()
    zero = jnp.zeros((), jnp.int32)
    return LossScale(jnp.float32(precision.loss_scale), zero, zero, zero)


def update(state: LossScale, finite: jax.Array, loss_finite: jax.Array, precision: config.Precision) -> LossScale:
    """The state after a step whose loss and gradient together were `finite` (bool []), and whose loss alone was `loss_finite`."""
    grows = finite & (state.good_steps + 1 >= precision.growth_interval)
    grown = state.scale * precision.scale_factor
    grown = jnp.where(jnp.isfinite(grown), grown, state.scale)
    return LossScale(
        scale=jnp.where(finite, jnp.where(grows, grown, state.scale), state.scale / precision.scale_factor),
        good_steps=jnp.where(grows | ~finite, 0, state.good_steps + 1),
        skipped=state.skipped + ~finite,
        nonfinite_loss=state.nonfinite_loss + (~finite & ~loss_finite),
    )


def exhausted(state: LossScale, precision: config.Precision) -> jax.Array:
    """bool []: the scale is below its floor, and going on would be of no use."""
    return state.scale < precision.scale_floor
