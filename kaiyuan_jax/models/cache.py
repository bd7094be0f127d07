"""Keys and values of the tokens a model has read, so that the next token costs one token and not all those before it.

A row of the batch has M slots a layer, laid out [K, M, C] so that the G = H / K query heads of a key head read them in one product and
nothing is repeated or transposed. The token at position p lies in slot p mod M with its rotation applied: rows may have read different
numbers of tokens, and when there are more than M the newest M are there, which is all that a sliding window of at most M looks at.

A step reads the cache N K M C x 2 numbers a row, and writes N K C x 2: attention treats the new token beside the slots, and
all layers are written at once behind the last one, in place.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from kaiyuan_jax.kernels.placement import Placement


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    keys_NBKMC: Any  # in the compute dtype
    values_NBKMC: Any
    lengths_B: Any  # int32, tokens that each row has read, those no longer held among them


def start(keys_NBLKC, values_NBLKC, lengths_B, slots: int, place: Placement) -> Cache:
    """A cache of `slots` a row that has read the first lengths_B of L tokens."""
    N, B, _, K, C = keys_NBLKC.shape
    empty = place.constrain(jnp.zeros((N, B, K, slots, C), keys_NBLKC.dtype), "NBKMC")
    return append(Cache(empty, empty, jnp.zeros_like(lengths_B)), keys_NBLKC, values_NBLKC, lengths_B, place)


def append(cache: Cache, keys_NBLKC, values_NBLKC, counts_B, place: Placement) -> Cache:
    """The cache after the first counts_B of L more tokens in every row."""
    B, L = keys_NBLKC.shape[1:3]
    slots = cache.keys_NBKMC.shape[3]
    rows_B1, offsets_L = jnp.arange(B)[:, None], jnp.arange(L)
    kept_BL = (offsets_L < counts_B[:, None]) & (offsets_L >= counts_B[:, None] - slots)
    slots_BL = jnp.where(kept_BL, (cache.lengths_B[:, None] + offsets_L) % slots, slots)  # there is no such slot: not written

    def write(held_NBKMC, new_NBLKC):
        new_BLNKC = new_NBLKC.transpose(1, 2, 0, 3, 4)
        return place.constrain(held_NBKMC.at[:, rows_B1, :, slots_BL].set(new_BLNKC, mode="drop"), "NBKMC")

    return Cache(write(cache.keys_NBKMC, keys_NBLKC), write(cache.values_NBKMC, values_NBLKC), cache.lengths_B + counts_B)


def attend(q_BLHC, k_BLKC, v_BLKC, keys_BKMC, values_BKMC, lengths_B, *, softcap: float, window: int):
    """o_BLHC of one new token (L = 1) of every row, which sees one layer's slots and itself; options as of `kernels.attention`."""
    B, L, H, C = q_BLHC.shape
    K, M = keys_BKMC.shape[1:3]
    q_BKGC = q_BLHC.reshape(B, K, H // K, C) * jnp.asarray(C**-0.5, q_BLHC.dtype)
    k_BK1C, v_BK1C = k_BLKC.transpose(0, 2, 1, 3), v_BLKC.transpose(0, 2, 1, 3)

    age_BM = (lengths_B[:, None] - 1 - jnp.arange(M)) % M + 1  # of what a slot holds, in tokens before the new one
    visible_BM = age_BM <= lengths_B[:, None]
    if window:
        visible_BM &= age_BM < window

    def scores(keys_BKMC):
        s_BKGM = jnp.einsum("BKGC,BKMC->BKGM", q_BKGC, keys_BKMC, preferred_element_type=jnp.float32)
        return softcap * jnp.tanh(s_BKGM / softcap) if softcap else s_BKGM

    held_BKGM = jnp.where(visible_BM[:, None, None], scores(keys_BKMC), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(jnp.concatenate([held_BKGM, scores(k_BK1C)], axis=-1), axis=-1).astype(q_BLHC.dtype)
    product = "BKGM,BKMC->BKGC"
    o_BKGC = jnp.einsum(product, weights[..., :M], values_BKMC, preferred_element_type=jnp.float32)
    o_BKGC += jnp.einsum(product, weights[..., M:], v_BK1C, preferred_element_type=jnp.float32)
    return o_BKGC.astype(q_BLHC.dtype).reshape(B, L, H, C)
