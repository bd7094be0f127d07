"""Residual + sandwich norm and QK-norm + RoPE: what XLA makes of them, against reading the inputs and writing the outputs once.

    h = x + norm(out);  n = norm(h)          forward reads x, out and writes h, n; backward reads x, out, dh, dn and writes dx, dout
    rotate(norm(q)), rotate(norm(k))         forward reads and writes q, k; backward reads q, k, dq', dk' and writes dq, dk

Gains and angles are small and not counted. Nothing here is bound by arithmetic, so bytes over the measured copy speed is the floor.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kaiyuan_jax.experiments.accelerator import timing, traffic
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.kernels.head_norm import api
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models.layers import rms_norm, rope_angles
from kaiyuan_jax.sharding import topology

EPSILON = 1e-6
SHAPE = (8, 4096, 2048, 16, 8, 128)  # B, L, D, H, K, C of the 2.03B model
TINY = (2, 64, 128, 4, 2, 32)


@dataclasses.dataclass(frozen=True)
class Piece:
    name: str
    function: Callable  # of the arrays below; only these are differentiated
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    angles: tuple[jax.ShapeDtypeStruct, ...]
    forward_bytes: int  # of one pass
    backward_bytes: int


def residual(x_BLD, out_BLD, post_D, norm_D):
    """The residual stream after a sub-layer, and what the next sub-layer reads."""
    h_BLD = x_BLD + rms_norm(out_BLD, post_D, EPSILON)
    return h_BLD, rms_norm(h_BLD, norm_D, EPSILON)


def heads(q_BLHC, k_BLKC, query_C, key_C, *angles, device_kind: str, implementation: str | None):
    """Queries and keys as attention takes them."""
    options = dict(place=Placement(device_kind), implementation=implementation)
    return tuple(api.head_norm(x, gain, angles, EPSILON, **options) for x, gain in ((q_BLHC, query_C), (k_BLKC, key_C)))


def pieces(B: int, L: int, D: int, H: int, K: int, C: int, device_kind: str) -> tuple[Piece, ...]:
    """Each by XLA, and by a kernel of ours where there is one for the device."""
    stream = jax.ShapeDtypeStruct((B, L, D), jnp.bfloat16)
    q, k = (jax.ShapeDtypeStruct((B, L, n, C), jnp.bfloat16) for n in (H, K))
    gain_D, gain_C = (jax.ShapeDtypeStruct((n,), jnp.float32) for n in (D, C))
    angle = jax.ShapeDtypeStruct((B, L, 1, C // 2), jnp.float32)
    unit, both = 2 * B * L * D, 2 * B * L * (H + K) * C
    found = [Piece("residual + sandwich norm: XLA", residual, (stream, stream, gain_D, gain_D), (), 4 * unit, 6 * unit)]
    for name in ("xla", "pallas_tpu") if device_kind.startswith("TPU") else ("xla",):
        function = functools.partial(heads, device_kind=device_kind, implementation=name)
        found.append(Piece(f"QK-norm + RoPE: {name}", function, (q, k, gain_C, gain_C), (angle, angle), 2 * both, 3 * both))
    return tuple(found)


def backward(piece: Piece) -> Callable:
    """The gradients of `piece.arrays` from (arrays, angles, cotangents): everything of the forward pass that they need is computed anew."""
    return lambda arrays, angles, cotangents: jax.vjp(lambda *given: piece.function(*given, *angles), *arrays)[1](cotangents)


def measure(job: Job) -> None:
    shape = TINY if job.tiny else SHAPE
    elements = shape[0] * shape[1] * shape[2] * 4
    x = jax.random.normal(jax.random.key(0), (elements,), jnp.bfloat16)
    speed = 2 * x.nbytes / timing.seconds(jax.jit(lambda x: x + 1), x)
    job.record(what="read and write", gb_per_second=speed / 1e9)
    for piece in pieces(*shape, jax.devices()[0].device_kind):
        job.attempt(lambda p=piece: _measure(p, speed, shape), needs=0, what=piece.name)


def _measure(piece: Piece, speed: float, shape: tuple) -> dict:
    keys = iter(jax.random.split(jax.random.key(0), 8))
    arrays = tuple(jax.random.normal(next(keys), part.shape, part.dtype) for part in piece.arrays)
    angles = rope_angles(jnp.tile(jnp.arange(shape[1]), (shape[0], 1)), shape[-1], 1e4) if piece.angles else ()
    forward = jax.jit(piece.function)
    cotangents = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, x.dtype), forward(*arrays, *angles))
    one = timing.seconds(forward, *arrays, *angles, longest=1.0)
    two = timing.seconds(jax.jit(backward(piece)), arrays, angles, cotangents, longest=1.0)
    return {
        "forward_ms": one * 1e3,
        "forward_over_floor": one / (piece.forward_bytes / speed),
        "backward_ms": two * 1e3,
        "backward_over_floor": two / (piece.backward_bytes / speed),
    }


def compiled(target: topology.Target) -> list[dict]:
    """Gigabytes that every piece moves when it is compiled for `target`, over its floor; in a process with the target's environment."""
    device = topology.devices(target)[0]
    here = jax.sharding.SingleDeviceSharding(device)
    rows = []
    for piece in pieces(*SHAPE, target.device_kind):
        arrays, angles = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), (piece.arrays, piece.angles))
        outputs = jax.eval_shape(piece.function, *piece.arrays, *piece.angles)
        cotangents = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), outputs)
        with jax.default_device(device):
            forward = jax.jit(piece.function).lower(*arrays, *angles).compile()
            both = jax.jit(backward(piece)).lower(arrays, angles, cotangents).compile()
        moved = [traffic.total(program.as_text()) for program in (forward, both)]
        rows.append(
            {
                "target": target.name,
                "piece": piece.name,
                "forward_gb": moved[0] / 1e9,
                "over_floor": moved[0] / piece.forward_bytes,
                "backward_gb": moved[1] / 1e9,
                "backward_over_floor": moved[1] / piece.backward_bytes,
            }
        )
    return rows
