"""Largest absolute values inside every layer, for headroom in float16 (models/headroom.py).

A forward pass that is asked for statistics gets a dict `found` to fill; None costs nothing. What is recorded are the tensors that exist in
the compute dtype where they are largest, before the norm that follows them:

    residual      the stream after each branch                   query, key, value   projections, before QK-norm
    attention     what the attention branch adds, before its     gated               silu(x gate) * (x up)
                  post-norm                                      feedforward         what that branch adds, before its post-norm

and two bounds on numbers that only ever exist in float32, so that no headroom is counted for them: by Cauchy-Schwarz

    scores <= max |q| max |k| / sqrt(C)  by row and key/value head,     logits <= max |x| max |column of the head|  before the soft-cap.
"""

import math

import jax
import jax.numpy as jnp


def record(found: dict | None, name: str, *tensors: jax.Array) -> None:
    """Puts the largest absolute value of some tensors, float32 [], into `found`; NaN where one holds NaN."""
    if found is not None:
        found[name] = jnp.stack([jnp.abs(jax.lax.stop_gradient(x)).max().astype(jnp.float32) for x in tensors]).max()


def record_scores(found: dict | None, q_BLHC: jax.Array, k_BLKC: jax.Array) -> None:
    """Puts the bound on attention scores into `found`."""
    if found is not None:
        B, L, K, C = k_BLKC.shape
        q_BK = _longest(q_BLHC.reshape(B, L, K, -1, C), (1, 3))
        found["scores"] = (q_BK * _longest(k_BLKC, 1)).max() / math.sqrt(C)


def record_logits(found: dict | None, x_BLD: jax.Array, head_DV: jax.Array) -> None:
    """Puts the bound on raw logits into `found`."""
    if found is not None:
        found["logits"] = _longest(x_BLD, None) * _longest(head_DV.T, None)


def _longest(x, axes):
    """Largest Euclidean length over the last axis, in float32."""
    squares = jnp.square(jax.lax.stop_gradient(x).astype(jnp.float32)).sum(-1)
    return jnp.sqrt(squares.max(axes))
