"""Safetensors files, one or several of a checkpoint, read and written without holding more than one tensor.

A file is 8 bytes (length of the header, little-endian), the header (JSON: name -> dtype, shape, data_offsets; `__metadata__` of strings)
and the data, which the tensors fill without gaps or overlaps. A checkpoint cut into shards has an index, `<stem>.safetensors.index.json`,
with `weight_map`: name -> file. Nothing of these files is trusted: every offset is held against shape, dtype and the file's size.

Because sizes are known before the data, `Writer` lays all files out first and takes tensors in any order: leaves are stacked over
layers, shards are not. Pickled checkpoints are never opened: reading one runs code that its author chose.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np

from kaiyuan_jax import json_text
from kaiyuan_jax.config import UserError

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100_000_000  # bytes; what the format's own library allows
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class CheckpointError(UserError):
    """Files of a checkpoint that are missing, damaged or of a kind that is not read; the message names file and tensor."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one tensor lies."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # byte in the file

    def read(self) -> np.ndarray:
        """The tensor, mapped from disk and read-only; what is touched is what is read."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.file, self.dtype, mode="r", offset=self.begin, shape=self.shape or (1,)).reshape(self.shape)


def tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensor by name, metadata) of one file; raises `CheckpointError` where header, sizes and offsets do not agree."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise CheckpointError(f"{file}: not a safetensors file (a header of {length:,} bytes in a file of {size:,}); download it again")
        raw = stream.read(length)
    try:
        header = json_text.parse(raw, _once)
        metadata = header.pop("__metadata__", None) or {}
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: header of a safetensors file cannot be read ({error}); download it again") from None
    found, end, data = {}, 0, 8 + length
    for name, entry in entries:
        try:
            code, shape, (begin, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            counts = (*shape, begin, stop)
            if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
                raise ValueError(f"shape {shape}, offsets {begin}, {stop}")
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: entry of tensor {name} cannot be read ({error}); download it again") from None
        if code not in DTYPES:
            raise CheckpointError(f"{file}: tensor {name} has dtype {code}, must be one of {', '.join(DTYPES)}; export it unquantised")
        if begin != end or stop - begin != math.prod(shape) * DTYPES[code].itemsize:
            raise CheckpointError(
                f"{file}: tensor {name} {code}{list(shape)} is said to lie at bytes {begin:,} to {stop:,}, must be "
                f"{math.prod(shape) * DTYPES[code].itemsize:,} bytes from {end:,} on; the file is damaged, download it again"
            )
        found[name], end = Tensor(file, DTYPES[code], shape, data + begin), stop
    if data + end != size:
        raise CheckpointError(f"{file}: its tensors end at byte {data + end:,}, the file at {size:,}; it is cut short or damaged")
    return found, metadata


def checkpoint(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder by name, whether it is one file or shards with an index."""
    if (folder / INDEX).is_file():
        return _sharded(folder)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return tensors(files[0])[0]
    if files:
        raise CheckpointError(f"{folder}: {len(files)} safetensors files without {INDEX}; download the index that belongs to them")
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLED)
    if pickled:
        raise CheckpointError(
            f"{folder}: found {pickled[0]}, a pickled checkpoint, which can run any code when it is read; must be safetensors. "
            "Where you trust it, load it with transformers and save it again with save_pretrained"
        )
    raise CheckpointError(f"{folder}: found no {SINGLE} and no {INDEX}; name a folder that holds a checkpoint as Hugging Face keeps them")


def _sharded(folder: Path) -> dict[str, Tensor]:
    index = folder / INDEX
    try:
        places = json_text.parse(index.read_bytes(), _once)["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: no weight_map of names and files ({error}); download it again") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names the file {name!r}, must be a plain name that ends in .safetensors, inside {folder}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of {len(names)} shards missing: {', '.join(missing)}; download them")
    shards = {name: tensors(folder / name)[0] for name in names}
    inside = {(tensor, name) for name, shard in shards.items() for tensor in shard}
    wrong = sorted(f"{tensor} ({name})" for tensor, name in inside ^ set(places.items()))
    if wrong:
        raise CheckpointError(f"{index}: does not agree with the shards about {', '.join(wrong[:8])}; download the whole checkpoint again")
    return {tensor: shards[name][tensor] for tensor, name in places.items()}


def _once(pairs):
    """Objects of JSON in which no name is given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


class Writer:
    """The files of a checkpoint, laid out for `shapes` in their order; a file takes tensors up to `shard_bytes`, and at least one."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]], dtype: np.dtype, shard_bytes: int):
        self.dtype, self._places, shards, room = np.dtype(dtype), {}, [], 0
        for name, shape in shapes.items():
            size = math.prod(shape) * self.dtype.itemsize
            if not shards or size > room:
                shards.append([])
                room = shard_bytes
            shards[-1].append(name)
            room -= size
        count = len(shards)
        self.files = [SINGLE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        for file, names in zip(self.files, shards, strict=True):
            self._begin(folder / file, {name: shapes[name] for name in names})
        if count > 1:
            total = sum(math.prod(shape) for shape in shapes.values()) * self.dtype.itemsize
            index = {"metadata": {"total_size": total}, "weight_map": {name: self._places[name][0].name for name in shapes}}
            (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _begin(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        header, end = header_of({name: (self.dtype, shape) for name, shape in shapes.items()}, {"format": "pt"})
        begin = len(header)
        for name, shape in shapes.items():
            self._places[name] = (path, shape, begin)
            begin += math.prod(shape) * self.dtype.itemsize
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(len(header) + end)

    def put(self, name: str, array: np.ndarray) -> None:
        """Writes one tensor to its place. Raises ValueError for another shape or dtype than was laid out."""
        path, shape, begin = self._places[name]
        if array.shape != shape or array.dtype != self.dtype:
            raise ValueError(f"{name}: found {array.dtype}{array.shape}, laid out as {self.dtype}{shape}")
        with open(path, "r+b") as file:
            file.seek(begin)
            file.write(np.ascontiguousarray(array).view(np.uint8).data)


def header_of(entries: dict[str, tuple[np.dtype, Iterable[int]]], metadata: dict[str, str]) -> tuple[bytes, int]:
    """(length and header as they begin a file, bytes of data that follow) of tensors in this order."""
    header, end = {"__metadata__": metadata}, 0
    for name, (dtype, shape) in entries.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begins at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text, end


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """One file of whole arrays."""
    header, _ = header_of({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)
    with open(path, "wb") as file:
        file.write(header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
