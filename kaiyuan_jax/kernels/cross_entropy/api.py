"""One function for the cross-entropy of a linear head, whatever computes it."""

import functools

from absl import logging

from kaiyuan_jax.kernels.cross_entropy import reference, xla
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

IMPLEMENTATIONS = ("xla", "reference")  # in the order in which None tries them


def linear_cross_entropy(
    x_BLD, head_DV, targets_BL, *, softcap: float = 0.0, place: Placement = ANYWHERE, implementation: str | None = None
):
    """(loss_BL, logsumexp_BL) in float32 nats of logits = softcap tanh(x head / softcap), or x head when softcap is 0.

    x in any float dtype, targets int32 in [0, V) (not checked). Both outputs have gradients for x and head; logsumexp is of the capped
    logits. place: where it runs; it changes memory and traffic, never values.
    implementation: None takes `place.cross_entropy`, or else the first of IMPLEMENTATIONS that can run, and logs it once. Raises
    ValueError for another name or bad shapes.
    """
    if x_BLD.shape[:2] != targets_BL.shape or x_BLD.shape[2:] != head_DV.shape[:1]:
        raise ValueError(
            f"cross_entropy: found x {x_BLD.shape}, head {head_DV.shape}, targets {targets_BL.shape}; must be [B, L, D], [D, V], [B, L]"
        )
    implementation = implementation or place.cross_entropy or None
    if implementation is None:
        implementation = IMPLEMENTATIONS[0]
        _log_once(implementation)
    if implementation == "xla":
        return xla.linear_cross_entropy(x_BLD, head_DV, targets_BL, softcap=softcap, shards=place.ways("B"))
    if implementation == "reference":
        return reference.linear_cross_entropy(x_BLD, head_DV, targets_BL, softcap=softcap)
    raise ValueError(f"cross_entropy: found implementation {implementation!r}, must be None or one of {', '.join(IMPLEMENTATIONS)}")


@functools.cache
def _log_once(implementation: str):
    logging.info("cross_entropy: using the %s implementation", implementation)
