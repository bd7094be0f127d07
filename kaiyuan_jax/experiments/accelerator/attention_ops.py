"""Attention: every implementation of ours that can run here, beside JAX's own and tokamax, forward and with backward.

Each is also held against float32 on a short row: a fast wrong kernel is no kernel. `error` is the largest |x - reference| / |reference|
over the output and the three gradients; bfloat16 gives about 5e-3.
"""

import functools

import jax
import jax.numpy as jnp

from kaiyuan_jax.experiments.accelerator import attention_cases as cases
from kaiyuan_jax.experiments.accelerator import timing
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.kernels.attention import api, reference
from kaiyuan_jax.kernels.placement import Placement


def measure(job: Job) -> None:
    shape = cases.TINY if job.tiny else (cases.BATCH, cases.LENGTH, cases.HEADS, cases.KV_HEADS, cases.HEAD_SIZE)
    for dtype in ("bfloat16", "float16"):
        for case in cases.CASES if dtype == "bfloat16" and not job.tiny else cases.CASES[:1]:
            taken = chosen(case, shape, dtype)
            for name, function in contestants(case).items():
                row = dict(case=case.name, dtype=dtype, implementation=name, chosen=name == f"ours: {taken}")
                job.attempt(lambda f=function, c=case, d=dtype: _measure(f, c, shape, d), needs=0 if job.tiny else 6, **row)


def chosen(case: cases.Case, shape: tuple, dtype: str) -> str:
    """The implementation that training takes for the case on this device."""
    B, L, H, K, C = shape
    kind = jax.devices()[0].device_kind
    described = ((B, L, H, C), (B, L, K, C), jnp.dtype(dtype), case.documents, case.softcap, case.window, kind)
    return api.choose(Placement(kind).platform, "", *described)


def contestants(case: cases.Case) -> dict:
    """Name -> function of (q, k, v, segments_BL or None)."""
    place, found = Placement(jax.devices()[0].device_kind), {}
    options = dict(softcap=case.softcap, window=case.window, place=place)
    for name in api.ORDER[place.platform]:
        found[f"ours: {name}"] = lambda q, k, v, s, name=name: api.attention(q, k, v, segments_BL=s, implementation=name, **options)
    if not case.softcap:  # jax.nn has none
        for name in ("cudnn", "xla") if place.platform == "gpu" else ("xla",):
            found[f"jax.nn: {name}"] = functools.partial(_jax_nn, case, name)
    try:
        import tokamax
    except ImportError:
        return found
    return found | {"tokamax": lambda q, k, v, s: _tokamax(tokamax, case, q, k, v, s)}


def _jax_nn(case: cases.Case, implementation: str, q, k, v, segments_BL):
    mask = None if segments_BL is None else segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
    window = (case.window - 1, 0) if case.window else None
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, local_window_size=window, implementation=implementation)


def _tokamax(tokamax, case: cases.Case, q, k, v, segments_BL):
    mask = None if segments_BL is None else segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
    window = (case.window - 1, 0) if case.window else None
    return tokamax.dot_product_attention(q, k, v, mask=mask, is_causal=True, logits_soft_cap=case.softcap or None, local_window_size=window)


def inputs(case: cases.Case, shape: tuple, dtype: str):
    B, L, H, K, C = shape
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, g = (jax.random.normal(key, (B, L, n, C), dtype) for key, n in zip(keys, (H, K, K, H), strict=True))
    segments = jnp.asarray(cases.documents(B, L), jnp.int32) if case.documents else None
    return q, k, v, g, segments


def _both(function, q, k, v, g, segments):
    """Output and the three gradients."""
    out, back = jax.vjp(lambda q, k, v: function(q, k, v, segments), q, k, v)
    return out, back(g)


def _measure(function, case: cases.Case, shape: tuple, dtype: str) -> dict:
    q, k, v, g, segments = inputs(case, shape, dtype)
    B, L, H, _, C = shape
    forward = timing.seconds(jax.jit(function), q, k, v, segments, longest=1.0)
    compiled = jax.jit(functools.partial(_both, function)).lower(q, k, v, g, segments).compile()
    both = timing.seconds(compiled, q, k, v, g, segments, longest=1.0)
    return {
        "forward_ms": forward * 1e3,
        "both_ms": both * 1e3,
        "forward_tflops": cases.flops(case, B, L, H, C, False) / forward / 1e12,
        "both_tflops": cases.flops(case, B, L, H, C, True) / both / 1e12,
        "temporaries_gib": timing.compiled_bytes(compiled)["temporaries_gib"],
        "error": error(function, case, (1, min(L, 1024), *shape[2:]), dtype),
    }


def error(function, case: cases.Case, shape: tuple, dtype: str) -> float:
    """The largest relative distance to the definition in float32 over the output and the gradients."""
    q, k, v, g, segments = inputs(case, shape, dtype)
    exact = functools.partial(lambda q, k, v, s: reference.attention(q, k, v, segments_BL=s, softcap=case.softcap, window=case.window))
    found = jax.jit(functools.partial(_both, function))(q, k, v, g, segments)
    wanted = jax.jit(functools.partial(_both, exact))(*(x.astype(jnp.float32) for x in (q, k, v, g)), segments)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(jnp.linalg.norm((a.astype(jnp.float32) - b).ravel()) / jnp.linalg.norm(b.ravel())) for a, b in pairs)
