"""Attention on Hopper GPUs by kernels of our own (Pallas Mosaic GPU): causal, grouped queries, documents, soft-cap, window.

Keeps the inputs, the output and the log-sum-exp for the backward pass: 2 B L H C + 4 B L H bytes beyond the inputs, and no scores. Rows
are made up to a multiple of 128 positions with zeros at the end, which causality hides from all real queries.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kaiyuan_jax.kernels.attention.mosaic_backward import backward
from kaiyuan_jax.kernels.attention.mosaic_forward import forward
from kaiyuan_jax.kernels.attention.mosaic_tiles import BLOCKS, HOPPER, Blocks, Case, T


def supports(q_shape, k_shape, dtype, segments: bool, softcap: float, window: int, device_kind: str) -> str:
    """Empty if the kernels can compute this case on this kind of device, otherwise the reason in one line."""
    del segments, softcap, window  # all of them can
    if not device_kind.startswith("NVIDIA") or not set(device_kind.split()) & set(HOPPER):
        return f"found device kind {device_kind!r}, must have compute capability 9.0 (WGMMA): {', '.join(HOPPER)}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"found dtype {jnp.dtype(dtype)}, must be bfloat16 or float16"
    if q_shape[3] not in BLOCKS:
        return f"found head size {q_shape[3]}, must be one of {', '.join(map(str, BLOCKS))}: others have no tuned registers"
    if q_shape[2] % k_shape[2]:
        return f"found {q_shape[2]} query heads for {k_shape[2]} key heads, must be a multiple"
    return ""


def attention(q_BLHC, k_BLKC, v_BLKC, *, segments_BL=None, softcap: float = 0.0, window: int = 0, blocks: Blocks | None = None):
    """o_BLHC in q's dtype (bfloat16 or float16); products in q's dtype, softmax and sums in float32. For what `supports` allows."""
    L, C = q_BLHC.shape[1], q_BLHC.shape[3]
    window = 0 if window >= L else window
    case = Case(float(softcap), int(window), blocks or BLOCKS[C])
    if end := -L % T:
        q_BLHC, k_BLKC, v_BLKC = (jnp.pad(x, ((0, 0), (0, end), (0, 0), (0, 0))) for x in (q_BLHC, k_BLKC, v_BLKC))
        segments_BL = None if segments_BL is None else jnp.pad(segments_BL, ((0, 0), (0, end)), mode="edge")
    return _attention(case, q_BLHC, k_BLKC, v_BLKC, segments_BL)[:, :L]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(case: Case, q_BLHC, k_BLKC, v_BLKC, segments_BL):
    return forward(q_BLHC, k_BLKC, v_BLKC, segments_BL, case)[0]


def _attention_forward(case: Case, q_BLHC, k_BLKC, v_BLKC, segments_BL):
    # Both carry the name under which the layer keeps the heads' output: backward then needs no second forward pass.
    outputs = forward(q_BLHC, k_BLKC, v_BLKC, segments_BL, case)
    o_BLHC, lse_BHL = (checkpoint_name(x, "attention_out") for x in outputs)
    return o_BLHC, (q_BLHC, k_BLKC, v_BLKC, segments_BL, o_BLHC, lse_BHL)


def _attention_backward(case: Case, residuals, do_BLHC):
    return *backward(*residuals, do_BLHC, case), None


_attention.defvjp(_attention_forward, _attention_backward)
