"""Attention: every implementation of ours that can run here, beside JAX's own and tokamax, forward and with backward.

Each is also held against float32 on a short row: a fast wrong kernel is no kernel. `error` is the largest |x - reference| / |reference|
over the output and the three gradients; bfloat16 gives about 5e-3.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp

from kaiyuan_jax.experiments.accelerator import attention_cases as cases
from kaiyuan_jax.experiments.accelerator import timing
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.kernels.attention import api, reference
from kaiyuan_jax.kernels.placement import Placement

RIVALS = ("jax.nn: cudnn", "ours: pallas_gpu", "ours: cudnn", "tokamax")


def measure(job: Job) -> None:
    """First what training takes in every case, then its best rivals, then the rest: the time may not do for all."""
    shape = cases.TINY if job.tiny else (cases.BATCH, cases.LENGTH, cases.HEADS, cases.KV_HEADS, cases.HEAD_SIZE)
    kind = jax.devices()[0].device_kind
    work = []
    for dtype in ("bfloat16", "float16"):
        for case in cases.CASES if dtype == "bfloat16" and not job.tiny else cases.CASES[:1]:
            found = contestants(case, dtype)
            able = [f"ours: {name}" for name in candidates(case, shape, dtype, kind)]
            for name, function in found.items():
                if name in able or not name.startswith("ours: "):
                    row = dict(case=case.name, dtype=dtype, implementation=name, chosen=name == able[0])
                    urgency = (name != able[0]) + (name != able[0] and name not in RIVALS) + (dtype != "bfloat16")
                    work.append((urgency, row, functools.partial(_measure, function, case, shape, dtype)))
    for _, row, call in sorted(work, key=lambda entry: entry[0]):  # stable: cases stay in their order
        job.attempt(call, needs=0 if job.tiny else 6, **row)


def candidates(case: cases.Case, shape: tuple, dtype: str, device_kind: str) -> list[str]:
    """Our implementations that can take the case; the first is what training takes."""
    B, L, H, K, C = shape
    described = ((B, L, H, C), (B, L, K, C), jnp.dtype(dtype), case.documents, case.softcap, case.window, device_kind)
    return api.candidates(Placement(device_kind).platform, *described)


def contestants(case: cases.Case, dtype: str) -> dict:
    """Name -> function of (q, k, v, segments_BL or None)."""
    place, found = Placement(jax.devices()[0].device_kind), {}
    options = dict(softcap=case.softcap, window=case.window, place=place)
    for name in api.ORDER[place.platform]:
        found[f"ours: {name}"] = lambda q, k, v, s, name=name: api.attention(q, k, v, segments_BL=s, implementation=name, **options)
    if not case.softcap and (place.platform, dtype) != ("cpu", "float16"):  # jax.nn has neither
        for name in ("cudnn", "xla") if place.platform == "gpu" else ("xla",):
            found[f"jax.nn: {name}"] = functools.partial(_jax_nn, case, name)
    if importlib.util.find_spec("tokamax"):
        found["tokamax"] = functools.partial(_tokamax, case)
    return found


def _jax_nn(case: cases.Case, implementation: str, q, k, v, segments_BL):
    mask = None if segments_BL is None else segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
    window = (case.window - 1, 0) if case.window else None
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, local_window_size=window, implementation=implementation)


def _tokamax(case: cases.Case, q, k, v, segments_BL):
    import tokamax  # here, so that one made for another JAX costs its own rows alone

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
    found = jax.jit(functools.partial(_both, function))(*inputs(case, shape, dtype))
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(_exact(case, shape, dtype)), strict=True)
    return max(float(jnp.linalg.norm((a.astype(jnp.float32) - b).ravel()) / jnp.linalg.norm(b.ravel())) for a, b in pairs)


@functools.cache
def _exact(case: cases.Case, shape: tuple, dtype: str):
    """Output and gradients of the definition for the same inputs."""

    def exact(q, k, v, s):
        return reference.attention(q, k, v, segments_BL=s, softcap=case.softcap, window=case.window)

    *arrays, segments = inputs(case, shape, dtype)
    return jax.jit(functools.partial(_both, exact))(*(x.astype(jnp.float32) for x in arrays), segments)
