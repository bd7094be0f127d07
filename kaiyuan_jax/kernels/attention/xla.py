"""Causal attention over chunks of S queries, in plain XLA: for CPUs, and wherever no kernel by hand can run.

A chunk reads only the keys it can see: those up to its end, and with a sliding window none before its first query's window. So nearly
half of the square is never computed, and with a window of w keys the cost is that of L (S + w) scores. The scores of one chunk exist at a
time, forward and backward: residuals are the inputs, the output and the log-sum-exp, and the backward pass makes a chunk's scores again.
With q the scaled queries, s = q k^T, z = c tanh(s / c) the capped scores, p = exp(z - logsumexp) and do the output's cotangent,

    dv = p^T do;  dz = p (do v^T - sum(o do));  ds = dz (1 - (z / c)^2);  dq = ds k;  dk = ds^T q

Scores and sums are float32 whatever the inputs: a score of float16 queries and keys fits in float32 with room to spare, and what is cast
to the inputs' dtype for the next product is at most 1 (p) or as large as a gradient (ds).

The G = H / K query heads that share a key head become rows of one matrix product, [S G, C] x [C, M], so keys and values are never
repeated; on CPUs that layout takes half the time of an einsum over five axes.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


def supports(q_shape, k_shape, dtype, segments: bool, softcap: float, window: int, device_kind: str) -> str:
    """Why it cannot run: it always can."""
    return ""


def chunk_size(L: int) -> int:
    """Queries of a chunk: an eighth of the row, so that 7/16 of the square is skipped, but 128 to 512.

    On a CPU it also decides whether scores stay in cache: at L = 512 chunks of 128 take half the time of one chunk of 512.
    """
    return min(512, max(128, L // 8))


def attention(q_BLHC, k_BLKC, v_BLKC, *, segments_BL=None, softcap: float = 0.0, window: int = 0, chunk: int | None = None):
    """o_BLHC in q's dtype; products in q's dtype, scores and sums in float32. chunk: queries of a chunk, by default `chunk_size(L)`."""
    return heads_last(_chunked(*heads_first(q_BLHC, k_BLKC, v_BLKC), segments_BL, float(softcap), int(window), chunk))


def heads_first(q_BLHC, k_BLKC, v_BLKC):
    """Scaled queries [B, K, L, G, C], keys and values [B, K, C, L]."""
    B, L, H, C = q_BLHC.shape
    K = k_BLKC.shape[2]
    scaled_BLHC = (q_BLHC.astype(jnp.float32) * C**-0.5).astype(q_BLHC.dtype)
    q_BKLGC = scaled_BLHC.reshape(B, L, K, H // K, C).transpose(0, 2, 1, 3, 4)
    return q_BKLGC, *(x.transpose(0, 2, 3, 1) for x in (k_BLKC, v_BLKC))


def heads_last(o_BKLGC):
    """o_BLHC"""
    B, K, L, G, C = o_BKLGC.shape
    return o_BKLGC.transpose(0, 2, 1, 3, 4).reshape(B, L, K * G, C)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _chunked(q_BKLGC, k_BKCL, v_BKCL, segments_BL, softcap, window, chunk):
    return forward(q_BKLGC, k_BKCL, v_BKCL, segments_BL, softcap, window, chunk)[0]


def _chunked_forward(q_BKLGC, k_BKCL, v_BKCL, segments_BL, softcap, window, chunk):
    # Both carry the name under which a layer keeps the heads' output: backward then needs no second forward pass.
    outputs = forward(q_BKLGC, k_BKCL, v_BKCL, segments_BL, softcap, window, chunk)
    o_BKLGC, logsumexp_BKLG = (checkpoint_name(x, "attention_out") for x in outputs)
    return o_BKLGC, (q_BKLGC, k_BKCL, v_BKCL, segments_BL, o_BKLGC, logsumexp_BKLG)


def _chunked_backward(softcap, window, chunk, residuals, do_BKLGC):
    dq, *dkv = backward(*residuals, do_BKLGC, softcap, window, chunk)
    return dq, *(gradient.astype(x.dtype) for gradient, x in zip(dkv, residuals[1:3], strict=True)), None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def forward(q_BKSGC, k_BKCM, v_BKCM, segments_BM, softcap: float, window: int, chunk: int | None = None):
    """(o_BKSGC in q's dtype, logsumexp_BKSG in float32) of scaled queries that are the last S of a row of M keys."""
    outputs, sums = [], []
    v_BKMC = v_BKCM.swapaxes(2, 3)
    S, M = q_BKSGC.shape[2], k_BKCM.shape[3]
    for start, end, first, last in _chunks(S, M, window, chunk):
        if outputs:  # one chunk after the other: else the compiler may hold the scores of several at once
            k_BKCM, v_BKMC, outputs[-1] = jax.lax.optimization_barrier((k_BKCM, v_BKMC, outputs[-1]))
        q = q_BKSGC[:, :, start:end]
        z = _scores(q, k_BKCM[..., first:last], segments_BM, M - S + start, first, softcap, window)
        largest = jnp.max(z, axis=-1, keepdims=True)
        p = jax.lax.optimization_barrier(jnp.exp(z - largest))  # else a CPU computes the exponentials once for every use of them
        total = jnp.sum(p, axis=-1, keepdims=True)
        o = _product(p.astype(q.dtype), v_BKMC[:, :, first:last]) / total
        outputs.append(o.astype(q.dtype).reshape(q.shape))
        sums.append((largest + jnp.log(total)).reshape(q.shape[:-1]))
    return jnp.concatenate(outputs, axis=2), jnp.concatenate(sums, axis=2)


def backward(q_BKSGC, k_BKCM, v_BKCM, segments_BM, o_BKSGC, logsumexp_BKSG, do_BKSGC, softcap: float, window: int, chunk=None):
    """Gradients of scaled queries in their dtype, of keys and values [B, K, C, M] in float32, from what `forward` took and gave."""
    B, K, S, G, C = q_BKSGC.shape
    M, dtype = k_BKCM.shape[3], q_BKSGC.dtype
    inner_BKSG = jnp.sum(o_BKSGC.astype(jnp.float32) * do_BKSGC.astype(jnp.float32), axis=-1)
    k_BKMC = k_BKCM.swapaxes(2, 3)
    dq, dk_BKCM, dv_BKCM = [], None, None
    for start, end, first, last in reversed(list(_chunks(S, M, window, chunk))):  # the last one sees most keys: others are added to its
        if dq:
            k_BKCM, v_BKCM, dk_BKCM, dv_BKCM, dq[-1] = jax.lax.optimization_barrier((k_BKCM, v_BKCM, dk_BKCM, dv_BKCM, dq[-1]))
        q, do = q_BKSGC[:, :, start:end], _rows(do_BKSGC[:, :, start:end])
        z = _scores(q, k_BKCM[..., first:last], segments_BM, M - S + start, first, softcap, window)
        logsumexp, inner = (x[:, :, start:end].reshape(B, K, -1, 1) for x in (logsumexp_BKSG, inner_BKSG))
        p = jnp.exp(z - logsumexp)
        ds = p * (_product(do, v_BKCM[..., first:last]) - inner)
        if softcap:
            ds = ds * (1.0 - jnp.square(jnp.maximum(z / softcap, -1.0)))  # a masked score is below any capped one
        ds = ds.astype(dtype)
        dq.append(_product(ds, k_BKMC[:, :, first:last]).astype(dtype).reshape(q.shape))
        # The transposed factor is the short one: [C, S G] x [S G, M].
        dk_BKCM = _add(dk_BKCM, _product(_rows(q).swapaxes(2, 3), ds), first)
        dv_BKCM = _add(dv_BKCM, _product(do.swapaxes(2, 3), p.astype(dtype)), first)
    return jnp.concatenate(dq[::-1], axis=2), dk_BKCM, dv_BKCM


_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _chunks(S: int, M: int, window: int, chunk: int | None):
    """(first query, one behind the last, first key that one of them sees, one behind the last) of every chunk."""
    chunk = chunk or chunk_size(M)
    for start in range(0, S, chunk):
        end, before = min(start + chunk, S), M - S
        yield start, end, max(0, before + start - window + 1) if window else 0, before + end


def _rows(x_BKSGC):
    """[B, K, S, G, C] -> [B, K, S G, C]."""
    return x_BKSGC.reshape(*x_BKSGC.shape[:2], -1, x_BKSGC.shape[-1])


def _add(total_BKCL, part_BKCM, first: int):
    """A chunk's gradient for the keys from `first` on, added to that of all keys; None: it is the first, and reaches the last key."""
    if total_BKCL is None:
        return jnp.pad(part_BKCM, ((0, 0), (0, 0), (0, 0), (first, 0)))
    part_BKCM += total_BKCL[..., first : first + part_BKCM.shape[-1]]
    return jax.lax.dynamic_update_slice_in_dim(total_BKCL, part_BKCM, first, axis=3)


def _scores(q_BKSGC, k_BKCM, segments_BL, start: int, first: int, softcap: float, window: int):
    """Capped and masked scores [B, K, S G, M] in float32 of scaled queries and keys, which stand in the row from `start` and `first` on."""
    B, K, S, G, C = q_BKSGC.shape
    M = k_BKCM.shape[-1]
    age_SM = start + jnp.arange(S)[:, None] - (first + jnp.arange(M))
    visible_BSM = ((age_SM >= 0) & (age_SM < window) if window else age_SM >= 0)[None]
    if segments_BL is not None:
        visible_BSM &= segments_BL[:, start : start + S, None] == segments_BL[:, None, first : first + M]
    s = _product(_rows(q_BKSGC), k_BKCM)
    z = softcap * jnp.tanh(s / softcap) if softcap else s
    # Finite, so that a difference of two is never nan; the row's own key is always visible, and exp(lowest - largest) is 0.
    z = jnp.where(visible_BSM[:, None, :, None], z.reshape(B, K, S, G, M), jnp.finfo(jnp.float32).min)
    return z.reshape(B, K, S * G, M)
