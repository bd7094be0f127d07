"""The cross-entropy of a linear head in two forms, whatever computes it: losses of tokens, and a weighted objective to train on.

`linear_cross_entropy` takes any cotangents of its two results, and computes the logits twice for a value and its gradient.
`weighted_objective` knows the weights of the tokens, and makes its gradient along with its value: the logits are computed once.
"""

import functools

import jax
import jax.numpy as jnp
from absl import logging

from kaiyuan_jax.kernels.cross_entropy import reference, sharded
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

IMPLEMENTATIONS = ("xla", "reference")  # in the order in which None tries them


def linear_cross_entropy(
    x_BLD, head_DV, targets_BL, *, softcap: float = 0.0, place: Placement = ANYWHERE, implementation: str | None = None
):
    """(loss_BL, logsumexp_BL) in float32 nats of logits = softcap tanh(x head / softcap), or x head when softcap is 0.

    x in any float dtype, in which the products are made; targets integers below V (not checked), a negative one (-1, -100) is ignored: its
    loss is 0. Both outputs have gradients for x and head; logsumexp is of the capped logits. place: where it runs; it changes memory and
    traffic, never values. implementation: None takes `place.cross_entropy`, or else the first of IMPLEMENTATIONS that can run, and logs
    it once. Raises ValueError for another name or bad shapes.
    """
    _check(x_BLD, head_DV, targets_BL)
    if _chosen(place, implementation) == "reference":
        return reference.linear_cross_entropy(x_BLD, head_DV, targets_BL, softcap=softcap)
    return _losses(x_BLD, head_DV, targets_BL, float(softcap), place)


def weighted_objective(
    x_BLD, head_DV, targets_BL, weights_BL, *, z_loss: float = 0.0, softcap: float = 0.0, scale=1.0,
    place: Placement = ANYWHERE, implementation: str | None = None,
):  # fmt: skip
    """(objective, loss_BL, logsumexp_BL) in float32: scale * sum of weight * (loss + z_loss * logsumexp^2), ignored targets left out.

    As `linear_cross_entropy`, but only the objective has a gradient, and only for x and head. weights_BL float32 [B, L], such as 1 / (B L)
    for a mean; scale: the loss scale, a number or float32 []. It is in the gradient before anything is cast to x's dtype, so that float16
    neither loses what is small nor hides what is too large.
    """
    _check(x_BLD, head_DV, targets_BL)
    if weights_BL.shape != targets_BL.shape or not jnp.issubdtype(weights_BL.dtype, jnp.floating):
        found = f"{weights_BL.dtype} {weights_BL.shape}"
        raise ValueError(f"cross_entropy: found weights {found}, must be float32 and of the targets' shape {targets_BL.shape}")
    weights_BL, scale = jax.lax.stop_gradient((weights_BL.astype(jnp.float32), jnp.asarray(scale, jnp.float32)))
    if _chosen(place, implementation) == "reference":
        options = dict(z_loss=z_loss, softcap=softcap, scale=scale)
        objective, *measured = reference.weighted_objective(x_BLD, head_DV, targets_BL, weights_BL, **options)
    else:
        g_BL = jnp.where(targets_BL < 0, 0.0, weights_BL * scale)
        objective, *measured = _objective(x_BLD, head_DV, targets_BL, g_BL, float(z_loss), float(softcap), place)
    return objective, *jax.lax.stop_gradient(measured)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _losses(x_BLD, head_DV, targets_BL, softcap, place):
    return sharded.losses(x_BLD, head_DV, targets_BL, softcap=softcap, place=place)


def _losses_forward(x_BLD, head_DV, targets_BL, softcap, place):
    outputs = _losses(x_BLD, head_DV, targets_BL, softcap, place)
    return outputs, (x_BLD, head_DV, targets_BL, *outputs)


def _losses_backward(softcap, place, residuals, cotangents):
    return *sharded.gradients(*residuals, *cotangents, softcap=softcap, place=place), None


_losses.defvjp(_losses_forward, _losses_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _objective(x_BLD, head_DV, targets_BL, g_BL, z_loss, softcap, place):
    measured = sharded.losses(x_BLD, head_DV, targets_BL, softcap=softcap, place=place)
    return _total(g_BL, z_loss, *measured), *measured


def _objective_forward(x_BLD, head_DV, targets_BL, g_BL, z_loss, softcap, place):
    options = dict(z_loss=z_loss, softcap=softcap, place=place)
    *measured, x_gradient, head_gradient = sharded.losses_and_gradients(x_BLD, head_DV, targets_BL, g_BL, **options)
    return (_total(g_BL, z_loss, *measured), *measured), (x_gradient, head_gradient)


def _objective_backward(z_loss, softcap, place, gradients, cotangents):
    cotangent = cotangents[0]  # 1 in training, where XLA leaves the product out
    return *((cotangent * gradient.astype(jnp.float32)).astype(gradient.dtype) for gradient in gradients), None, None


_objective.defvjp(_objective_forward, _objective_backward)


def _total(g_BL, z_loss, loss_BL, logsumexp_BL):
    return jnp.sum(g_BL * (loss_BL + z_loss * jnp.square(logsumexp_BL)))


def _check(x_BLD, head_DV, targets_BL):
    if x_BLD.ndim != 3 or x_BLD.shape[:2] != targets_BL.shape or head_DV.ndim != 2 or x_BLD.shape[2] != head_DV.shape[0]:
        raise ValueError(
            f"cross_entropy: found x {x_BLD.shape}, head {head_DV.shape}, targets {targets_BL.shape}; must be [B, L, D], [D, V], [B, L]"
        )
    if not jnp.issubdtype(targets_BL.dtype, jnp.integer):
        raise ValueError(f"cross_entropy: found targets of {targets_BL.dtype}, must be integers")


def _chosen(place: Placement, implementation: str | None) -> str:
    implementation = implementation or place.cross_entropy or None
    if implementation is None:
        implementation = IMPLEMENTATIONS[0]
        _log_once(implementation)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"cross_entropy: found implementation {implementation!r}, must be None or one of {', '.join(IMPLEMENTATIONS)}")
    return implementation


@functools.cache
def _log_once(implementation: str):
    logging.info("cross_entropy: using the %s implementation", implementation)
