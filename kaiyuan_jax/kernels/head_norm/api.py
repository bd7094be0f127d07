"""QK-norm and RoPE of queries or keys, one function, whatever computes it."""

import functools

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import NamedSharding

from kaiyuan_jax.kernels.head_norm import xla
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

IMPLEMENTATIONS = ("pallas_tpu", "xla")  # in the order in which None tries them


def head_norm(x_BLHC, gain_C, angles, epsilon: float, *, place: Placement = ANYWHERE, implementation: str | None = None):
    """rotate(x / sqrt(mean(x^2) + epsilon) * gain) of every head, in x's dtype, to which the norm is rounded before it is rotated.

    angles: cosines and sines, float32 [B, L, 1, C/2], of the pairs (i, i + C/2); they have no gradient. implementation: None takes the
    first of IMPLEMENTATIONS that can run on the device kind of `place`, and logs it once. Raises ValueError for a name that does not
    exist or cannot run.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"head_norm: found implementation {implementation!r}, must be None or one of {', '.join(IMPLEMENTATIONS)}")
    reason = _unsupported(x_BLHC, place)
    if implementation == "pallas_tpu" and reason:
        raise ValueError(f"head_norm: pallas_tpu cannot run ({reason}); leave the implementation out or take xla")
    if implementation is None:
        implementation = "xla" if reason else "pallas_tpu"
        _log_once(implementation)
    angles = jax.lax.stop_gradient(angles)
    if implementation == "xla":
        return xla.head_norm(x_BLHC, gain_C, angles, epsilon)
    packed_BLC = jnp.concatenate(angles, axis=-1)[:, :, 0]
    local = functools.partial(_local, epsilon=epsilon)
    return place.local(local, ("BLHC", "C", "BLC"), ("BLHC",))(x_BLHC, gain_C, packed_BLC)[0]


def _local(x_BLHC, gain_C, angles_BLC, epsilon: float):
    from kaiyuan_jax.kernels.head_norm import pallas_tpu

    B, L, H, C = x_BLHC.shape
    y_THC = pallas_tpu.head_norm(x_BLHC.reshape(B * L, H, C), gain_C, angles_BLC.reshape(B * L, C), epsilon)
    return (y_THC.reshape(B, L, H, C),)


def _unsupported(x_BLHC, place: Placement) -> str:
    """Why the kernel cannot take this case, or nothing."""
    if place.platform != "tpu":
        return "it is for TPUs"
    shape = x_BLHC.shape
    if place.mesh is not None and place.mesh.size > 1:
        shape = NamedSharding(place.mesh, place.spec("BLHC", shape)).shard_shape(shape)
    B, L, H, C = shape
    if x_BLHC.dtype not in (jnp.bfloat16, jnp.float32):
        return f"no TPU kernel takes {x_BLHC.dtype}"
    if C != 128 or H % 8 or B * L % 8:
        return f"found {H} heads of {C} and {B * L} tokens on a device, needs multiples of 8 heads, of 128, and of 8 tokens"
    return ""


@functools.cache
def _log_once(implementation: str):
    logging.info("head_norm: using the %s implementation", implementation)
