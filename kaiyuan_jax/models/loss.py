"""The loss of next-token prediction: cross-entropy of soft-capped logits, in nats, for every target."""

import jax.numpy as jnp
import numpy as np

from kaiyuan_jax.kernels.attention.context import zigzag
from kaiyuan_jax.kernels.cross_entropy.api import linear_cross_entropy, weighted_objective
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models.decoder import Decoder


def token_losses(decoder: Decoder, batch: dict, place: Placement = ANYWHERE, found: dict | None = None):
    """(loss_BL, logsumexp_BL), float32 nats, of batch["targets_BL"]; mean(logsumexp_BL^2) is the z-loss.

    A dict `found` is filled with the largest values inside the layers (models/statistics.py).
    """
    batch, restored = _ordered(batch, place)
    x_BLD = _hidden(decoder, batch, place, found)
    outputs = linear_cross_entropy(x_BLD, decoder.head(), batch["targets_BL"], softcap=decoder.softcap, place=place)
    return tuple(map(restored, outputs))


def mean_objective(decoder: Decoder, batch: dict, place: Placement = ANYWHERE, found: dict | None = None, *, z_loss=0.0, scale=1.0):
    """(scale * mean over all tokens of loss + z_loss logsumexp^2, loss_BL, logsumexp_BL), float32; only the first has a gradient.

    `scale`: the loss scale, a number or float32 []; `found` as above.
    """
    batch, restored = _ordered(batch, place)
    x_BLD, targets_BL = _hidden(decoder, batch, place, found), batch["targets_BL"]
    weights_BL = jnp.full(targets_BL.shape, 1.0 / targets_BL.size, jnp.float32)
    options = dict(z_loss=z_loss, softcap=decoder.softcap, scale=scale, place=place)
    objective, *measured = weighted_objective(x_BLD, decoder.head(), targets_BL, weights_BL, **options)
    return objective, *map(restored, measured)


def _ordered(batch: dict, place: Placement):
    """The batch with its positions in the order in which devices hold them, and a function that puts results [B, L] back.

    As it came where no row is cut. All arrays of a batch are [B, L] integers, so that little moves.
    """
    n = place.ways("L")
    if n == 1:
        return batch, lambda x_BL: x_BL
    order_L = zigzag(batch["targets_BL"].shape[1], n)
    moved = {key: None if x is None else place.constrain(x[:, order_L], "BL") for key, x in batch.items()}
    return moved, lambda x_BL: x_BL[:, np.argsort(order_L)]


def _hidden(decoder, batch, place, found):
    return place.constrain(decoder(batch["inputs_BL"], batch["segments_BL"], batch["positions_BL"], place, found), "BLD")
