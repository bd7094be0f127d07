"""The loss of next-token prediction: cross-entropy of soft-capped logits, in nats, for every target."""

from kaiyuan_jax.kernels.cross_entropy.api import linear_cross_entropy
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models.decoder import Decoder


def token_losses(decoder: Decoder, batch: dict, place: Placement = ANYWHERE, found: dict | None = None):
    """(loss_BL, logsumexp_BL), float32 nats, of batch["targets_BL"]; mean(logsumexp_BL^2) is the z-loss.

    A dict `found` is filled with the largest values inside the layers (models/statistics.py).
    """
    x_BLD = place.constrain(decoder(batch["inputs_BL"], batch["segments_BL"], batch["positions_BL"], place, found), "BLD")
    return linear_cross_entropy(x_BLD, decoder.head(), batch["targets_BL"], softcap=decoder.softcap, place=place)
