"""What the three Hopper attention kernels share: block sizes, which tiles meet, and scores with their mask, soft-cap and slope.

A thread block owns a tile of T = 128 rows (queries, or keys when dk and dv are made): two warpgroups compute 64 rows each, the rows of
one WGMMA, and a third copies the other side's rows through shared memory. Of the N x N pairs of tiles (N = L / T), causality leaves
N (N + 1) / 2; a window or documents leave fewer. `key_spans` and `query_spans` say, for each tile, from where to where pairs meet at all
and where every pair of positions is visible, so that only the tiles between the two pay for a mask.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

T = 128  # rows of a tile
ROWS = 64  # rows of one warpgroup
COMPUTE = T // ROWS  # warpgroups that compute; the next one copies
LOG2E = math.log2(math.e)
MASKED = -1e30  # finite: a row none of whose keys is visible in a block gives exp2(MASKED - MASKED), which the next visible key erases
COMPUTE_REGISTERS, COPY_REGISTERS = 240, 24  # 2 x 128 x 240 + 128 x 24 of the 65,536 registers of a multiprocessor


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Rows that pass through shared memory per step, dividing T, and the steps in flight, for each kernel."""

    forward_stages: int
    dq_keys: int
    dq_stages: int
    dkv_queries: int
    dkv_stages: int


# By head size. Chosen by what fits (228 KiB of shared memory, 240 registers a thread without spills), not yet by timing on any device.
BLOCKS = {
    64: Blocks(forward_stages=3, dq_keys=64, dq_stages=4, dkv_queries=64, dkv_stages=3),
    128: Blocks(forward_stages=2, dq_keys=64, dq_stages=3, dkv_queries=64, dkv_stages=2),
}
HOPPER = ("H100", "H200", "H800", "GH200", "H20")  # device kinds of compute capability 9.0, which alone have WGMMA


@dataclasses.dataclass(frozen=True)
class Case:
    """What a kernel is specialised for, apart from shapes and dtypes."""

    softcap: float
    window: int
    blocks: Blocks


def _pairs(segments_BL, L: int, window: int):
    """Of query tile i and key tile j: whether any pair of positions is visible, and whether all are, [B or 1, N, N] each.

    Documents are compared by the range of their numbers in a tile, so "any" may be claimed in vain where numbers do not ascend; the mask
    decides there. "All" is exact.
    """
    N = L // T
    i, j = jnp.arange(N)[:, None], jnp.arange(N)
    some, all_ = (j <= i)[None], (j < i)[None]
    if window:
        some &= (i - j) * T - (T - 1) < window
        all_ &= (i - j) * T + (T - 1) < window
    if segments_BL is not None:
        tiles = segments_BL.reshape(-1, N, T)
        low, high = tiles.min(2), tiles.max(2)
        some &= (low[:, :, None] <= high[:, None]) & (low[:, None] <= high[:, :, None])
        all_ &= (low[:, :, None] == high[:, None]) & (low[:, None] == high[:, :, None])
    return some, all_


def key_spans(segments_BL, L: int, window: int):
    """int32 [2, B or 1, N]: the first key tile that query tile i sees any of, and the first from which it sees all up to the diagonal."""
    some, all_ = _pairs(segments_BL, L, window)
    i, j = jnp.arange(L // T)[:, None], jnp.arange(L // T)
    first = jnp.argmax(some, axis=2)
    whole = jnp.max(jnp.where((j < i) & ~all_, j + 1, 0), axis=2)
    return jnp.stack([first, whole]).astype(jnp.int32)


def query_spans(segments_BL, L: int, window: int):
    """int32 [2, B or 1, N]: the query tile after the last that sees any of key tile j, and after the last that all see it whole."""
    some, all_ = _pairs(segments_BL, L, window)
    N = L // T
    i, j = jnp.arange(N)[:, None], jnp.arange(N)
    last = jnp.max(jnp.where(some, i + 1, 0), axis=1)
    whole = jnp.min(jnp.where((i > j) & ~all_, i, N), axis=1)
    return jnp.stack([last, whole]).astype(jnp.int32)


def read_span(spans_ref, batch, tile, default: int):
    """The two numbers of `key_spans` or `query_spans` for a tile; where nothing but causality masks, both are the default."""
    if spans_ref is None:
        return default, default
    row = 0 if spans_ref.shape[1] == 1 else batch
    return spans_ref[0, row, tile], spans_ref[1, row, tile]


def scores(products, head_size: int, softcap: float):
    """Scaled, soft-capped scores in units of log 2, and the soft-cap's slope (None without one).

    tanh(x) = 1 - 2 / (1 + exp(2 x)): exact to an ulp of 1, where the hardware's own tanh is good to 2^-11 only, 0.02 of a cap of 50.
    """
    scale = head_size**-0.5
    if not softcap:
        return products * (scale * LOG2E), None
    tanh = 1.0 - 2.0 / (1.0 + jnp.exp2(products * (2.0 * LOG2E * scale / softcap)))
    return tanh * (softcap * LOG2E), 1.0 - tanh * tanh


def visible(query, key, shape, query_axis: int, window: int, query_segments, key_segments):
    """Which pairs of a block that begins at positions `query` and `key` are visible, in the layout of a WGMMA result."""
    iota = [plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA) for axis in (query_axis, 1 - query_axis)]
    age = iota[0] - iota[1] + (query - key)
    seen = age >= 0
    if window:
        seen &= age < window
    if query_segments is not None:
        seen &= lax.broadcast_in_dim(query_segments, shape, [query_axis]) == lax.broadcast_in_dim(key_segments, shape, [1 - query_axis])
    return seen


def matmul(a, b, shape):
    """float32 a @ b of two operands in shared memory, or a in registers."""

    def product(sum_ref):
        plgpu.wgmma(sum_ref, a, b)
        return sum_ref[...]

    return pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))


def zeros(shape):
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), plgpu.Layout.WGMMA)


def rows(ref):
    """One number per row of a WGMMA result, from shared memory."""
    return plgpu.load(ref, layout=plgpu.Layout.WGMMA.reduce(1))


def columns(ref):
    """One number per column of a WGMMA result, from shared memory."""
    return plgpu.load(ref, layout=plgpu.Layout.WGMMA.reduce(0))


def along(vector, shape, axis: int):
    return lax.broadcast_in_dim(vector, shape, [axis])


def shared(shape, dtype):
    """Shared memory for the operand of a WGMMA, in the order the tensor cores read without bank conflicts."""
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)))


def parameters():
    return plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane)


def acquire(free_barrier, step, stages: int):
    """Waits until the slot of this step is free again; the first round finds it free."""

    @pl.when(step >= stages)
    def _():
        plgpu.barrier_wait(free_barrier.at[lax.rem(step, stages)])


def stream(count, stages: int, free_barrier, load):
    """Calls load(step, slot) for each step, once the slot's last contents have been used."""

    @pl.loop(0, count)
    def _(step):
        slot = lax.rem(step, stages)

        @pl.when(step >= stages)
        def _():
            plgpu.barrier_wait(free_barrier.at[slot])

        load(step, slot)


def spans_or_none(function, segments_BL, L: int, window: int) -> jax.Array | None:
    return None if segments_BL is None and not window else function(segments_BL, L, window)
