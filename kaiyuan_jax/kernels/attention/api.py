"""One function for causal attention, whatever computes it."""

import functools

from absl import logging

from kaiyuan_jax.kernels.attention import reference, xla
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

IMPLEMENTATIONS = {"xla": xla.attention, "reference": reference.attention}  # in the order in which None tries them


def attention(
    q_BLHC,
    k_BLKC,
    v_BLKC,
    *,
    segments_BL=None,
    softcap: float = 0.0,
    window: int = 0,
    place: Placement = ANYWHERE,
    implementation: str | None = None,
):
    """Causal grouped-query attention o_BLHC in q's dtype, softmax in float32, scores scaled by 1/sqrt(C).

    Query head h reads key/value head h // (H / K). segments_BL (int32) keeps attention inside equal numbers; None: the whole row.
    softcap c replaces a score s by c tanh(s / c); window w lets a query see itself and the w - 1 keys before it; 0 turns either off.
    implementation: None takes `place.attention`, or else the first of IMPLEMENTATIONS that can run, and logs it once. Raises ValueError
    for another name or bad shapes.
    """
    H, K = q_BLHC.shape[2], k_BLKC.shape[2]
    if k_BLKC.shape != v_BLKC.shape or q_BLHC.shape[:2] != k_BLKC.shape[:2] or q_BLHC.shape[3] != k_BLKC.shape[3] or H % K:
        raise ValueError(f"attention: found q {q_BLHC.shape}, k {k_BLKC.shape}, v {v_BLKC.shape}; must be BLHC, BLKC, BLKC, K dividing H")
    implementation = implementation or place.attention or None
    if implementation is None:
        implementation = next(iter(IMPLEMENTATIONS))
        _log_once(implementation)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention: found implementation {implementation!r}, must be None or one of {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[implementation](q_BLHC, k_BLKC, v_BLKC, segments_BL=segments_BL, softcap=softcap, window=window)


@functools.cache
def _log_once(implementation: str):
    logging.info("attention: using the %s implementation", implementation)
