"""Causal attention by cuDNN, through `jax.nn.dot_product_attention`: with or without a window, nothing else.

What JAX 0.11 and 0.12 offer of cuDNN: float16 and bfloat16; grouped queries without repeated keys; head sizes that are multiples of 8, up
to 256 on Hopper and later and 128 before; any length; a causal window. Documents exist only in an interface that is not public (packed
rows with offsets), a soft-cap only as a traced function of the scores in the same place. Gradients that are the same at every run cannot be
asked for here, only of XLA as a whole (`--xla_gpu_deterministic_ops=true`). JAX asks the machine that *traces* for its cuDNN, so a program
made on a machine without a GPU cannot contain it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Device kind -> largest head size. Kinds that are not named have not been looked up, not been found wanting.
HEAD_SIZES = {"A100": 128, "A800": 128, "L40S": 128, "H100": 256, "H200": 256, "H800": 256, "H20": 256, "GH200": 256}


def supports(q_shape, k_shape, dtype, segments: bool, softcap: float, window: int, device_kind: str) -> str:
    """Empty if cuDNN can compute this case on this kind of device, otherwise the reason in one line."""
    del window
    head_size = next((size for word in device_kind.split() for name, size in HEAD_SIZES.items() if word.split("-")[0] == name), 0)
    if not device_kind.startswith("NVIDIA") or not head_size:
        return f"found device kind {device_kind!r}, must be one of {', '.join(HEAD_SIZES)}"
    if segments or softcap:
        return f"found {'documents' if segments else f'a soft-cap of {softcap:g}'}, must be plain causal attention or a window"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"found dtype {jnp.dtype(dtype)}, must be bfloat16 or float16"
    if q_shape[3] > head_size or q_shape[3] % 8:
        return f"found head size {q_shape[3]}, must be a multiple of 8 up to {head_size}"
    if q_shape[2] % k_shape[2]:
        return f"found {q_shape[2]} query heads for {k_shape[2]} key heads, must be a multiple"
    return missing()


@functools.cache
def missing() -> str:
    """Why the machine that traces cannot put cuDNN attention into a program; empty if it can."""
    x = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(attention, x, x, x)
    except (RuntimeError, NotImplementedError) as error:
        return f"found no cuDNN on the machine that traces ({error}), must be there: trace on a GPU machine"
    return ""


def attention(q_BLHC, k_BLKC, v_BLKC, *, segments_BL=None, softcap: float = 0.0, window: int = 0):
    """o_BLHC in q's dtype, for what `supports` allows; ValueError for documents or a soft-cap."""
    if segments_BL is not None or softcap:
        raise ValueError("cuDNN attention: found documents or a soft-cap, must be plain causal attention or a window")
    left = (window - 1, 0) if window else None
    o_BLHC = jax.nn.dot_product_attention(q_BLHC, k_BLKC, v_BLKC, is_causal=True, local_window_size=left, implementation="cudnn")
    return checkpoint_name(o_BLHC, "attention_out")
