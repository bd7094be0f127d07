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
    dtype, stages = q_BLHC.dtype, case.blocks.forward_stages
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
            tiles.shared((stages, T, C), dtype),
            tiles.shared((stages, T, C), dtype),
            plgpu.SMEM((T,), jnp.int32) if masked else None,
            plgpu.SMEM((stages, T), jnp.int32) if masked else None,
            plgpu.SMEM((COMPUTE, ROWS), jnp.float32),
            plgpu.Barrier(num_arrivals=1 + masked),
            plgpu.Barrier(num_barriers=stages),
            plgpu.Barrier(num_arrivals=1 + masked, num_barriers=stages),
            plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
            plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
            plgpu.Barrier(num_barriers=COMPUTE),
        ],
        compiler_params=tiles.parameters(),
    )
    return kernel(q_BLHC, k_BLKC, v_BLKC, segments_BL, tiles.spans_or_none(tiles.key_spans, segments_BL, L, case.window))


def _kernel(q_ref, k_ref, v_ref, segments_ref, spans_ref, o_ref, lse_ref, *scratch, case: Case):
    q_tile, k_ring, v_ring, q_segments, k_segments, lse_rows, q_full, k_full, v_full, k_free, v_free, turn = scratch
    (L, H, C), stages = q_ref.shape[1:], case.blocks.forward_stages
    batch, head, tile = lax.axis_index("batch"), lax.axis_index("head"), lax.axis_index("tile")
    tile = L // T - 1 - tile  # the longest first, so that the short ones fill the end
    warpgroup = lax.axis_index("warpgroup")
    first, whole = tiles.read_span(spans_ref, batch, tile, 0)

    @pl.when(warpgroup == COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COPY_REGISTERS, action="decrease")
        key_head = lax.div(head, H // k_ref.shape[2])
        plgpu.copy_gmem_to_smem(q_ref.at[batch, pl.ds(tile * T, T), head], q_tile, q_full)
        if segments_ref is not None:
            plgpu.copy_gmem_to_smem(segments_ref.at[batch, pl.ds(tile * T, T)], q_segments, q_full)

        @pl.loop(0, tile + 1 - first)
        def _(step):
            slot, here = lax.rem(step, stages), pl.ds((first + step) * T, T)
            tiles.acquire(k_free, step, stages)
            plgpu.copy_gmem_to_smem(k_ref.at[batch, here, key_head], k_ring.at[slot], k_full.at[slot])
            tiles.acquire(v_free, step, stages)
            plgpu.copy_gmem_to_smem(v_ref.at[batch, here, key_head], v_ring.at[slot], v_full.at[slot])
            if segments_ref is not None:
                plgpu.copy_gmem_to_smem(segments_ref.at[batch, here], k_segments.at[slot], v_full.at[slot])

    @pl.when(warpgroup < COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COMPUTE_REGISTERS, action="increase")
        own = pl.ds(warpgroup * ROWS, ROWS)
        query = tile * T + warpgroup * ROWS
        shape = (ROWS, T)
        plgpu.barrier_wait(q_full)
        query_segments = None if segments_ref is None else tiles.rows(q_segments.at[own])

        def multiply(block, meanwhile):
            """q k^T of a block of keys; ends the turn once it is under way, and then does something else."""
            slot = lax.rem(block - first, stages)

            def product(sum_ref):
                plgpu.wgmma(sum_ref, q_tile.at[own], k_ring.at[slot].transpose((1, 0)))
                plgpu.barrier_arrive(turn.at[1 - warpgroup])
                result = meanwhile()
                return sum_ref[...], result

            products, result = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
            plgpu.barrier_arrive(k_free.at[slot])
            return products, result

        def weigh(masked, block, products, peak, total):
            """The block's unnormalised weights, and by how much earlier sums shrink; waits for its turn and multiplies the values."""
            slot = lax.rem(block - first, stages)
            plgpu.barrier_wait(v_full.at[slot])
            score, _ = tiles.scores(products, C, case.softcap)
            if masked:
                key_segments = None if segments_ref is None else tiles.columns(k_segments.at[slot])
                seen = tiles.visible(query, block * T, shape, 0, case.window, query_segments, key_segments)
                score = jnp.where(seen, score, MASKED)
            new_peak = jnp.maximum(peak, score.max(axis=1))
            shrink = jnp.exp2(peak - new_peak)
            weights = jnp.exp2(score - tiles.along(new_peak, shape, 0))
            total = total * shrink + weights.sum(axis=1)
            return weights.astype(q_ref.dtype), shrink, new_peak, total

        def add_values(block, weights):
            """Takes the turn and multiplies the weights with the block's values."""
            slot = lax.rem(block - first, stages)
            plgpu.barrier_wait(turn.at[warpgroup])
            part = tiles.matmul(weights, v_ring.at[slot], (ROWS, C))
            if segments_ref is not None:
                plgpu.commit_smem()  # segments were read as ordinary memory, and TMA will write there next
            plgpu.barrier_arrive(v_free.at[slot])
            return part

        def step(masked, block, carry):
            o, peak, total, products = carry
            weights, shrink, peak, total = weigh(masked, block, products, peak, total)
            plgpu.barrier_wait(k_full.at[lax.rem(block + 1 - first, stages)])
            part = add_values(block, weights)
            products, o = multiply(block + 1, lambda: o * tiles.along(shrink, (ROWS, C), 0) + part)
            return o, peak, total, products

        @pl.when(warpgroup == 1)
        def _():
            plgpu.barrier_arrive(turn.at[0])

        row = lambda value: plgpu.layout_cast(jnp.full((ROWS,), value, jnp.float32), plgpu.Layout.WGMMA.reduce(1))  # noqa: E731
        plgpu.barrier_wait(k_full.at[0])
        plgpu.barrier_wait(turn.at[warpgroup])
        products, _ = multiply(first, lambda: None)
        carry = tiles.zeros((ROWS, C)), row(MASKED), row(0.0), products
        for masked, start, end in ((True, first, whole), (False, whole, tile)):
            if not masked or spans_ref is not None:
                carry = lax.fori_loop(start, end, functools.partial(step, masked), carry)
        o, peak, total, products = carry
        weights, shrink, peak, total = weigh(True, tile, products, peak, total)
        part = add_values(tile, weights)

        @pl.when(warpgroup == 0)
        def _():
            plgpu.barrier_arrive(turn.at[1])

        o = (o * tiles.along(shrink, (ROWS, C), 0) + part) * tiles.along(1.0 / total, (ROWS, C), 0)
        q_tile[own] = o.astype(q_ref.dtype)
        lse_rows[warpgroup] = (peak + jnp.log2(total)) * math.log(2)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile.at[own], o_ref.at[batch, pl.ds(query, ROWS), head])
        plgpu.copy_smem_to_gmem(lse_rows.at[warpgroup], lse_ref.at[batch, head, pl.ds(query, ROWS)])
        plgpu.wait_smem_to_gmem(0)
