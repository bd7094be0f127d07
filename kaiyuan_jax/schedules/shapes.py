"""Decay shapes: how a learning rate goes from `begin` to `end` while r goes from 0 to 1.

Five shapes are factors f(r) with f(0) = 1 and f(1) = 0, and the rate is `end + (begin - end) f(r)`:

    linear       1 - r
    cosine       (1 + cos(pi r)) / 2
    sqrt         1 - sqrt(r)            the WSD baseline of 2511.18903, which writes it begin (1 - sqrt r) + end sqrt r
    sqrt_cube    (1 - r)^1.5            the end of the schedule that the multi-power law finds optimal (2503.12811)
    square       (1 - r)^2

Two are defined on the rates themselves and need both of them above 0:

    exponential  begin (end / begin)^r              MiniCPM, 2404.06395
    inverse      1 / ((1 - r) / begin + r / end)    1/rate is linear in r: WSD-S, 2410.05192

Everything here works on Python numbers, numpy arrays and (traced) jax arrays alike: the array brings its own namespace.
"""

import math

import numpy as np


def namespace(x):
    """The module of array functions that `x` belongs to: jax.numpy for a jax array or tracer, else numpy."""
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def linear(r):
    return 1 - r


def cosine(r):
    return 0.5 * (1 + namespace(r).cos(math.pi * r))


def sqrt(r):
    return 1 - namespace(r).sqrt(r)


def sqrt_cube(r):
    return (1 - r) ** 1.5


def square(r):
    return (1 - r) ** 2


def exponential(r, begin: float, end: float):
    return begin * (end / begin) ** r


def inverse(r, begin: float, end: float):
    return 1 / ((1 - r) / begin + r / end)


FACTORS = {"linear": linear, "cosine": cosine, "sqrt": sqrt, "sqrt_cube": sqrt_cube, "square": square}
RATES = {"exponential": exponential, "inverse": inverse}
NAMES = (*FACTORS, *RATES)


def rate(shape: str, r, begin: float, end: float):
    """The rate at `r` on the way from `begin` to `end`: exactly `begin` up to r = 0, exactly `end` from r = 1, never outside.

    `shape` is one of `NAMES`; up (begin < end) is as good as down. exponential and inverse need begin > 0 and end > 0.
    """
    xp = namespace(r)
    r = xp.clip(r, 0.0, 1.0)
    if shape in RATES:
        value = RATES[shape](r, begin, end)
    else:
        value = end + (begin - end) * FACTORS[shape](r)
    value = xp.clip(value, min(begin, end), max(begin, end))  # rounding may step outside by one unit in the last place
    return xp.where(r <= 0, begin, xp.where(r >= 1, end, value))
