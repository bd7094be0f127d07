"""Causal attention on TPUs: JAX's splash attention behind this package's signature.

Splash walks tiles of scores and visits only those that the causal mask (or the sliding window) leaves, forward and in two backward
kernels; documents are masked inside a tile; H / K query heads read the same keys without a copy of them. What it does not do is done here:

* scores are scaled: q is multiplied by 1/sqrt(C) in float32 before it is rounded;
* rows are padded to a multiple of the tiles. A padded key is later than every query of the row, so the causal mask hides it, and a padded
  query's result is cut off, so it adds nothing to any gradient; it sees itself, so its softmax is defined;
* float16 becomes bfloat16 (no Pallas TPU kernel takes float16), result and gradients are cast back: 8 bits of significand instead of 11.

The log-sum-exp that the backward pass needs leaves the forward kernel 128 times over (a register's width), 32 MiB for 16 heads of 4096
tokens, of which one 128th is kept.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from kaiyuan_jax.kernels.attention import blocks as tiles

DTYPES = ("float32", "bfloat16", "float16")


def supports(q_shape, k_shape, dtype, segments: bool, softcap: float, window: int, device_kind: str) -> str:
    """Why it cannot run for such arrays on such a device, or nothing. Head sizes and lengths may be any."""
    if not device_kind.startswith("TPU"):
        return f"found device kind {device_kind!r}, must be a TPU"
    if device_kind.startswith(("TPU v2", "TPU v3")):
        return f"found device kind {device_kind!r}, must be a TPU from v4 on"
    return "" if jnp.dtype(dtype).name in DTYPES else f"found dtype {jnp.dtype(dtype)}, must be one of {', '.join(DTYPES)}"


def attention(
    q_BLHC,
    k_BLKC,
    v_BLKC,
    *,
    segments_BL=None,
    softcap: float = 0.0,
    window: int = 0,
    device_kind: str = "",
    blocks: tiles.Blocks | None = None,
    interpret: bool = False,
):
    """o_BLHC in q's dtype. blocks: tiles, by default `blocks.choose` for the device kind. interpret: as `pallas_call` has it, for CPUs."""
    L, H, C = q_BLHC.shape[1:]
    dtype = q_BLHC.dtype
    compute = jnp.bfloat16 if dtype == jnp.float16 else dtype
    blocks = blocks or tiles.choose(L, C, jnp.dtype(compute).itemsize, window, device_kind)
    length = blocks.padded(L)
    kernel = _kernel(length, H, float(softcap), window if window < L else 0, blocks, interpret)

    def heads_first(x_BLHC):
        return jnp.pad(x_BLHC.astype(compute).swapaxes(1, 2), ((0, 0), (0, 0), (0, length - L), (0, 0)))

    q_BLHC = q_BLHC.astype(jnp.float32) * C**-0.5
    segments = None
    if segments_BL is not None:
        segments_BL = jnp.pad(segments_BL, ((0, 0), (0, length - L)), mode="edge")
        segments = splash_attention_kernel.SegmentIds(segments_BL, segments_BL)
    o_BHLC = jax.vmap(kernel)(heads_first(q_BLHC), heads_first(k_BLKC), heads_first(v_BLKC), segments)
    return o_BHLC[:, :, :L].swapaxes(1, 2).astype(dtype)


def _kernel(L: int, H: int, softcap: float, window: int, blocks: tiles.Blocks, interpret: bool):
    """Splash attention [H, L, C], [K, L, C], [K, L, C], segments of [L] -> [H, L, C] for one row."""
    if window:
        mask = splash_attention_mask.LocalMask((L, L), (window - 1, 0), 0)
    else:
        mask = splash_attention_mask.CausalMask((L, L))
    (q, kv, compute), (q_dkv, kv_dkv, compute_dkv), (q_dq, kv_dq) = blocks.forward, blocks.backward_kv, blocks.backward_q
    sizes = splash_attention_kernel.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=compute,
        block_q_dkv=q_dkv,
        block_kv_dkv=kv_dkv,
        block_kv_dkv_compute=compute_dkv,
        block_q_dq=q_dq,
        block_kv_dq=kv_dq,
    )
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * H),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        attn_logits_soft_cap=softcap or None,
        residual_checkpoint_name="attention_out",  # kept under the name of the heads' output, it need not be computed again
        interpret=interpret,
    )
