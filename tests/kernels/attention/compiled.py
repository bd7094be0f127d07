"""Compiles attention, forward and backward, for a TPU that is not here: `python tests/kernels/attention/compiled.py v5e:1x1 v5p:2x2x1`.

Prints the temporaries that the compiler reports for one row of L tokens on one device, under its default limit on VMEM. With no target it
takes one of each generation. Needs `make targets`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax.kernels.attention import api
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import topology

TARGETS = ("v5e:1x1", "v5p:2x2x1", "v6e:1x1")
HEADS = (16, 8, 128)  # H, K, C of the 2B model
# (name, L, dtype, segments, softcap, window)
CASES = (
    ("plain", 4096, "bfloat16", False, 0.0, 0),
    ("documents, soft-cap", 4096, "bfloat16", True, 30.0, 0),
    ("documents, window 1024", 4096, "bfloat16", True, 0.0, 1024),
    ("documents, float16", 4096, "float16", True, 0.0, 0),
    ("documents, float32", 4096, "float32", True, 0.0, 0),
)


def value_and_gradients(place, segments: bool, softcap: float, window: int, implementation: str = ""):
    """A function of q, k, v, segments_BL, do_BLHC that gives the output and the gradients of q, k, v."""

    def run(q_BLHC, k_BLKC, v_BLKC, segments_BL, do_BLHC):
        options = dict(softcap=softcap, window=window, place=place, implementation=implementation)
        chosen = segments_BL if segments else None
        o_BLHC, pull = jax.vjp(lambda *x: api.attention(*x, segments_BL=chosen, **options), q_BLHC, k_BLKC, v_BLKC)
        return o_BLHC, *pull(do_BLHC)

    return run


def shapes(B: int, L: int, H: int, K: int, C: int, dtype: str, **sharding):
    """Arguments of that function, without memory."""
    q, k = (jax.ShapeDtypeStruct((B, L, heads, C), jnp.dtype(dtype), **sharding) for heads in (H, K))
    return q, k, k, jax.ShapeDtypeStruct((B, L), jnp.int32, **sharding), q


def temporaries(target, cases=CASES, heads=HEADS, implementation: str = "") -> list:
    """[[name, bytes, splash kernels in the program], ...]; inside a process that `topology.call` started for the target."""
    device = topology.devices(target)[0]
    place = Placement(device.device_kind)
    found = []
    for name, L, dtype, segments, softcap, window in cases:
        whole = NamedSharding(Mesh([device], ("x",)), PartitionSpec())
        run = jax.jit(value_and_gradients(place, segments, softcap, window, implementation))
        with jax.default_device(device):
            compiled = run.trace(*shapes(1, L, *heads, dtype, sharding=whole)).lower().compile()
        text = compiled.as_text()
        kernels = sum(f"splash_mha_{kernel}" in text for kernel in ("fwd", "dq", "dkv"))
        found.append([name, compiled.memory_analysis().temp_size_in_bytes, kernels])
    return found


if __name__ == "__main__":
    for name in sys.argv[1:] or TARGETS:
        for case, size, kernels in topology.call(topology.target(name), f"{Path(__file__).resolve()}:temporaries"):
            print(f"{name:<10} {case:<24} {size / 2**20:7.1f} MiB  {kernels} splash kernels", flush=True)
