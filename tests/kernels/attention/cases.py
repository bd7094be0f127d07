"""Random attention and what every implementation is held to: the definition's value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = {"float32": 2e-5, "float16": 8e-3, "bfloat16": 4e-2}


def tensors(seed, B, L, H, K, C, dtype="float32", spread=1.0):
    """q_BLHC, k_BLKC, v_BLKC with entries of that spread, and segments_BL with a boundary every five tokens or so."""
    keys = jax.random.split(jax.random.key(seed), 4)
    q, k, v = (
        (spread * jax.random.normal(key, (B, L, heads, C), jnp.float32)).astype(dtype)
        for key, heads in zip(keys[:3], (H, K, K), strict=True)
    )
    segments = jnp.cumsum(jax.random.bernoulli(keys[3], 0.2, (B, L)), axis=1).astype(jnp.int32)
    return q, k, v, segments


def value_and_gradients(function, q, k, v):
    """[o, dq, dk, dv] as float32 numpy arrays, for a fixed cotangent of o."""
    do = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape).astype(q.dtype)

    def run(q, k, v, do):
        out, pull = jax.vjp(function, q, k, v)
        return out, *pull(do)

    return [np.asarray(x, np.float32) for x in jax.jit(run)(q, k, v, do)]


def assert_equal(got, want, dtype):
    """Within the dtype's tolerance, of the value and of the largest entry of each array."""
    for a, b in zip(got, want, strict=True):
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max())))
