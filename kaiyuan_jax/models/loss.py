"""The loss of next-token prediction: cross-entropy of soft-capped logits, in nats, for every target."""

from kaiyuan_jax.kernels.cross_entropy.api import linear_cross_entropy
from kaiyuan_jax.models.decoder import Decoder


def token_losses(decoder: Decoder, batch: dict, constrain=lambda x, dims: x, shards: int = 1):
    """(loss_BL, logsumexp_BL), float32 nats, of batch["targets_BL"]; mean(logsumexp_BL^2) is the z-loss.

    `shards` is the number of parts that the batch is cut into (mesh axes data x fsdp): chunks of the cross-entropy grow with it, and
    the head's gradient is summed over devices once.
    """
    x_BLD = constrain(decoder(batch["inputs_BL"], batch["segments_BL"], batch["positions_BL"], constrain), "BLD")
    return linear_cross_entropy(x_BLD, decoder.head(), batch["targets_BL"], softcap=decoder.softcap, shards=shards)
