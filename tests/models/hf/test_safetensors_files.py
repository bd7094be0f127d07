"""Files of tensors: the same as the format's own library reads and writes, and nothing in them is believed."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax.models.hf import safetensors_files
from kaiyuan_jax.models.hf.safetensors_files import CheckpointError, Writer, checkpoint, tensors

SHAPES = {"a": (3, 4), "b": (), "c": (0, 5), "d": (7,), "e": (2, 2, 2)}


def arrays(dtype, seed=0):
    random = np.random.default_rng(seed)
    return {name: np.asarray(random.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}


def written(folder, made, shard_bytes):
    writer = Writer(folder, {name: array.shape for name, array in made.items()}, made["a"].dtype, shard_bytes)
    for name in reversed(made):  # in any order
        writer.put(name, made[name])
    return writer.files


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_library_reads_what_is_written(tmp_path, dtype):
    made = arrays(dtype)
    (file,) = written(tmp_path, made, 10**6)
    found = safetensors.numpy.load_file(tmp_path / file)
    assert found.keys() == made.keys()
    for name, array in made.items():
        np.testing.assert_array_equal(found[name], array)


def test_what_the_library_writes_is_read(tmp_path):
    made = arrays(np.float32)
    safetensors.numpy.save_file(made, tmp_path / "x.safetensors", {"format": "pt"})
    found, metadata = tensors(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt"}
    for name, array in made.items():
        np.testing.assert_array_equal(found[name].read(), array)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("shard_bytes", [1, 40, 10**6])
def test_shards_hold_the_same_bits_as_one_file(tmp_path, dtype, shard_bytes):
    made = arrays(dtype)
    files = written(tmp_path, made, shard_bytes)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == sorted(files)
    found = checkpoint(tmp_path)
    assert found.keys() == made.keys()
    for name, array in made.items():
        assert found[name].read().tobytes() == array.tobytes() and found[name].shape == array.shape
    for file in files:
        inside = sum(array.nbytes for name, array in made.items() if found[name].file.name == file)
        assert inside <= shard_bytes or sum(found[name].file.name == file for name in made) == 1


def test_a_tensor_of_another_shape_or_dtype_is_not_put(tmp_path):
    writer = Writer(tmp_path, {"a": (2, 3)}, np.dtype(np.float32), 10**6)
    for wrong in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float16)):
        with pytest.raises(ValueError, match="a: found"):
            writer.put("a", wrong)


def file_with(path, header, data=b"\0" * 24, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(**changes):
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"x": entry(data_offsets=[0, 20])}, "tensor x"),  # fewer bytes than the shape needs
        ({"x": entry(data_offsets=[0, 28])}, "tensor x"),
        ({"x": entry(shape=[2, 4])}, "tensor x"),
        ({"x": entry(shape=[-2, -3])}, "tensor x"),
        ({"x": entry(shape=[2, 3.0])}, "tensor x"),
        ({"x": entry(shape=[True, 6])}, "tensor x"),
        ({"x": entry(data_offsets=[-24, 0])}, "tensor x"),
        ({"x": entry(data_offsets=[4, 28])}, "must be 24 bytes from 0 on"),  # a gap
        ({"x": entry(), "y": entry()}, "tensor y"),  # one over the other
        ({"x": entry(shape=[2, 2], data_offsets=[0, 16])}, "end at byte"),  # bytes that belong to nothing
        ({"x": entry(dtype="F8_E4M3")}, "F8_E4M3"),
        ({"x": entry(dtype=None)}, "None"),
        ({"x": {"dtype": "F32", "shape": [2, 3]}}, "cannot be read"),
        ({"x": 5}, "cannot be read"),
        ([1, 2], "cannot be read"),
        (b'{"x": ', "cannot be read"),
        (b'{"x": 1, "x": 2}', "given twice"),
        (b"\xff\xfe{}", "cannot be read"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, said):
    with pytest.raises(CheckpointError, match="x.safetensors") as error:
        tensors(file_with(tmp_path / "x.safetensors", header))
    assert said in str(error.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63])
def test_a_header_longer_than_its_file_is_refused(tmp_path, length):
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        tensors(file_with(tmp_path / "x.safetensors", {"x": entry()}, length=length))


@given(st.data())
def test_a_file_cut_or_changed_anywhere_never_reads_beyond_its_end(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    raw = bytearray(file_with(folder / "x.safetensors", {"x": entry()}).read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:position]
    else:
        raw[position] = data.draw(st.integers(0, 255))
    (folder / "x.safetensors").write_bytes(raw)
    try:
        found, _ = tensors(folder / "x.safetensors")
    except CheckpointError:
        return
    for tensor in found.values():
        assert tensor.begin + tensor.read().nbytes <= len(raw)


def index(folder, weight_map):
    (folder / safetensors_files.INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "..", "x.bin", "a\\x.safetensors", 5])
def test_an_index_that_names_a_file_outside_its_folder_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    file_with(tmp_path / "x.safetensors", {"x": entry()})
    index(tmp_path / "in", {"x": name})
    with pytest.raises(CheckpointError, match="plain name|weight_map"):
        checkpoint(tmp_path / "in")


def test_missing_shards_are_named(tmp_path):
    file_with(tmp_path / "model-1.safetensors", {"x": entry()})
    index(tmp_path, {"x": "model-1.safetensors", "y": "model-2.safetensors", "z": "model-3.safetensors"})
    with pytest.raises(CheckpointError, match="2 of 3 shards missing: model-2.safetensors, model-3.safetensors"):
        checkpoint(tmp_path)


@pytest.mark.parametrize("weight_map", [{"x": "model-1.safetensors", "y": "model-1.safetensors"}, {}])
def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path, weight_map):
    file_with(tmp_path / "model-1.safetensors", {"x": entry(shape=[3], data_offsets=[0, 12]), "q": entry(shape=[3], data_offsets=[12, 24])})
    index(tmp_path, weight_map | {"x": "model-1.safetensors"})
    with pytest.raises(CheckpointError, match=r"q \(model-1.safetensors\)"):
        checkpoint(tmp_path)


def test_a_pickled_checkpoint_is_refused_by_name_and_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CheckpointError, match="pytorch_model.bin, a pickled checkpoint.*save_pretrained"):
        checkpoint(tmp_path)


def test_an_empty_folder_and_files_without_their_index_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="found no model.safetensors"):
        checkpoint(tmp_path)
    for name in ("a", "b"):
        file_with(tmp_path / f"{name}.safetensors", {"x": entry()})
    with pytest.raises(CheckpointError, match="2 safetensors files without"):
        checkpoint(tmp_path)
