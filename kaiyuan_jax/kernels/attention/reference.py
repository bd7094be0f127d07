"""The definition of the op, plain float32: softmax(q k^T / sqrt(C)) v over the keys that are not later and share the query's segment."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


def supports(q_shape, k_shape, dtype, segments: bool, softcap: float, window: int, device_kind: str) -> str:
    """Why it cannot run: it always can."""
    return ""


def attention(q_BLHC, k_BLKC, v_BLKC, *, segments_BL=None, softcap: float = 0.0, window: int = 0):
    """o_BLHC in q's dtype; holds all scores, and repeats every key/value head for the H / K query heads that share it.

    Where there are more keys than queries these are the last of the row, and segments_BL is of the keys.
    """
    L, H, C = q_BLHC.shape[1:]
    M = k_BLKC.shape[1]
    group = H // k_BLKC.shape[2]
    dtype = q_BLHC.dtype
    q_BLHC, k_BMHC, v_BMHC = (x.astype(jnp.float32) for x in (q_BLHC, jnp.repeat(k_BLKC, group, 2), jnp.repeat(v_BLKC, group, 2)))
    age_LM = M - L + jnp.arange(L)[:, None] - jnp.arange(M)
    visible_BLM = ((age_LM >= 0) & (age_LM < (window or M)))[None]
    if segments_BL is not None:
        visible_BLM &= segments_BL[:, M - L :, None] == segments_BL[:, None, :]
    with jax.default_matmul_precision("highest"):
        scores_BHLM = jnp.einsum("BLHC,BMHC->BHLM", q_BLHC, k_BMHC) / jnp.sqrt(C)
        scores_BHLM = softcap * jnp.tanh(scores_BHLM / softcap) if softcap else scores_BHLM
        weights_BHLM = jax.nn.softmax(jnp.where(visible_BLM[:, None], scores_BHLM, -jnp.inf), axis=-1)
        o_BLHC = jnp.einsum("BHLM,BMHC->BLHC", weights_BHLM, v_BMHC).astype(dtype)
        return checkpoint_name(o_BLHC, "attention_out")
