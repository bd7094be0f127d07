"""Backward attention on Hopper: two kernels, one that makes dq for 128 queries of a head, one that makes dk and dv for 128 keys of a head.

With p = exp(s - lse), dp = do v^T and delta = sum(do o): ds = p (dp - delta) times the soft-cap's slope, dq = ds k / sqrt(C),
dk = ds^T q / sqrt(C), dv = p^T do. Both kernels recompute s and dp, so 7 products of 2 C FLOPs a visible pair are made where one kernel
would make 5, and in return every sum is made in one order by one warpgroup: the same gradients bit for bit at every run, no float32
copy of dq in memory, and no repeated keys (the second kernel adds up the H / K query heads of its key head in registers).

Registers a thread at C = 128: dq 64 + s 32 + dp 32 (64 keys a step); dk 64 + dv 64 + s 32 + dp 32 (64 queries a step), of 240.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kaiyuan_jax.kernels.attention import mosaic_tiles as tiles
from kaiyuan_jax.kernels.attention.mosaic_tiles import COMPUTE, LOG2E, MASKED, ROWS, Case, T


def backward(q_BLHC, k_BLKC, v_BLKC, segments_BL, o_BLHC, lse_BHL, do_BLHC, case: Case):
    """dq_BLHC, dk_BLKC, dv_BLKC in the dtypes of q, k, v. L must be a multiple of 128."""
    delta_BHL = jnp.einsum("BLHC,BLHC->BHL", o_BLHC, do_BLHC, preferred_element_type=jnp.float32)
    arrays = q_BLHC, k_BLKC, v_BLKC, do_BLHC, lse_BHL * LOG2E, delta_BHL, segments_BL
    return _dq(*arrays, case=case), *_dk_dv(*arrays, case=case)


def _dq(q_BLHC, k_BLKC, v_BLKC, do_BLHC, lse_BHL, delta_BHL, segments_BL, *, case: Case):
    B, L, H, C = q_BLHC.shape
    dtype, keys, stages = q_BLHC.dtype, case.blocks.dq_keys, case.blocks.dq_stages
    masked = segments_BL is not None
    kernel = plgpu.kernel(
        functools.partial(_dq_kernel, case=case),
        out_type=jax.ShapeDtypeStruct((B, L, H, C), dtype),
        grid=(H, L // T, B),
        grid_names=("head", "tile", "batch"),
        num_threads=COMPUTE + 1,
        thread_name="warpgroup",
        scratch_types=[
            tiles.shared((T, C), dtype),
            tiles.shared((T, C), dtype),
            plgpu.SMEM((T,), jnp.float32),
            plgpu.SMEM((T,), jnp.float32),
            plgpu.SMEM((T,), jnp.int32) if masked else None,
            tiles.shared((stages, keys, C), dtype),
            tiles.shared((stages, keys, C), dtype),
            plgpu.SMEM((stages, keys), jnp.int32) if masked else None,
            plgpu.Barrier(num_arrivals=4 + masked),
            plgpu.Barrier(num_arrivals=1 + masked, num_barriers=stages),
            plgpu.Barrier(num_barriers=stages),
            plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
        ],
        compiler_params=tiles.parameters(),
    )
    spans = tiles.spans_or_none(tiles.key_spans, segments_BL, L, case.window)
    return kernel(q_BLHC, k_BLKC, v_BLKC, do_BLHC, lse_BHL, delta_BHL, segments_BL, spans)


def _dq_kernel(q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref, segments_ref, spans_ref, dq_ref, *scratch, case: Case):
    q_tile, do_tile, lse_tile, delta_tile, q_segments, k_ring, v_ring, k_segments, resident, k_full, v_full, free = scratch
    (L, H, C), keys, stages = q_ref.shape[1:], case.blocks.dq_keys, case.blocks.dq_stages
    batch, head, warpgroup = lax.axis_index("batch"), lax.axis_index("head"), lax.axis_index("warpgroup")
    tile = L // T - 1 - lax.axis_index("tile")  # the longest first
    per_tile = T // keys
    first, whole = tiles.read_span(spans_ref, batch, tile, 0)

    @pl.when(warpgroup == COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COPY_REGISTERS, action="decrease")
        key_head = lax.div(head, H // k_ref.shape[2])
        here = pl.ds(tile * T, T)
        plgpu.copy_gmem_to_smem(q_ref.at[batch, here, head], q_tile, resident)
        plgpu.copy_gmem_to_smem(do_ref.at[batch, here, head], do_tile, resident)
        plgpu.copy_gmem_to_smem(lse_ref.at[batch, head, here], lse_tile, resident)
        plgpu.copy_gmem_to_smem(delta_ref.at[batch, head, here], delta_tile, resident)
        if segments_ref is not None:
            plgpu.copy_gmem_to_smem(segments_ref.at[batch, here], q_segments, resident)

        def load(step, slot):
            there = pl.ds(first * T + step * keys, keys)
            plgpu.copy_gmem_to_smem(k_ref.at[batch, there, key_head], k_ring.at[slot], k_full.at[slot])
            if segments_ref is not None:
                plgpu.copy_gmem_to_smem(segments_ref.at[batch, there], k_segments.at[slot], k_full.at[slot])
            plgpu.copy_gmem_to_smem(v_ref.at[batch, there, key_head], v_ring.at[slot], v_full.at[slot])

        tiles.stream((tile + 1 - first) * per_tile, stages, free, load)

    @pl.when(warpgroup < COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COMPUTE_REGISTERS, action="increase")
        own = pl.ds(warpgroup * ROWS, ROWS)
        query = tile * T + warpgroup * ROWS
        shape = (ROWS, keys)
        plgpu.barrier_wait(resident)
        lse, delta = tiles.rows(lse_tile.at[own]), tiles.rows(delta_tile.at[own])
        query_segments = None if segments_ref is None else tiles.rows(q_segments.at[own])

        def step(masked, dq_sum, block):
            slot = lax.rem(block - first * per_tile, stages)
            plgpu.barrier_wait(k_full.at[slot])
            plgpu.barrier_wait(v_full.at[slot])

            def dscores(products_sum, dweights_sum):
                plgpu.wgmma(products_sum, q_tile.at[own], k_ring.at[slot].transpose((1, 0)))
                plgpu.wgmma(dweights_sum, do_tile.at[own], v_ring.at[slot].transpose((1, 0)))
                score, slope = tiles.scores(plgpu.wgmma_accumulator_load(products_sum, wait_n=1), C, case.softcap)
                if masked:
                    key_segments = None if segments_ref is None else tiles.columns(k_segments.at[slot])
                    seen = tiles.visible(query, block * keys, shape, 0, case.window, query_segments, key_segments)
                    score = jnp.where(seen, score, MASKED)
                weights = jnp.exp2(score - tiles.along(lse, shape, 0))
                dscore = weights * (dweights_sum[...] - tiles.along(delta, shape, 0))
                return (dscore if slope is None else dscore * slope).astype(q_ref.dtype)

            dscore = pl.run_scoped(dscores, *(plgpu.ACC(shape, jnp.float32),) * 2)
            plgpu.wgmma(dq_sum, dscore, k_ring.at[slot])
            if segments_ref is not None:
                plgpu.commit_smem()  # segments were read as ordinary memory, and TMA will write there next
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(free.at[slot])

        def run(dq_sum):
            edges = ((True, first, whole), (False, whole, tile), (True, tile, tile + 1))
            for masked, start, end in edges if spans_ref is not None else edges[1:]:
                pl.loop(start * per_tile, end * per_tile)(functools.partial(step, masked, dq_sum))
            return dq_sum[...]

        dq = pl.run_scoped(run, plgpu.ACC((ROWS, C), jnp.float32))
        q_tile[own] = (dq * C**-0.5).astype(q_ref.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile.at[own], dq_ref.at[batch, pl.ds(query, ROWS), head])
        plgpu.wait_smem_to_gmem(0)


def _dk_dv(q_BLHC, k_BLKC, v_BLKC, do_BLHC, lse_BHL, delta_BHL, segments_BL, *, case: Case):
    (B, L, K, C), dtype = k_BLKC.shape, k_BLKC.dtype
    queries, stages = case.blocks.dkv_queries, case.blocks.dkv_stages
    masked = segments_BL is not None
    kernel = plgpu.kernel(
        functools.partial(_dkv_kernel, case=case),
        out_type=(jax.ShapeDtypeStruct((B, L, K, C), dtype),) * 2,
        grid=(K, L // T, B),
        grid_names=("head", "tile", "batch"),
        num_threads=COMPUTE + 1,
        thread_name="warpgroup",
        scratch_types=[
            tiles.shared((T, C), dtype),
            tiles.shared((T, C), dtype),
            plgpu.SMEM((T,), jnp.int32) if masked else None,
            tiles.shared((stages, queries, C), dtype),
            tiles.shared((stages, queries, C), dtype),
            plgpu.SMEM((stages, queries), jnp.float32),
            plgpu.SMEM((stages, queries), jnp.float32),
            plgpu.SMEM((stages, queries), jnp.int32) if masked else None,
            plgpu.Barrier(num_arrivals=2 + masked),
            plgpu.Barrier(num_arrivals=2 + masked, num_barriers=stages),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
        ],
        compiler_params=tiles.parameters(),
    )
    spans = tiles.spans_or_none(tiles.query_spans, segments_BL, L, case.window)
    return kernel(q_BLHC, k_BLKC, v_BLKC, do_BLHC, lse_BHL, delta_BHL, segments_BL, spans)


def _dkv_kernel(q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref, segments_ref, spans_ref, dk_ref, dv_ref, *scratch, case: Case):
    k_tile, v_tile, k_segments, q_ring, do_ring, lse_ring, delta_ring, q_segments, resident, q_full, do_full, free = scratch
    (L, K, C), queries, stages = k_ref.shape[1:], case.blocks.dkv_queries, case.blocks.dkv_stages
    batch, key_head, warpgroup = lax.axis_index("batch"), lax.axis_index("head"), lax.axis_index("warpgroup")
    tile = lax.axis_index("tile")  # ascending: the first keys have the most queries
    group, per_tile = q_ref.shape[2] // K, T // queries
    last, whole = tiles.read_span(spans_ref, batch, tile, L // T)
    steps = (last - tile) * per_tile  # of each query head

    @pl.when(warpgroup == COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COPY_REGISTERS, action="decrease")
        here = pl.ds(tile * T, T)
        plgpu.copy_gmem_to_smem(k_ref.at[batch, here, key_head], k_tile, resident)
        plgpu.copy_gmem_to_smem(v_ref.at[batch, here, key_head], v_tile, resident)
        if segments_ref is not None:
            plgpu.copy_gmem_to_smem(segments_ref.at[batch, here], k_segments, resident)

        def load(step, slot):
            head = key_head * group + lax.div(step, steps)
            there = pl.ds(tile * T + lax.rem(step, steps) * queries, queries)
            plgpu.copy_gmem_to_smem(q_ref.at[batch, there, head], q_ring.at[slot], q_full.at[slot])
            plgpu.copy_gmem_to_smem(lse_ref.at[batch, head, there], lse_ring.at[slot], q_full.at[slot])
            if segments_ref is not None:
                plgpu.copy_gmem_to_smem(segments_ref.at[batch, there], q_segments.at[slot], q_full.at[slot])
            plgpu.copy_gmem_to_smem(do_ref.at[batch, there, head], do_ring.at[slot], do_full.at[slot])
            plgpu.copy_gmem_to_smem(delta_ref.at[batch, head, there], delta_ring.at[slot], do_full.at[slot])

        tiles.stream(steps * group, stages, free, load)

    @pl.when(warpgroup < COMPUTE)
    def _():
        plgpu.set_max_registers(tiles.COMPUTE_REGISTERS, action="increase")
        own = pl.ds(warpgroup * ROWS, ROWS)
        key = tile * T + warpgroup * ROWS
        shape = (ROWS, queries)
        plgpu.barrier_wait(resident)
        key_segments = None if segments_ref is None else tiles.rows(k_segments.at[own])

        def step(masked, member, dk_sum, dv_sum, block):
            slot = lax.rem(member * steps + block - tile * per_tile, stages)
            plgpu.barrier_wait(q_full.at[slot])
            plgpu.barrier_wait(do_full.at[slot])

            def dscores(products_sum, dweights_sum):
                multiply_values = lambda: plgpu.wgmma(dweights_sum, v_tile.at[own], do_ring.at[slot].transpose((1, 0)))  # noqa: E731
                plgpu.wgmma(products_sum, k_tile.at[own], q_ring.at[slot].transpose((1, 0)))
                if not case.softcap:  # its slope needs the registers
                    multiply_values()
                score, slope = tiles.scores(plgpu.wgmma_accumulator_load(products_sum, wait_n=int(not case.softcap)), C, case.softcap)
                if masked:
                    query_segments = None if segments_ref is None else tiles.columns(q_segments.at[slot])
                    seen = tiles.visible(block * queries, key, shape, 1, case.window, query_segments, key_segments)
                    score = jnp.where(seen, score, MASKED)
                weights = jnp.exp2(score - tiles.along(tiles.columns(lse_ring.at[slot]), shape, 1))
                if case.softcap:
                    multiply_values()
                plgpu.wgmma(dv_sum, weights.astype(q_ref.dtype), do_ring.at[slot])
                weights = weights if slope is None else weights * slope
                dweights = plgpu.wgmma_accumulator_load(dweights_sum, wait_n=1)
                return (weights * (dweights - tiles.along(tiles.columns(delta_ring.at[slot]), shape, 1))).astype(q_ref.dtype)

            dscore = pl.run_scoped(dscores, *(plgpu.ACC(shape, jnp.float32),) * 2)
            plgpu.wgmma(dk_sum, dscore, q_ring.at[slot])
            plgpu.commit_smem()  # lse and delta were read as ordinary memory, and TMA will write there next
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(free.at[slot])

        def run(dk_sum, dv_sum):
            @pl.loop(0, group)
            def _(member):
                edges = ((True, tile, tile + 1), (False, tile + 1, whole), (True, whole, last))
                for masked, start, end in edges if spans_ref is not None else edges[:2]:
                    pl.loop(start * per_tile, end * per_tile)(functools.partial(step, masked, member, dk_sum, dv_sum))

            return dk_sum[...], dv_sum[...]

        dk, dv = pl.run_scoped(run, *(plgpu.ACC((ROWS, C), jnp.float32),) * 2)
        k_tile[own] = (dk * C**-0.5).astype(k_ref.dtype)
        v_tile[own] = dv.astype(v_ref.dtype)
        plgpu.commit_smem()
        here = pl.ds(key, ROWS)
        plgpu.copy_smem_to_gmem(k_tile.at[own], dk_ref.at[batch, here, key_head])
        plgpu.copy_smem_to_gmem(v_tile.at[own], dv_ref.at[batch, here, key_head])
        plgpu.wait_smem_to_gmem(0)
