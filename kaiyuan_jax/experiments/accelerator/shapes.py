"""The models that are measured, and what a token of each costs. Standard library only: the PyTorch sections read it too.

Operations of a token, from models/flops.py; S tokens a row:

    6 weights + 6 N S H C     causal attention, half of the square     the 2.03B model at S = 4096: 11.7 GFLOP
    6 weights + 12 N S H C    the whole square, as PaLM counts         13.1 GFLOP

Either over the device's peak is an MFU; neither counts what is recomputed. With recomputation of whole layers the hardware runs another
third of the layers' share (`recomputed`).
"""

import dataclasses

from kaiyuan_jax import config
from kaiyuan_jax.models import flops
from kaiyuan_jax.sharding import chips

# as configs/kaiyuan_2b.py and configs/proxies/kaiyuan.py (500m, 100m, counted without embeddings) have them
SIZES = {
    "2b": dict(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936),
    "0.5b": dict(layers=21, width=1408, feedforward=4224, heads=22, kv_heads=11, head_size=64, vocabulary=151_936),
    "0.1b": dict(layers=14, width=768, feedforward=2304, heads=12, kv_heads=6, head_size=64, vocabulary=151_936),
    "tiny": dict(layers=2, width=128, feedforward=256, heads=4, kv_heads=2, head_size=32, vocabulary=512),
}


def model(size: str, *, plain: bool = False, **changes) -> config.Model:
    """One of SIZES. plain: Qwen3 as it is, without sandwich norm and soft-cap, which is what PyTorch is measured on."""
    shape = config.Model(**SIZES[size])
    if plain:
        shape = dataclasses.replace(shape, sandwich_norm=False, logit_softcap=0.0)
    return dataclasses.replace(shape, **changes)


def recomputed(shape: config.Model, length: int) -> float:
    """Operations of a token that a second forward pass through every layer adds (causal halved)."""
    head = 6 * shape.width * shape.vocabulary
    return (flops.per_token(shape, length) - head) / 3


def utilisation(shape: config.Model, length: int, tokens_per_second: float, device_kind: str, *, full_remat: bool = False) -> dict:
    """mfu (causal halved), mfu_square (the whole square) and hfu (causal halved, recomputed layers counted); None without a known peak."""
    peak, cost = chips.peak_flops(device_kind), flops.per_token(shape, length)
    costs = {
        "mfu": cost,
        "mfu_square": 2 * cost - flops.per_token(shape, 0),  # attention once more
        "hfu": cost + (recomputed(shape, length) if full_remat else 0),
    }
    return {name: cost * tokens_per_second / peak if peak else None for name, cost in costs.items()}
