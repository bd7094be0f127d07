"""Linear head and cross-entropy, value and gradient: ours beside plainly materialised logits and tokamax, time and temporaries.

`objective` is what training differentiates; `losses` gives the loss of every token and computes the logits twice.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp

from kaiyuan_jax.experiments.accelerator import timing
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.kernels.cross_entropy import api
from kaiyuan_jax.kernels.placement import Placement

SHAPE = (2, 4096, 2048, 151_936)  # B, L, D, V: 8,192 tokens of the 2.03B model
TINY = (2, 32, 64, 512)


def measure(job: Job) -> None:
    shape = TINY if job.tiny else SHAPE
    for softcap in (30.0,) if job.tiny else (0.0, 30.0):
        plain = None
        for name, function in contestants(softcap).items():
            row = job.attempt(lambda f=function: _measure(f, shape), needs=0 if job.tiny else 8, softcap=softcap, implementation=name)
            if name == "materialised":
                plain = row.get("ms")
            elif plain and "ms" in row:
                job.record(softcap=softcap, implementation=name, against_materialised=row["ms"] / plain)


def contestants(softcap: float) -> dict:
    """Name -> function of (x_BLD, head_DV, targets_BL) that gives the mean loss."""
    place = Placement(jax.devices()[0].device_kind)

    def objective(x, head, targets, name):
        weights = jnp.full(targets.shape, 1 / targets.size, jnp.float32)
        return api.weighted_objective(x, head, targets, weights, softcap=softcap, place=place, implementation=name)[0]

    def losses(x, head, targets, name):
        return api.linear_cross_entropy(x, head, targets, softcap=softcap, place=place, implementation=name)[0].mean()

    found = {"materialised": functools.partial(_materialised, softcap), "ours: objective": functools.partial(objective, name=None)}
    for name in api.IMPLEMENTATIONS:
        if name != "reference":
            found |= {f"ours: {kind.__name__}, {name}": functools.partial(kind, name=name) for kind in (objective, losses)}
    if not softcap and importlib.util.find_spec("tokamax"):
        found["tokamax"] = _tokamax
    return found


def _materialised(softcap: float, x_BLD, head_DV, targets_BL):
    """All logits at once, in bfloat16 as the product gives them, reduced in float32: what one writes first."""
    logits_BLV = (x_BLD @ head_DV.astype(x_BLD.dtype)).astype(jnp.float32)
    if softcap:
        logits_BLV = softcap * jnp.tanh(logits_BLV / softcap)
    target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits_BLV, axis=-1) - target_BL).mean()


def _tokamax(x_BLD, head_DV, targets_BL):
    import tokamax  # here, so that one made for another JAX costs its own row alone

    x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
    return tokamax.linear_softmax_cross_entropy_loss(x_TD, targets_BL.ravel(), head_DV.astype(x_TD.dtype), reduction="mean")


def _measure(function, shape: tuple) -> dict:
    """Time of value and gradients for x and a float32 head, as in training."""
    B, L, D, V = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (B, L, D), jnp.bfloat16)
    head = jax.random.normal(keys[1], (D, V), jnp.float32) * D**-0.5
    targets = jax.random.randint(keys[2], (B, L), 0, V)
    compiled = jax.jit(jax.value_and_grad(function, (0, 1))).lower(x, head, targets).compile()
    seconds = timing.seconds(compiled, x, head, targets, longest=2.0)
    return {
        "ms": seconds * 1e3,
        "tflops": 6 * B * L * D * V / seconds / 1e12,  # three products; recomputed logits are not counted
        "temporaries_gib": timing.compiled_bytes(compiled)["temporaries_gib"],
        "loss": float(compiled(x, head, targets)[0]),
    }
