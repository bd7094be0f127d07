"""Meshes over eight virtual devices."""

import jax
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.sharding.mesh import AXES, make_mesh


@pytest.mark.parametrize(
    ("axes", "shape"),
    [((-1, 1, 1, 1), (8, 1, 1, 1)), ((2, -1, 1, 2), (2, 2, 1, 2)), ((1, 2, -1, 2), (1, 2, 2, 2)), ((1, -1, 1, 8), (1, 1, 1, 8))],
)
def test_minus_one_takes_the_devices_that_are_left(axes, shape):
    mesh = make_mesh(config.Mesh(**dict(zip(AXES, axes, strict=True))))
    assert mesh.axis_names == AXES and mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_mesh_may_use_a_part_of_the_devices():
    assert list(make_mesh(config.Mesh(), jax.devices()[3:4]).devices.flat) == jax.devices()[3:4]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((2, 2, 1, 1), "found data=2, fsdp=2, context=1, tensor=1 for 8 devices; the product must be 8"),
        ((3, -1, 1, 1), "found data=3, fsdp=-1, context=1, tensor=1 for 8 devices; the product must be 8"),
        ((-1, -1, 1, 1), "one of them may be -1"),
        ((0, -1, 1, 1), "every axis must be at least 1"),
    ],
)
def test_axes_that_do_not_fit_the_devices_are_refused(axes, message):
    with pytest.raises(config.ConfigError, match=message):
        make_mesh(config.Mesh(**dict(zip(AXES, axes, strict=True))))
