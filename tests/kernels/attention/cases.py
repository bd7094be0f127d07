"""Random attention and what every implementation is held to: the definition's value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = {"float32": 2e-5, "float16": 8e-3, "bfloat16": 4e-2}


def tensors(seed, B, L, H, K, C, dtype="float32", spread=1.0):
    """q_BLHC, k_BLKC, v_BLKC with entries of that spread, and segments_BL with a boundary every five tokens or so."""
    generator = np.random.default_rng(seed)  # numpy's: jax would compile a program for every shape
    q, k, v = (jnp.asarray(spread * generator.standard_normal((B, L, heads, C)), dtype) for heads in (H, K, K))
    return q, k, v, jnp.asarray(np.cumsum(generator.random((B, L)) < 0.2, axis=1, dtype=np.int32))


def value_and_gradients(function, q, k, v):
    """[o, dq, dk, dv] as float32 numpy arrays, for a fixed cotangent of o."""
    do = jnp.asarray(np.cos(np.arange(q.size)).reshape(q.shape), q.dtype)

    def run(q, k, v, do):
        out, pull = jax.vjp(function, q, k, v)
        return out, *pull(do)

    return [np.asarray(x, np.float32) for x in jax.jit(run)(q, k, v, do)]


def assert_equal(got, want, dtype):
    """Within the dtype's tolerance, of the value and of the largest entry of each array."""
    for a, b in zip(got, want, strict=True):
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max())))
