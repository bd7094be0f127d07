"""What Gemma's files can hold of gains and embeddings, and that what they cannot comes back all the same."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kaiyuan_jax.models.hf import folding

FLOATS = [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]
ONE = np.float32(1)


def stored(array, fold, dtype):
    loss = folding.Loss()
    made, fixes = folding.store(array, fold, np.dtype(dtype), loss)
    return made, fixes, loss


def floats(low, high):
    return arrays.arrays(np.float32, 20, elements=st.floats(low, high, width=32))


@given(floats(0.5, 1000))
def test_gains_of_at_least_a_half_are_exact_in_float32(gains):
    made, fixes, loss = stored(gains, folding.plus_one(), np.float32)
    np.testing.assert_array_equal(ONE + made, gains)
    assert fixes is None and loss.missed == 0


@given(floats(-8, 0.5))
def test_smaller_gains_miss_by_half_a_step_of_the_grid_next_to_one(gains):
    made, _, loss = stored(gains, folding.plus_one(), np.float32)
    error = np.abs((ONE + made).astype(np.float64) - gains)
    assert np.all(error <= np.where(gains >= 0, 2.0**-25, 2.0**-24 * np.maximum(1, np.abs(gains) * 2)))
    assert loss.largest == error.max()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("width", [64, 256, 1024, 4096])
def test_embeddings_are_exact_where_the_width_is_a_power_of_four(dtype, width):
    rows = (0.3 * np.random.default_rng(0).standard_normal(5000)).astype(dtype)
    rows = rows[np.abs(rows.astype(np.float32)) > 0.02]  # in float16 smaller ones fall below its normal numbers
    made, fixes, loss = stored(rows, folding.times_root(width, dtype), dtype)
    assert loss.missed == 0 and fixes is None
    np.testing.assert_array_equal(made.astype(np.float32) * np.float32(width) ** 0.5, rows.astype(np.float32))


@pytest.mark.parametrize(("dtype", "bound"), list(zip(FLOATS, [8.5e-8, 5.6e-3, 7e-4], strict=True)), ids=str)
def test_other_embeddings_miss_in_one_place_of_seven_by_one_unit(dtype, bound):
    rows = (np.random.default_rng(0).standard_normal(200_000)).astype(dtype)
    rows = rows[np.abs(rows.astype(np.float32)) > 0.01]
    made, fixes, loss = stored(rows, folding.times_root(2048, dtype), dtype)
    assert 0.13 < loss.missed / loss.values < 0.16
    assert loss.relative < bound
    assert fixes.dtype == np.int8 and set(np.unique(fixes)) <= {-1, 0, 1}
    best = np.abs(folding.times_root(2048, dtype).undo(made).astype(np.float64) - rows.astype(np.float64))
    for step in (-1, 1):  # no neighbour would do better
        other = folding.times_root(2048, dtype).undo(folding.neighbour(made, step))
        assert np.all(np.abs(other.astype(np.float64) - rows.astype(np.float64)) >= best)


def test_the_factor_is_rounded_as_the_embedding_is():
    assert folding.root(2048, np.dtype(np.float32)) == np.sqrt(np.float32(2048))
    assert folding.root(2048, np.dtype(ml_dtypes.bfloat16)) == folding.root(2048, np.dtype(np.float16)) == 45.25


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(st.data())
def test_corrections_give_back_any_bits_from_any_others(dtype, data):
    kind = folding.BITS[dtype.itemsize]
    limits = np.iinfo(kind)
    one, other = (data.draw(arrays.arrays(kind, 8, elements=st.integers(limits.min, limits.max))).view(dtype) for _ in range(2))
    if dtype.itemsize == 4:  # as far apart as 31 bits say
        other = (one.view(kind) ^ np.array([0, 1, 7, 1 << 10, 1 << 20, 0, 0, 3], kind)).view(dtype)
    try:
        fixes = folding.corrections(one, other)
    except ValueError:
        return
    found = other if fixes is None else folding.correct(other, fixes)
    assert found.tobytes() == one.tobytes()


def test_corrections_are_as_narrow_as_they_can_be():
    value = np.array([1.0, 1.0], np.float32)
    for far, kind in ((3, np.int8), (1000, np.int16), (100_000, np.int32)):
        assert folding.corrections((value.view(np.int32) + far).view(np.float32), value).dtype == kind
    assert folding.corrections(value, value.copy()) is None


@given(st.sampled_from(FLOATS), st.integers(0, 2**32 - 1))
def test_pieces_do_not_show(dtype, seed):
    rows = np.random.default_rng(seed).standard_normal((7, 11)).astype(dtype)
    whole = stored(rows, folding.times_root(48, dtype), dtype)
    piece, folding.PIECE = folding.PIECE, 10
    try:
        cut = stored(rows, folding.times_root(48, dtype), dtype)
    finally:
        folding.PIECE = piece
    assert whole[0].tobytes() == cut[0].tobytes() and whole[2] == cut[2]
    assert (whole[1] is None) == (cut[1] is None) and (whole[1] is None or whole[1].tobytes() == cut[1].tobytes())
