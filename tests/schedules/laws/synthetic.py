"""Small curves that a law itself generates: what is fitted is then known."""

import dataclasses

import numpy as np

from kaiyuan_jax.schedules.laws.curves import Curve

PEAK, END, WARMUP = 3e-4, 3e-5, 200


def rates(kind: str, steps: int) -> np.ndarray:
    """float64[steps]: a constant, cosine or two-stage schedule after a linear warm-up, in the shape of the released ones."""
    step = np.arange(steps, dtype=np.float64)
    found = np.full(steps, PEAK)
    if kind == "cosine":
        found = END + 0.5 * (PEAK - END) * (1 + np.cos(np.pi * (step - WARMUP) / (steps - WARMUP)))
    elif kind == "two_stage":
        found[steps // 2 :] = 0.3 * PEAK
    found[:WARMUP] = np.linspace(0, PEAK, WARMUP)
    return found


def blank(steps: int = 2400, stride: int = 20) -> list[Curve]:
    """A constant, a cosine and a two-stage curve, with losses of 1 throughout."""
    parts = []
    for kind, length in (("cosine", steps), ("constant", steps), ("two_stage", 2 * steps // 3)):
        at = np.arange(WARMUP, length, stride)
        parts.append(Curve(kind, at, np.ones(at.size), rates(kind, length), WARMUP - 1))
    return parts


def generated(law, values: dict, noise: float = 0.0, seed: int = 0, **shape) -> list[Curve]:
    """The same curves with the losses that `law` gives at `values`, times exp of normal noise."""
    curves = blank(**shape)
    losses = law.evaluate(law.prepare(curves), law.theta(values))
    losses = losses * np.exp(noise * np.random.default_rng(seed).standard_normal(losses.size))
    parts = np.split(losses, np.cumsum([curve.steps.size for curve in curves])[:-1])
    return [dataclasses.replace(curve, losses=part) for curve, part in zip(curves, parts, strict=True)]
