"""Targets by name, and the processes that compile for them."""

import os

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.sharding import topology

NAMES = ["v4:2x2x1", "v5e:1x1", "v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v5p:8x8x4", "v6e:8x8", "tpu7x:2x2x1", "hopper:8", "h200:1", "h100:64"]


@pytest.mark.parametrize(
    "name, chip, count, platform",
    [
        ("v5e:4x4", "v5e", 16, "tpu"),
        ("v5p:8x8x4", "v5p", 256, "tpu"),
        ("v5e:1x1", "v5e", 1, "tpu"),
        ("hopper:8", "h100", 8, "gpu"),
        ("h200:64", "h200", 64, "gpu"),
    ],
)
def test_a_name_says_chip_and_number(name, chip, count, platform):
    target = topology.target(name)
    assert (target.chip.name, target.chips, target.platform) == (chip, count, platform)


@pytest.mark.parametrize(
    "name, message",
    [
        ("v7:4x4", "--target=v7:4x4: found 'v7' before the colon, must be one of v4, v5e"),
        ("a100:8", "found 'a100' before the colon"),  # a data sheet, but no description to compile for
        ("v5e", "found '', must be the 2 sides of a slice, such as v5e:4x4"),
        ("v5e:4", "must be the 2 sides"),
        ("v5e:4x4x4", "must be the 2 sides"),
        ("v5p:4x4", "must be the 3 sides of a slice, such as v5p:4x4x4"),
        ("v5e:3x4", "the first two sides must be even"),
        ("v5e:0x4", "must be the 2 sides"),
        ("hopper:12", "found '12', must be a number of GPUs, at most 8 or a multiple of it"),
        ("hopper:0", "must be a number of GPUs"),
        ("hopper:eight", "must be a number of GPUs"),
    ],
)
def test_a_name_that_is_no_target_is_one_line(name, message):
    with pytest.raises(UserError, match="--target") as error:
        topology.target(name)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_an_absent_compiler_is_one_line_that_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "FOLDER", tmp_path)
    monkeypatch.setattr(topology, "INSTALLED", ())
    for name, package in (("v5e:4x4", "libtpu=="), ("hopper:8", "jax-cuda13-plugin==")):
        with pytest.raises(UserError, match="run: make targets") as error:
            topology.environment(topology.target(name))
        assert package in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_compiler_is_found_in_the_folder_that_make_targets_fills(tmp_path, monkeypatch):
    monkeypatch.setattr(topology, "FOLDER", tmp_path)
    for file in ("tpu/libtpu/libtpu.so", "cuda/jax_plugins/xla_cuda13/xla_cuda_plugin.so"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    before = dict(os.environ)
    tpu, gpu = (topology.environment(topology.target(name)) for name in ("v5e:4x4", "hopper:8"))
    assert tpu["TPU_LIBRARY_PATH"] == str(tmp_path / "tpu/libtpu/libtpu.so") and tpu["TPU_ACCELERATOR_TYPE"] == "v5litepod-16"
    assert gpu["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "cuda")
    assert tpu["JAX_PLATFORMS"] == gpu["JAX_PLATFORMS"] == "cpu" and tpu["XLA_FLAGS"] == gpu["XLA_FLAGS"] == ""
    assert dict(os.environ) == before


def test_an_abstract_mesh_is_of_the_target_s_devices():
    device = topology.abstract_mesh(topology.target("hopper:8")).abstract_device
    assert (device.device_kind, device.num_cores, device.platform) == ("NVIDIA H100 80GB HBM3", 132, "gpu")
    assert topology.abstract_mesh(topology.target("v5e:4x4"), (4, 2), ("a", "b")).shape == {"a": 4, "b": 2}


def describe(target, wish):
    """Runs in the target's process."""
    devices = topology.devices(target)
    cores = getattr(devices[0], "num_cores", None) or getattr(devices[0], "core_count", None)
    return [wish, len(devices), devices[0].device_kind, cores]


def fail(target):
    raise ValueError("a reason")


@pytest.mark.kernels
@pytest.mark.parametrize("name", NAMES)
def test_a_process_of_a_target_sees_its_devices(name):
    target = topology.target(name)
    if why := topology.missing(target):
        pytest.skip(why)
    wish, count, kind, cores = topology.call(target, f"{__file__}:describe", {"wish": "one"})
    assert (wish, count, kind, cores) == ("one", target.chips * target.chip.devices, target.device_kind, target.cores)


@pytest.mark.kernels
def test_a_failure_in_a_target_s_process_says_why():
    target = topology.target("v5e:1x1")
    if why := topology.missing(target):
        pytest.skip(why)
    with pytest.raises(RuntimeError, match="a reason"):
        topology.call(target, f"{__file__}:fail")
