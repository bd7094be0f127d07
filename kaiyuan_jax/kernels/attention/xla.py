"""Causal attention over chunks of S queries: a chunk sees only the keys up to its end, so that nearly half of the square is never computed.

The G = H / K query heads that share a key head become rows of one matrix product, [S G, C] x [C, M], so keys and values are never
repeated; on CPUs that layout takes half the time of an einsum over five axes. With more than one chunk the scores of a chunk are
recomputed in the backward pass, and B H S L of them exist at a time.
"""

import jax
import jax.numpy as jnp


def chunk_size(L: int) -> int:
    """Queries of a chunk: an eighth of the row, so that 7/16 of the square is skipped, but 128 to 512.

    On a CPU it also decides whether scores stay in cache: at L = 512 chunks of 128 take half the time of one chunk of 512.
    """
    return min(512, max(128, L // 8))


def attention(q_BLHC, k_BLKC, v_BLKC, *, segments_BL=None, softcap: float = 0.0, window: int = 0, chunk: int | None = None):
    """o_BLHC in q's dtype; products in q's dtype, softmax in float32."""
    B, L, H, C = q_BLHC.shape
    K = k_BLKC.shape[2]
    q_BKLGC = q_BLHC.reshape(B, L, K, H // K, C).transpose(0, 2, 1, 3, 4) * jnp.asarray(C**-0.5, q_BLHC.dtype)
    k_BKCM, v_BKMC = k_BLKC.transpose(0, 2, 3, 1), v_BLKC.transpose(0, 2, 1, 3)
    chunk = chunk or chunk_size(L)
    attend = _attend if L <= chunk else jax.checkpoint(_attend, static_argnums=(4, 5, 6))
    outputs = []
    for start in range(0, L, chunk):
        end = min(start + chunk, L)
        segments = None if segments_BL is None else (segments_BL[:, start:end], segments_BL[:, :end])
        if outputs:  # one chunk after the other, in the backward pass too: else the compiler may hold the scores of several at once
            k_BKCM, v_BKMC, outputs[-1] = jax.lax.optimization_barrier((k_BKCM, v_BKMC, outputs[-1]))
        outputs.append(attend(q_BKLGC[:, :, start:end], k_BKCM[..., :end], v_BKMC[:, :, :end], segments, start, softcap, window))
    return jnp.concatenate(outputs, axis=2).transpose(0, 2, 1, 3, 4).reshape(B, L, H, C)


def _attend(q_BKSGC, k_BKCM, v_BKMC, segments, start: int, softcap: float, window: int):
    B, K, S, G, C = q_BKSGC.shape
    M = k_BKCM.shape[-1]
    age_SM = start + jnp.arange(S)[:, None] - jnp.arange(M)
    visible_BSM = ((age_SM >= 0) & (age_SM < window) if window else age_SM >= 0)[None]
    if segments is not None:
        visible_BSM &= segments[0][:, :, None] == segments[1][:, None, :]
    scores = jnp.matmul(q_BKSGC.reshape(B, K, S * G, C), k_BKCM, preferred_element_type=jnp.float32)
    scores = softcap * jnp.tanh(scores / softcap) if softcap else scores
    scores_BKSGM = jnp.where(visible_BSM[:, None, :, None], scores.reshape(B, K, S, G, M), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores_BKSGM, axis=-1).astype(q_BKSGC.dtype)
    return jnp.matmul(weights.reshape(B, K, S * G, M), v_BKMC).reshape(B, K, S, G, C)
