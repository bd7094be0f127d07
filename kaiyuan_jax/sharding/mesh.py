"""The mesh of devices. Axes: data (copies), fsdp (parameters and batch cut), tensor (heads, feed-forward, vocabulary cut), context
(positions of a row cut)."""

import math

import jax
from jax.sharding import AxisType, Mesh

from kaiyuan_jax import config

AXES = ("data", "fsdp", "context", "tensor")


def make_mesh(mesh: config.Mesh, devices=None) -> Mesh:
    """A mesh of `devices` (default: all) with the axes of `AXES`, of type Auto: the compiler partitions, guided by constraints.

    One axis may be -1 and takes all that is left. Raises ConfigError when the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [getattr(mesh, axis) for axis in AXES]
    found = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise config.ConfigError(f"mesh: found {found}; every axis must be at least 1, and one of them may be -1 (all that are left)")
    fixed = math.prod(size for size in sizes if size != -1)
    if len(devices) % fixed or (-1 not in sizes and fixed != len(devices)):
        raise config.ConfigError(
            f"mesh: found {found} for {len(devices)} devices; the product must be {len(devices)}: change an axis or set one to -1"
        )
    sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
