"""Measures the linear + cross-entropy op: temporaries, here and for accelerators that are not here, and time on this machine's CPU.

    python launch/benchmark_cross_entropy.py                                         # CPU: temporaries at full size, time at a small one
    python launch/benchmark_cross_entropy.py --target=v5e:1x1,v5p:2x2x1,v6e:1x1,hopper:1 --seconds=0

Three forms of the same value and gradient (mean loss, z-loss, soft-cap): `objective` (logits once, in slices), `losses` (logits twice, in
slices) and `materialised` (all logits, as one writes it first). Temporaries are what the compiler reports beside arguments and results.
Times are the best of rounds in which the forms take turns. Time on an accelerator: launch/benchmark_accelerator.py.
"""

import json
import os
import platform
import sys
import time

import jax
import jax.numpy as jnp
from absl import flags as absl_flags

from kaiyuan_jax import config, flags
from kaiyuan_jax.files import check_target, replace
from kaiyuan_jax.kernels.cross_entropy import api
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import topology

TARGET = absl_flags.DEFINE_list("target", ["cpu"], "What to compile for: cpu, v5e:1x1, v5p:2x2x1, v6e:1x1, hopper:1; several with commas.")
SHAPE = absl_flags.DEFINE_list("shape", ["2", "4096", "2048", "151936"], "B,L,D,V of which temporaries are reported.")
SMALL = absl_flags.DEFINE_list("small", ["8", "512", "256", "4096"], "B,L,D,V that is timed on the CPU.")
SECONDS = absl_flags.DEFINE_float("seconds", 30.0, "Time to spend on timing; 0: none.", lower_bound=0.0)
OUTPUT = absl_flags.DEFINE_string("output", "", "JSON file for the results; empty: printed only.")

FORMS = ("objective", "losses", "materialised")
Z_LOSS, SOFTCAP = 1e-4, 30.0


def main(_):
    shape, small = _sizes("shape", SHAPE.value), _sizes("small", SMALL.value)
    check_target("output", OUTPUT.value, ".json")
    targets = [None if name == "cpu" else topology.target(name) for name in TARGET.value]
    for target in filter(None, targets):
        topology.environment(target)  # refuses a compiler that is not here before anything is compiled
    rows = []
    print("| compiled for | form | head | GiB of temporaries | compile seconds |\n|---|---|---|---|---|", flush=True)
    for target in targets:
        for form in FORMS:
            for head in ("float32", "bfloat16"):
                arguments = {"form": form, "head": head, "shape": shape}
                found = compiled(None, **arguments) if target is None else topology.call(target, f"{__file__}:compiled", arguments)
                rows.append(found | {"target": target.name if target else "cpu"} | arguments)
                print(f"| {rows[-1]['target']} | {form} | {head} | {found['bytes'] / 2**30:.3f} | {found['seconds']:.0f} |", flush=True)
    times = timed(small, SECONDS.value) if SECONDS.value else {}
    if times:
        print(f"\n| form, {'x'.join(map(str, small))} float32 on this CPU | ms | times materialised |\n|---|---|---|")
        for form, seconds in times.items():
            print(f"| {form} | {seconds * 1e3:.1f} | {seconds / times['materialised']:.2f} |")
    if OUTPUT.value:
        machine = {"python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count(), "command": " ".join(sys.argv)}
        replace(OUTPUT.value, json.dumps({"temporaries": rows, "cpu": {"shape": small, "seconds": times}, **machine}, indent=1) + "\n")


def compiled(target, form: str, head: str, shape: list[int]) -> dict:
    """{bytes, seconds}: temporaries of value and gradient, x in bfloat16, and the time to compile; runs in the target's process."""
    device = topology.devices(target)[0] if target else jax.devices("cpu")[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    arrays = [jax.ShapeDtypeStruct(one, dtype, sharding=sharding) for one, dtype in _arrays(shape, "bfloat16", head)]
    begun = time.perf_counter()
    program = step(form, Placement(device.device_kind)).trace(*arrays).lower().compile()
    return {"bytes": program.memory_analysis().temp_size_in_bytes, "seconds": time.perf_counter() - begun}


def timed(shape: list[int], seconds: float) -> dict[str, float]:
    """Form -> seconds of the fastest run, float32."""
    B, L, D, V = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x, head = jax.random.normal(keys[0], (B, L, D)), jax.random.normal(keys[1], (D, V)) * 0.02
    arrays = x, head, jax.random.randint(keys[2], (B, L), 0, V), jnp.full((B, L), 1 / (B * L))
    programs = {form: step(form, Placement("cpu")).lower(*arrays).compile() for form in FORMS}
    best, end = dict.fromkeys(FORMS, float("inf")), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for form, program in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program(*arrays))
            best[form] = min(best[form], time.perf_counter() - begun)
    return best


def step(form: str, place: Placement):
    """Jitted (x, head, targets, weights) -> (objective, gradients of x and head)."""

    def objective(x_BLD, head_DV, targets_BL, weights_BL):
        if form == "objective":
            return api.weighted_objective(x_BLD, head_DV, targets_BL, weights_BL, z_loss=Z_LOSS, softcap=SOFTCAP, place=place)[0]
        if form == "losses":
            loss_BL, logsumexp_BL = api.linear_cross_entropy(x_BLD, head_DV, targets_BL, softcap=SOFTCAP, place=place)
        else:
            logits_BLV = jnp.einsum("BLD,DV->BLV", x_BLD, head_DV.astype(x_BLD.dtype), preferred_element_type=jnp.float32)
            logits_BLV = SOFTCAP * jnp.tanh(logits_BLV / SOFTCAP)
            logsumexp_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
            loss_BL = logsumexp_BL - jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
        return jnp.sum(weights_BL * (loss_BL + Z_LOSS * jnp.square(logsumexp_BL)))

    return jax.jit(jax.value_and_grad(objective, (0, 1)))


def _arrays(shape, compute: str, head: str):
    B, L, D, V = shape
    return ((B, L, D), jnp.dtype(compute)), ((D, V), jnp.dtype(head)), ((B, L), jnp.int32), ((B, L), jnp.float32)


def _sizes(flag: str, found: list[str]) -> list[int]:
    if len(found) != 4 or not all(part.isdigit() and int(part) for part in found):
        raise config.UserError(f"--{flag}={','.join(found)}: must be four sizes above 0: B,L,D,V, such as 2,4096,2048,151936")
    return [int(part) for part in found]


if __name__ == "__main__":
    flags.run(main)
