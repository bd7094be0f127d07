"""QK-norm and RoPE as XLA takes them from their formulas: on GPUs one pass forward, on CPUs what there is."""

import jax
import jax.numpy as jnp


def rms_norm(x, gain, epsilon: float):
    """x / sqrt(mean(x^2) + epsilon) * gain over the last axis, in float32; returned in x's dtype."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * scale * gain.astype(jnp.float32)).astype(x.dtype)


def rotate(x_BLHC, angles):
    """Rotates the pairs (i, i + C/2), the layout of Qwen and Llama checkpoints."""
    cos, sin = angles
    first, second = jnp.split(x_BLHC.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BLHC.dtype)


def head_norm(x_BLHC, gain_C, angles, epsilon: float):
    """rotate(rms_norm(x)), rounded to x's dtype in between."""
    return rotate(rms_norm(x_BLHC, gain_C, epsilon), angles)
