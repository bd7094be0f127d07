"""The definition of the op, plain float32: logits = c tanh(x head / c), loss = logsumexp(logits) - logits[target]."""

import jax
import jax.numpy as jnp


def linear_cross_entropy(x_BLD, head_DV, targets_BL, *, softcap: float = 0.0):
    """(loss_BL, logsumexp_BL) in float32; holds all logits."""
    with jax.default_matmul_precision("highest"):
        logits_BLV = jnp.einsum("BLD,DV->BLV", x_BLD.astype(jnp.float32), head_DV.astype(jnp.float32))
    if softcap:
        logits_BLV = softcap * jnp.tanh(logits_BLV / softcap)
    logsumexp_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return logsumexp_BL - target_BL, logsumexp_BL
