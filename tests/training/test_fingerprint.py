"""A fingerprint is of the bits and their places, and of nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from kaiyuan_jax.training import fingerprint

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "bool")


def one(array) -> str:
    return fingerprint.of({"a": array})["a"]


def random(dtype: str, shape=(4, 6, 8), seed: int = 0):
    values = np.random.default_rng(seed).normal(size=shape) * 9
    return jnp.asarray(values > 0 if dtype == "bool" else values).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_says_dtype_shape_and_sixteen_digits_and_is_the_same_for_host_arrays(dtype):
    array = random(dtype)
    kind, digits = one(array).rsplit(" ", 1)
    assert kind == f"{dtype}[4, 6, 8]" and len(digits) == 16
    assert one(np.asarray(array)) == one(array)
    assert one(random(dtype, seed=1)) != one(array)


@pytest.mark.parametrize("axes", [(None,), ("a",), (None, "b"), ("a", None, "b"), (("a", "b"),), (None, None, ("b", "a"))])
def test_every_mesh_gives_the_same(axes):
    mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
    array = random("float32")
    assert one(jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))) == one(array)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4 * 6 * 8 - 1), st.integers(0, 31), st.integers(0, 1))
def test_one_bit_anywhere_shows(place, bit, seed):
    array = np.asarray(random("float32", seed=seed))
    changed = array.copy()
    changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1) << np.uint32(bit)
    before, after = one(array)[-16:], one(changed)[-16:]
    assert before[:8] != after[:8] and before[8:] != after[8:]  # in both lanes, as the bijection promises


def test_places_count():
    array = np.asarray(random("float32"))
    others = (array[::-1], array[:, ::-1], array[..., ::-1], array.transpose(0, 2, 1), np.zeros_like(array))
    found = {one(array), *map(one, others)}
    assert len(found) == 6
    assert one(array.reshape(-1))[-16:] == one(array)[-16:]  # the place is the row-major one


def test_values_that_compare_equal_or_unequal_to_themselves_are_bits_like_others():
    assert one(np.float32([0.0])) != one(np.float32([-0.0]))
    assert one(np.float32([np.nan])) == one(np.float32([np.nan]))


def test_fingerprints_are_stable():
    """What is on disk was written by another version of this file: these never change."""
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = fingerprint.of({"x": {"y": array}, "z": (np.int32(7),)})
    assert found == {"x/y": "float32[2, 3, 4] f7c810819c489fa3", "z/0": "int32[] 18c9aec4b3b67b3d"}
