"""Causal attention of rows whose positions are cut over devices: long context.

Everything else in a layer works position by position; here a query needs the keys before it, wherever they are. Every device gathers the
keys and values of its rows (K heads, not H: with 8 of 16 heads of 128 in bfloat16 a row of 128k tokens is 0.5 GB) and attends from its own
queries alone, so that scores, outputs and all activations of a device are those of L / n positions. Backward gathers once more instead of
keeping what was gathered, and sums the gradients of keys and values in float32 while they go home (a reduce-scatter).

Causal work grows along a row: cut into n runs, the last device would do nearly twice the mean. So a row is cut into 2n chunks, and device i
holds chunks i and 2n-1-i, which see 2n+1 chunks of keys together, whatever i is (`zigzag`). Which two it holds is known when it runs, which
chunks of keys they see when it is compiled: `jax.lax.switch` has one branch a device, each with its own fixed bounds, and nothing masked is
computed beyond the chunks that `xla` makes anyway.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from kaiyuan_jax.kernels.attention import xla


def zigzag(L: int, n: int) -> np.ndarray:
    """int64[L]: the positions that n devices hold, device after device. Raises ValueError where 2n does not divide L."""
    if L % (2 * n):
        raise ValueError(f"context: found rows of {L} positions for {n} devices, must be a multiple of {2 * n}")
    return np.arange(L).reshape(2 * n, -1)[_chunks_in_order(n)].ravel()


def attention(q_BLHC, k_BLKC, v_BLKC, *, segments_BL, axis: str, n: int, softcap: float = 0.0, window: int = 0):
    """o_BLHC of one device's L / n positions, in the order of `zigzag`; to be called inside `jax.shard_map` over a mesh with that axis."""
    arrays = xla.heads_first(q_BLHC, k_BLKC, v_BLKC)
    return xla.heads_last(_attention(*arrays, segments_BL, axis, n, float(softcap), int(window)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _attention(q_BKLGC, k_BKCL, v_BKCL, segments_BL, axis, n, softcap, window):
    return _forward(q_BKLGC, k_BKCL, v_BKCL, segments_BL, axis, n, softcap, window)[0]


def _forward(q_BKLGC, k_BKCL, v_BKCL, segments_BL, axis, n, softcap, window):
    def on_device(i, q_BKLGC, k_BKCM, v_BKCM, segments_BM):
        outputs = [
            xla.forward(q_BKLGC[:, :, here], k_BKCM[..., :end], v_BKCM[..., :end], _until(segments_BM, end), softcap, window)
            for here, end in _parts(i, n, q_BKLGC.shape[2])
        ]
        return tuple(jnp.concatenate(pair, axis=2) for pair in zip(*outputs, strict=True))

    row = _gathered(k_BKCL, v_BKCL, segments_BL, axis, n)
    outputs = jax.lax.switch(jax.lax.axis_index(axis), [functools.partial(on_device, i) for i in range(n)], q_BKLGC, *row)
    o_BKLGC, logsumexp_BKLG = (checkpoint_name(x, "attention_out") for x in outputs)
    return o_BKLGC, (q_BKLGC, k_BKCL, v_BKCL, segments_BL, o_BKLGC, logsumexp_BKLG)


def _backward(axis, n, softcap, window, residuals, do_BKLGC):
    q_BKLGC, k_BKCL, v_BKCL, segments_BL, o_BKLGC, logsumexp_BKLG = residuals

    def on_device(i, k_BKCM, v_BKCM, segments_BM, *queries):
        dq, dk_BKCM, dv_BKCM = [], 0.0, 0.0
        for here, end in _parts(i, n, q_BKLGC.shape[2]):
            q, o, logsumexp, do = (x[:, :, here] for x in queries)
            keys = k_BKCM[..., :end], v_BKCM[..., :end], _until(segments_BM, end)
            dq_part, dk, dv = xla.backward(q, *keys, o, logsumexp, do, softcap, window)
            behind = ((0, 0), (0, 0), (0, 0), (0, k_BKCM.shape[3] - end))
            dk_BKCM, dv_BKCM = dk_BKCM + jnp.pad(dk, behind), dv_BKCM + jnp.pad(dv, behind)
            dq.append(dq_part)
        return jnp.concatenate(dq, axis=2), dk_BKCM, dv_BKCM

    row, queries = _gathered(k_BKCL, v_BKCL, segments_BL, axis, n), (q_BKLGC, o_BKLGC, logsumexp_BKLG, do_BKLGC)
    branches = [functools.partial(on_device, i) for i in range(n)]
    dq_BKLGC, *dkv_BKCM = jax.lax.switch(jax.lax.axis_index(axis), branches, *row, *queries)
    dkv = (jax.lax.psum_scatter(_reordered(x, _chunks_in_order(n), 3), axis, scatter_dimension=3, tiled=True) for x in dkv_BKCM)
    return dq_BKLGC, *(x.astype(k_BKCL.dtype) for x in dkv), None


_attention.defvjp(_forward, _backward)


def _chunks_in_order(n: int) -> np.ndarray:
    """int64[2n]: the chunks of a row, device after device."""
    first = np.arange(n)
    return np.stack([first, 2 * n - 1 - first], axis=1).ravel()


def _parts(i: int, n: int, length: int):
    """(device i's queries of one chunk, number of keys up to its end) for both of its chunks."""
    size = length // 2
    yield slice(0, size), (i + 1) * size
    yield slice(size, length), (2 * n - i) * size


def _gathered(k_BKCL, v_BKCL, segments_BL, axis: str, n: int):
    """Keys, values and segments (or None) of the whole row, in its order."""
    back = np.argsort(_chunks_in_order(n))

    def gather(x, dimension):
        return _reordered(jax.lax.all_gather(x, axis, axis=dimension, tiled=True), back, dimension)

    return gather(k_BKCL, 3), gather(v_BKCL, 3), None if segments_BL is None else gather(segments_BL, 1)


def _reordered(x, chunks: np.ndarray, dimension: int):
    """x with its `len(chunks)` equal chunks along a dimension put into that order."""
    size = x.shape[dimension] // len(chunks)
    return jnp.concatenate([jax.lax.slice_in_dim(x, c * size, (c + 1) * size, axis=dimension) for c in chunks.tolist()], axis=dimension)


def _until(segments_BM, end: int):
    return None if segments_BM is None else segments_BM[:, :end]
