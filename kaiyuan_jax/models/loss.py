"""The loss of next-token prediction: cross-entropy of soft-capped logits, in nats, for every target."""

import jax.numpy as jnp

from kaiyuan_jax.kernels.cross_entropy.api import linear_cross_entropy, weighted_objective
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models.decoder import Decoder


def token_losses(decoder: Decoder, batch: dict, place: Placement = ANYWHERE, found: dict | None = None):
    """(loss_BL, logsumexp_BL), float32 nats, of batch["targets_BL"]; mean(logsumexp_BL^2) is the z-loss.

    A dict `found` is filled with the largest values inside the layers (models/statistics.py).
    """
    x_BLD = _hidden(decoder, batch, place, found)
    return linear_cross_entropy(x_BLD, decoder.head(), batch["targets_BL"], softcap=decoder.softcap, place=place)


def mean_objective(decoder: Decoder, batch: dict, place: Placement = ANYWHERE, found: dict | None = None, *, z_loss=0.0, scale=1.0):
    """(scale * mean over all tokens of loss + z_loss logsumexp^2, loss_BL, logsumexp_BL), float32; only the first has a gradient.

    `scale`: the loss scale, a number or float32 []; `found` as above.
    """
    x_BLD, targets_BL = _hidden(decoder, batch, place, found), batch["targets_BL"]
    weights_BL = jnp.full(targets_BL.shape, 1.0 / targets_BL.size, jnp.float32)
    options = dict(z_loss=z_loss, softcap=decoder.softcap, scale=scale, place=place)
    return weighted_objective(x_BLD, decoder.head(), targets_BL, weights_BL, **options)


def _hidden(decoder, batch, place, found):
    return place.constrain(decoder(batch["inputs_BL"], batch["segments_BL"], batch["positions_BL"], place, found), "BLD")
