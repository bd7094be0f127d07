"""What the device reaches on the two things every step is made of: matrix products, and reading and writing memory."""

import jax
import jax.numpy as jnp

from kaiyuan_jax.experiments.accelerator import timing
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.sharding import chips

# rows, inner, columns: a large square, and three products of the 2.03B model for 32,768 tokens
PRODUCTS = {
    "square": (8192, 8192, 8192),
    "gate or up": (32_768, 2048, 6144),
    "down": (32_768, 6144, 2048),
    "head, 8,192 tokens": (8192, 2048, 151_936),
}


def measure(job: Job) -> None:
    device = jax.devices()[0]
    top = chips.peak_flops(device.device_kind)
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    job.record(
        what="device",
        kind=device.device_kind,
        jax=jax.__version__,
        memory_gib=limit / 2**30,
        peak_tflops=top and top / 1e12,
    )
    for name, (rows, inner, columns) in {"tiny": (64, 64, 64)}.items() if job.tiny else PRODUCTS.items():
        for dtype in ("bfloat16",) if job.tiny else ("bfloat16", "float16"):
            job.attempt(lambda shape=(rows, inner, columns), dtype=dtype: _product(*shape, dtype, top), what=f"matmul {name}", dtype=dtype)
    job.attempt(lambda: _copy(2**14 if job.tiny else 2**30), what="read and write")


def _product(rows: int, inner: int, columns: int, dtype: str, top: float | None) -> dict:
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, ((rows, inner), (inner, columns)), strict=True))
    seconds = timing.seconds(jax.jit(jnp.matmul), a, b)
    rate = 2 * rows * inner * columns / seconds
    return {"ms": seconds * 1e3, "tflops": rate / 1e12, "of_peak": top and rate / top}


def _copy(count: int) -> dict:
    """One pass over `count` bfloat16 numbers: the bound of everything elementwise."""
    x = jax.random.normal(jax.random.key(0), (count,), jnp.bfloat16)
    seconds = timing.seconds(jax.jit(lambda x: x + 1), x)
    return {"dtype": "bfloat16", "ms": seconds * 1e3, "gb_per_second": 2 * x.nbytes / seconds / 1e9}
