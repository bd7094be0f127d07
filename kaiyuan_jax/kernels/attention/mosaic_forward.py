"""Forward attention on Hopper: o = softmax(q k^T / sqrt(C)) v over blocks of keys, with a running maximum and sum (FlashAttention).

A thread block takes 128 queries of one head. The copying warpgroup brings blocks of keys and values by TMA into a ring in shared memory;
two warpgroups multiply them. Each keeps 64 x C of the output, 64 x M of scores (M keys a step) in float32 registers: at C = M = 128 that
is 64 + 64 of 240 registers a thread, and the probabilities go back to the tensor cores as the register operand of the second product.
Per visible pair: 4 C FLOPs.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kaiyuan_jax.kernels.attention import mosaic_tiles as tiles
from kaiyuan_jax.kernels.attention.mosaic_tiles import COMPUTE, MASKED, ROWS, Case, T


def forward(q_BLHC, k_BLKC, v_BLKC, segments_BL, case: Case):
    """o_BLHC in q's dtype and the log-sum-exp of the scores, float32 [B, H, L]. L must be a multiple of 128."""
    B, L, H, C = q_BLHC.shape
    dtype, keys, stages = q_BLHC.dtype, case.blocks.forward_keys, case.blocks.forward_stages
    masked = segments_BL is not None
    kernel = plgpu.kernel(
        functools.partial(_kernel, case=case),
        out_type=(jax.ShapeDtypeStruct((B, L, H, C), dtype), jax.ShapeDtypeStruct((B, H, L), jnp.float32)),
        grid=(H, L // T, B),
        grid_names=("head", "tile", "batch"),
        num_threads=COMPUTE + 1,
        thread_name="warpgroup",
        scratch_types=[
            tiles.shared((T, C), dtype),
            tiles.shared((stages, keys, C), dtype),
            tiles.shared((stages, keys, C), dtype),
            plgpu.SMEM((T,), jnp.int32) if masked else None,
            plgpu.SMEM((stages, keys), jnp.int32) if masked else None,
            plgpu.SMEM((COMPUTE, ROWS), jnp.float32),
            plgpu.Barrier(num_arrivals=1 + masked),
            plgpu.Barrier(num_arrivals=1 + masked, num_barriers=stages),
            plgpu.Barrier(num_barriers=stages),
            plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
        ],
        compiler_params=tiles.parameters(),
    )
    return kernel(q_BLHC, k_BLKC, v_BLKC, segments_BL, tiles.spans_or_none(tiles.key_spans, segments_BL, L, case.window))


def _kernel(q_ref, k_ref, v_ref, segments_ref, spans_ref, o_ref, lse_ref, *scratch, case: Case):
    q_tile, k_ring, v_ring, q_segments, k_segments, lse_rows, q_full, k_full, v_full, free = scratch
    H, C, keys, stages = q_ref.shape[2], q_ref.shape[3], case.blocks.forward_keys, case.blocks.forward_stages
    batch, head, tile = lax.axis_index("batch"), lax.axis_index("head"), lax.axis_index("tile")
    tile = q_ref.shape[1] // T - 1 - tile  # the longest first, so that the short ones fill the end
    warpgroup = lax.axis_index("warpgroup")
    per_tile = T // keys
    first, whole = tiles.read_span(spans_ref, batch, tile, 0)

    @pl.when(warpgroup == COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COPY_REGISTERS, action="decrease")
        key_head = lax.div(head, H // k_ref.shape[2])
        plgpu.copy_gmem_to_smem(q_ref.at[batch, pl.ds(tile * T, T), head], q_tile, q_full)
        if segments_ref is not None:
            plgpu.copy_gmem_to_smem(segments_ref.at[batch, pl.ds(tile * T, T)], q_segments, q_full)

        def load(step, slot):
            here = pl.ds(first * T + step * keys, keys)
            plgpu.copy_gmem_to_smem(k_ref.at[batch, here, key_head], k_ring.at[slot], k_full.at[slot])
            if segments_ref is not None:
                plgpu.copy_gmem_to_smem(segments_ref.at[batch, here], k_segments.at[slot], k_full.at[slot])
            plgpu.copy_gmem_to_smem(v_ref.at[batch, here, key_head], v_ring.at[slot], v_full.at[slot])

        tiles.stream((tile + 1 - first) * per_tile, stages, free, load)

    @pl.when(warpgroup < COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COMPUTE_REGISTERS, action="increase")
        own = pl.ds(warpgroup * ROWS, ROWS)
        query = tile * T + warpgroup * ROWS
        shape = (ROWS, keys)
        plgpu.barrier_wait(q_full)
        query_segments = None if segments_ref is None else tiles.rows(q_segments.at[own])

        def step(masked, block, carry):
            o, peak, total = carry
            slot = lax.rem(block - first * per_tile, stages)
            plgpu.barrier_wait(k_full.at[slot])
            products = tiles.matmul(q_tile.at[own], k_ring.at[slot].transpose((1, 0)), shape)
            score, _ = tiles.scores(products, C, case.softcap)
            if masked:
                key_segments = None if segments_ref is None else tiles.columns(k_segments.at[slot])
                seen = tiles.visible(query, block * keys, shape, 0, case.window, query_segments, key_segments)
                score = jnp.where(seen, score, MASKED)
            new_peak = jnp.maximum(peak, score.max(axis=1))
            shrink = jnp.exp2(peak - new_peak)
            weights = jnp.exp2(score - tiles.along(new_peak, shape, 0))
            total = total * shrink + weights.sum(axis=1)
            plgpu.barrier_wait(v_full.at[slot])
            part = tiles.matmul(weights.astype(q_ref.dtype), v_ring.at[slot], (ROWS, C))
            if segments_ref is not None:
                plgpu.commit_smem()  # segments were read as ordinary memory, and TMA will write there next
            plgpu.barrier_arrive(free.at[slot])
            return o * tiles.along(shrink, (ROWS, C), 0) + part, new_peak, total

        row = lambda value: plgpu.layout_cast(jnp.full((ROWS,), value, jnp.float32), plgpu.Layout.WGMMA.reduce(1))  # noqa: E731
        carry = tiles.zeros((ROWS, C)), row(MASKED), row(0.0)
        edges = ((True, first, whole), (False, whole, tile), (True, tile, tile + 1))
        for masked, start, end in edges if spans_ref is not None else edges[1:]:
            carry = lax.fori_loop(start * per_tile, end * per_tile, functools.partial(step, masked), carry)
        o, peak, total = carry
        q_tile[own] = (o * tiles.along(1.0 / total, (ROWS, C), 0)).astype(q_ref.dtype)
        lse_rows[warpgroup] = (peak + jnp.log2(total)) * math.log(2)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile.at[own], o_ref.at[batch, pl.ds(query, ROWS), head])
        plgpu.copy_smem_to_gmem(lse_rows.at[warpgroup], lse_ref.at[batch, head, pl.ds(query, ROWS)])
        plgpu.wait_smem_to_gmem(0)
