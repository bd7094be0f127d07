"""QK-norm and RoPE in one pass over a block of tokens in a TPU's vector memory, forward and backward.

XLA splits a head's 128 lanes into two halves of 64, which a TPU pads to 128 again, and writes float32 intermediates. Here the half turn
is a lane rotation: with cos = (c, c) and sin = (-s, s) over a head,

    n = x r g,  r = rsqrt(mean(x^2) + epsilon);   y = n cos + turn(n) sin;   turn swaps the halves
    dn = dy cos - turn(dy) sin;   dx = r (dn g - x r mean(dn g x r));   dg = sum of dn x r

The residual is x alone. Blocks run one after the other, so the gain's gradient is summed in place.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

BLOCK = 2**19  # elements of x in a block: 1 MiB in bfloat16, about 8 with its float32 values


def block_tokens(T: int, H: int, C: int) -> int:
    """Tokens of a block: the largest power of two within BLOCK that divides T; 0 when there is none of at least 8."""
    tokens = max(8, BLOCK // (H * C))
    tokens = 1 << (tokens.bit_length() - 1)
    while tokens >= 8 and T % tokens:
        tokens //= 2
    return tokens if tokens >= 8 else 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def head_norm(x_THC, gain_C, angles_TC, epsilon: float, interpret=False):
    """y_THC in x's dtype. angles_TC float32: cosines of a token's C/2 angles, then their sines."""
    return _call(_forward_kernel, x_THC, (x_THC,), gain_C, angles_TC, epsilon, interpret)


def _forward(x_THC, gain_C, angles_TC, epsilon, interpret):
    return head_norm(x_THC, gain_C, angles_TC, epsilon, interpret), (x_THC, gain_C, angles_TC)


def _backward(epsilon, interpret, residuals, dy_THC):
    x_THC, gain_C, angles_TC = residuals
    dx_THC, dgain_8C = _call(_backward_kernel, x_THC, (x_THC, dy_THC), gain_C, angles_TC, epsilon, interpret)
    return dx_THC, dgain_8C.sum(0).astype(gain_C.dtype), jnp.zeros_like(angles_TC)


head_norm.defvjp(_forward, _backward)


def _call(kernel, like, arrays, gain_C, angles_TC, epsilon, interpret):
    T, H, C = like.shape
    tokens = block_tokens(T, H, C)
    block = pl.BlockSpec((tokens, H, C), lambda i: (i, 0, 0))
    small = pl.BlockSpec((1, C), lambda i: (0, 0))
    angles = pl.BlockSpec((tokens, C), lambda i: (i, 0))
    y = jax.ShapeDtypeStruct(like.shape, like.dtype)
    backward = len(arrays) == 2
    return pl.pallas_call(
        functools.partial(kernel, epsilon=epsilon),
        grid=(T // tokens,),
        in_specs=[block] * len(arrays) + [small, angles],
        out_specs=[block, pl.BlockSpec((8, C), lambda i: (0, 0))] if backward else block,
        out_shape=[y, jax.ShapeDtypeStruct((8, C), jnp.float32)] if backward else y,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
    )(*arrays, gain_C.astype(jnp.float32)[None], angles_TC)


def _angles(angles_ref):
    """cos and signed sin, [tokens, 1, C], from the packed block."""
    packed = angles_ref[...]
    C = packed.shape[-1]
    turned = pltpu.roll(packed, C // 2, 1)
    first = jax.lax.broadcasted_iota(jnp.int32, packed.shape, 1) < C // 2
    return jnp.where(first, packed, turned)[:, None], jnp.where(first, -turned, packed)[:, None]


def _turn(x):
    """Swaps the halves of every head."""
    T, H, C = x.shape
    return pltpu.roll(x.reshape(T * H, C), C // 2, 1).reshape(T, H, C)


def _normed(x_ref, gain_ref, epsilon):
    x = x_ref[...].astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return x * scale, scale, gain_ref[...][None]


def _forward_kernel(x_ref, gain_ref, angles_ref, y_ref, *, epsilon):
    unit, _, gain = _normed(x_ref, gain_ref, epsilon)
    normed = (unit * gain).astype(y_ref.dtype).astype(jnp.float32)
    cos, sin = _angles(angles_ref)
    y_ref[...] = (normed * cos + _turn(normed) * sin).astype(y_ref.dtype)


def _backward_kernel(x_ref, dy_ref, gain_ref, angles_ref, dx_ref, dgain_ref, *, epsilon):
    unit, scale, gain = _normed(x_ref, gain_ref, epsilon)
    cos, sin = _angles(angles_ref)
    dy = dy_ref[...].astype(jnp.float32)
    dnormed = dy * cos - _turn(dy) * sin
    dunit = dnormed * gain
    dx_ref[...] = (scale * (dunit - unit * jnp.mean(dunit * unit, axis=-1, keepdims=True))).astype(dx_ref.dtype)

    @pl.when(pl.program_id(0) == 0)
    def _():
        dgain_ref[...] = jnp.zeros_like(dgain_ref)

    dgain_ref[...] += (dnormed * unit).reshape(-1, 8, dgain_ref.shape[1]).sum(0)
