"""The streamed average of checkpoints against plain numpy, and how little it holds at a time."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.averaging import offline
from kaiyuan_jax.averaging.weights import weights
from kaiyuan_jax.config import Averaging


def reader(checkpoint):
    return checkpoint.__getitem__


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 8),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    kind=st.sampled_from(["sma", "ema", "ema_seeded", "ema_powers", "wma"]),
    seed=st.integers(0, 99),
)
def test_the_average_is_the_weighted_sum_rounded_once(count, dtype, kind, seed):
    rng = np.random.default_rng(seed)
    shapes = {("layers", "query_NDHC"): (2, 3, 2, 4), ("norm_D",): (5,), ("scalar",): ()}

    def checkpoint():
        return {path: np.asarray(rng.normal(size=shape)).astype(jnp.dtype(dtype)) for path, shape in shapes.items()}

    checkpoints = [checkpoint() for _ in range(count)]
    vector = weights(Averaging(kind=kind, last=count))
    result = offline.average(list(map(reader, checkpoints)), vector, shapes)
    assert list(result) == list(shapes)
    for path in shapes:
        exact = sum(w * one[path].astype(np.float64) for w, one in zip(vector, checkpoints, strict=True))
        assert result[path].dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(result[path], exact.astype(jnp.dtype(dtype)))


def test_a_leaf_longer_than_one_piece_is_averaged_whole(monkeypatch):
    monkeypatch.setattr(offline, "PIECE", 7)
    leaves = [np.arange(20, dtype=np.float32).reshape(4, 5), np.ones((4, 5), np.float32)]
    result = offline.average([lambda _, leaf=leaf: leaf for leaf in leaves], [0.5, 0.5], ["x"])
    np.testing.assert_array_equal(result["x"], (np.arange(20).reshape(4, 5) + 1) / 2)


def test_memory_does_not_grow_with_the_number_of_checkpoints():
    size, leaves = 1 << 20, 4  # 4 MiB a leaf as float32

    def peak(count):
        def read(path):
            return np.full(size, 1.0, np.float32)

        tracemalloc.start()
        offline.average([read] * count, np.full(count, 1 / count), range(leaves))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(2), peak(12)
    assert many < 1.05 * few
    assert many < 4 * size * (leaves + 2 + 3 * 2)  # the result, two leaves as stored, three of float64


@pytest.mark.parametrize(
    ("leaves", "vector", "message"),
    [
        ([np.ones(3)], [0.5, 0.5], "2 weights for 1 checkpoints"),
        ([], [], "0 weights for 0 checkpoints"),
        ([np.ones(3), np.ones(4)], [0.5, 0.5], "leaf 'x' is float64\\(4,\\) in checkpoint 1"),
        ([np.ones(3), np.ones(3, np.float32)], [0.5, 0.5], "leaf 'x' is float32\\(3,\\) in checkpoint 1"),
        ([np.ones(3, np.int32)], [1.0], "leaf 'x' is int32, only floating-point leaves"),
    ],
)
def test_leaves_that_have_no_average_are_refused(leaves, vector, message):
    with pytest.raises(ValueError, match=message):
        offline.average([lambda _, leaf=leaf: leaf for leaf in leaves], vector, ["x"])
