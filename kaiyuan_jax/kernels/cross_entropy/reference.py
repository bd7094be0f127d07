"""The definition of the op, plain float32: logits = c tanh(x head / c), loss = logsumexp(logits) - logits[target], 0 for an ignored target.

objective = scale * sum over tokens that are not ignored of  weight * (loss + z_loss * logsumexp^2)
"""

import jax
import jax.numpy as jnp


def linear_cross_entropy(x_BLD, head_DV, targets_BL, *, softcap: float = 0.0):
    """(loss_BL, logsumexp_BL) in float32; holds all logits. A negative target has loss 0."""
    with jax.default_matmul_precision("highest"):
        logits_BLV = jnp.einsum("BLD,DV->BLV", x_BLD.astype(jnp.float32), head_DV.astype(jnp.float32))
    if softcap:
        logits_BLV = softcap * jnp.tanh(logits_BLV / softcap)
    logsumexp_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    target_BL = jnp.take_along_axis(logits_BLV, jnp.maximum(targets_BL, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(targets_BL < 0, 0.0, logsumexp_BL - target_BL), logsumexp_BL


def weighted_objective(x_BLD, head_DV, targets_BL, weights_BL, *, z_loss: float = 0.0, softcap: float = 0.0, scale=1.0):
    """(objective, loss_BL, logsumexp_BL) in float32."""
    loss_BL, logsumexp_BL = linear_cross_entropy(x_BLD, head_DV, targets_BL, softcap=softcap)
    weights_BL = jnp.where(targets_BL < 0, 0.0, weights_BL)
    return scale * jnp.sum(weights_BL * (loss_BL + z_loss * jnp.square(logsumexp_BL))), loss_BL, logsumexp_BL
