"""One function for causal attention, whatever computes it.

Every implementation is a file beside this one with `attention` and `supports`, which gives the reason why it cannot take a case on a kind
of device, or nothing. It names its output "attention_out" for rematerialisation, with the log-sum-exp where it has one, and nobody else
does: what is named twice is kept twice. ORDER says which are tried on which platform; the reference takes part by name only.
"""

import functools
import importlib
import math

import jax.numpy as jnp
from absl import logging

from kaiyuan_jax.config import UserError
from kaiyuan_jax.config_check import ATTENTION
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement

# cuDNN first where it can: it is the bar for plain causal attention on NVIDIA GPUs.
ORDER = {"tpu": ("pallas_tpu", "xla"), "gpu": ("cudnn", "pallas_gpu", "xla"), "cpu": ("xla",), "": ("xla",)}


def attention(
    q_BLHC,
    k_BLKC,
    v_BLKC,
    *,
    segments_BL=None,
    softcap: float = 0.0,
    window: int = 0,
    place: Placement = ANYWHERE,
    implementation: str | None = None,
):
    """Causal grouped-query attention o_BLHC in q's dtype, softmax in float32, scores scaled by 1/sqrt(C).

    Query head h reads key/value head h // (H / K). segments_BL (int32) keeps attention inside equal numbers; None: the whole row.
    softcap c replaces a score s by c tanh(s / c); window w lets a query see itself and the w - 1 keys before it; 0 turns either off.
    implementation: None takes `place.attention`, or else the first of ORDER for the platform that can take the case, logged once for
    every case; else one of `config_check.ATTENTION`. Every device of `place.mesh` computes its own rows and heads, and where `place` cuts
    L its own queries: the positions of all arrays then stand in the order of `context.zigzag`, and "xla" makes the chunks.
    Raises ValueError for bad shapes, UserError (a ValueError) for an implementation that does not exist or cannot take the case.
    """
    H, K = q_BLHC.shape[2], k_BLKC.shape[2]
    if k_BLKC.shape != v_BLKC.shape or q_BLHC.shape[:2] != k_BLKC.shape[:2] or q_BLHC.shape[3] != k_BLKC.shape[3] or H % K:
        raise ValueError(f"attention: found q {q_BLHC.shape}, k {k_BLKC.shape}, v {v_BLKC.shape}; must be BLHC, BLKC, BLKC, K dividing H")
    if (n := place.ways("L")) > 1:
        return _cut_rows(q_BLHC, k_BLKC, v_BLKC, segments_BL, n, softcap, window, place, implementation or place.attention)
    case = (q_BLHC.shape, k_BLKC.shape, jnp.dtype(q_BLHC.dtype), segments_BL is not None, softcap, window, place.device_kind)
    name = choose(place.platform, implementation or place.attention, *case)
    options = {"device_kind": place.device_kind} if name == "pallas_tpu" else {}  # whose tiles differ from one TPU to the next
    function = functools.partial(_module(name).attention, softcap=softcap, window=window, **options)
    return on_each_device(function, q_BLHC, k_BLKC, v_BLKC, segments_BL, place)


def _cut_rows(q_BLHC, k_BLKC, v_BLKC, segments_BL, n: int, softcap: float, window: int, place: Placement, wanted: str):
    if wanted not in ("", "xla"):
        raise UserError(
            f"config.kernels.attention: found {wanted!r} with config.mesh.context={n}; rows cut over devices need xla: leave it empty"
        )
    (axis,) = place.axes("L")
    _log_once("xla", place.device_kind or "a device of unknown kind", f"rows are cut over {n} devices")
    function = functools.partial(_module("context").attention, axis=axis, n=n, softcap=softcap, window=window)
    return on_each_device(function, q_BLHC, k_BLKC, v_BLKC, segments_BL, place)


def choose(platform: str, wanted: str, *case) -> str:
    """The implementation's name for a case (the arguments of `supports`); wanted: one by name, or empty.

    Raises UserError for one that does not exist or cannot take the case, with the reason and what can.
    """
    if wanted:
        reason = _module(wanted).supports(*case) if wanted in ATTENTION else "no implementation has that name"
        if not reason:
            return wanted
        can = ", ".join(name for name in ATTENTION if not _module(name).supports(*case))
        raise UserError(f"config.kernels.attention: found {wanted!r}, which cannot run ({reason}); leave it empty or take one of {can}")
    name = candidates(platform, *case)[0]
    refused = [f"{other}: {_module(other).supports(*case)}" for other in ORDER[platform][: ORDER[platform].index(name)]]
    _log_once(name, case[-1] or "a device of unknown kind", "; ".join(refused))
    return name


def candidates(platform: str, *case) -> list[str]:
    """Those of ORDER that can take a case, the first of which does; "xla" takes every case."""
    return [name for name in ORDER[platform] if not _module(name).supports(*case)]


def on_each_device(function, q_BLHC, k_BLKC, v_BLKC, segments_BL, place: Placement):
    """function(q_BLHC, k_BLKC, v_BLKC, segments_BL=) on every device's own rows and heads.

    Query heads are cut as `place` says, and key heads with them. Where there are fewer key heads than parts, or the parts do not divide
    them, each is repeated until they do: n / gcd(n, K) times for n parts, which always divides H / K because n divides H.
    """
    H, K = q_BLHC.shape[2], k_BLKC.shape[2]
    parts = place.ways("H")
    if H % parts == 0 and K % parts:
        repeats = parts // math.gcd(parts, K)
        k_BLKC, v_BLKC = (jnp.repeat(x, repeats, axis=2) for x in (k_BLKC, v_BLKC))

    def local(q_BLHC, k_BLKC, v_BLKC, *segments):
        return (function(q_BLHC, k_BLKC, v_BLKC, segments_BL=segments[0] if segments else None),)

    arrays = (q_BLHC, k_BLKC, v_BLKC) if segments_BL is None else (q_BLHC, k_BLKC, v_BLKC, segments_BL)
    (o_BLHC,) = place.local(local, ("BLHC", "BLHC", "BLHC", "BL")[: len(arrays)], ("BLHC",), shapes=(q_BLHC,))(*arrays)
    return o_BLHC


def _module(name: str):
    """Imported when asked for: kernels for other platforms take a second to import."""
    return importlib.import_module(f"kaiyuan_jax.kernels.attention.{name}")


@functools.cache
def _log_once(name: str, device_kind: str, refused: str):
    logging.info("attention: %s on %s%s", name, device_kind, f" ({refused})" if refused else "")
