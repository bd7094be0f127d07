"""Reading mapped files against the plain array, across file borders and in any order."""

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.mapped import MappedTokens, open_mapped

TOKENS, SHARD, CHUNK = 1000, 128, 16


def write(folder, values, codecs=()):
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {"chunk_shape": [CHUNK], "codecs": [little, *codecs], "index_codecs": [little, {"name": "crc32c"}]}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder)},
        "metadata": {
            "shape": list(values.shape),
            "data_type": values.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD]}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }
    array = ts.open(spec, create=True).result()
    for start in range(0, len(values), SHARD):
        array[start : min(start + SHARD, len(values))].write(values[start : start + SHARD]).result()


@pytest.fixture(scope="module", params=["uint16", "uint32", "larger than memory"])
def mapped(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    large = request.param == "larger than memory"
    values = np.random.default_rng(0).integers(1, 60_000, TOKENS).astype("uint16" if large else request.param)
    write(folder / "tokens", values)
    if large:
        return values, MappedTokens(str(folder / "tokens"), TOKENS, SHARD, values.dtype, announce=True)
    return values, open_mapped(str(folder / "tokens"), TOKENS, values.dtype)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, TOKENS), st.lists(st.floats(0, 1), max_size=40), st.booleans())
def test_rows_are_the_tokens_asked_for(mapped, width, places, ascending):
    values, array = mapped
    starts = np.array([int(place * (TOKENS - width)) for place in places], np.int64)
    starts = np.sort(starts) if ascending else starts
    rows = array.rows(starts, width)
    assert rows.dtype == np.int32 and rows.shape == (len(starts), width)
    for row, start in zip(rows, starts, strict=True):
        assert np.array_equal(row, values[start : start + width])


def test_a_compressed_array_is_not_mapped(tmp_path):
    values = np.arange(1, 200, dtype=np.uint16)
    write(tmp_path / "tokens", values, codecs=[{"name": "zstd", "configuration": {"level": 1}}])
    assert open_mapped(str(tmp_path / "tokens"), len(values), values.dtype) is None


def test_an_array_whose_chunks_are_not_in_order_is_not_mapped(tmp_path):
    values = np.arange(1, 200, dtype=np.uint16)
    values[32:48] = 0  # a chunk that equals the fill value is left out of the file, and the others move up
    write(tmp_path / "tokens", values)
    assert open_mapped(str(tmp_path / "tokens"), len(values), values.dtype) is None
