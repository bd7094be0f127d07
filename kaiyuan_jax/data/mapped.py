"""Rows of an uncompressed token array, copied straight out of its memory-mapped files.

A zarr3 shard whose inner chunks are stored raw and in order begins with its tokens as they are in memory, so a row is one copy from
the page cache: no request, no decoding, no cache of ours, and nearly the same speed for any order over a store of any size.

A store that is small beside the machine's memory is in the page cache after its first reading, and the system's own read-ahead fills
it. For a larger one that read-ahead is turned off, and the rows of each call are announced before the first is touched, so that cold
pages arrive together, not one by one, and nothing else is read. An announcement costs about 1.5 us a stretch.
"""

import functools
import json
import mmap
import os
import pathlib

import numpy as np

_MAPS = 4096  # files mapped at once by one store; Linux allows a process 65,530 maps
_SMALL = 1 / 8  # of the machine's memory


class MappedTokens:
    """A flat array of `tokens` tokens in shards of `shard` tokens; files are mapped when first touched."""

    def __init__(self, folder: str, tokens: int, shard: int, dtype: np.dtype, *, announce: bool):
        self._folder, self._tokens, self._shard, self._dtype = folder, tokens, shard, dtype
        self._announces = announce and hasattr(mmap, "MADV_WILLNEED")
        self._map = functools.lru_cache(maxsize=_MAPS)(self._open)

    def _open(self, number: int) -> mmap.mmap:
        with open(f"{self._folder}/c/{number}", "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._announces:
            mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    def rows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """int32 [R, width]: row i is tokens [starts[i], starts[i] + width); starts int64 [R] in any order, all inside the array."""
        out = np.empty((len(starts), width), np.int32)
        if not len(starts):
            return out
        arranged = slice(None) if (np.diff(starts) >= 0).all() else np.argsort(starts, kind="stable")
        starts = starts[arranged]
        rows = np.arange(len(starts))[arranged]
        if self._announces:
            self._announce(starts, width)
        shard = starts // self._shard
        groups = np.append(np.flatnonzero(np.diff(shard, prepend=-1)), len(starts))
        for begin, end in zip(groups[:-1].tolist(), groups[1:].tolist(), strict=True):
            at = starts[begin:end] - shard[begin] * self._shard
            whole = begin + int(np.searchsorted(at, self._shard - width, side="right"))
            if whole > begin:
                size = min(self._shard, self._tokens - int(shard[begin]) * self._shard)
                step = self._dtype.itemsize
                windows = np.ndarray((size - width + 1, width), self._dtype, self._map(int(shard[begin])), strides=(step, step))
                destination = slice(begin, whole) if isinstance(arranged, slice) else rows[begin:whole]
                out[destination] = windows[at[: whole - begin]]
            for row in range(whole, end):
                self._copy(int(starts[row]), out[rows[row]])
        return out

    def _copy(self, start: int, out: np.ndarray) -> None:
        # A row that continues in the next file, or in several.
        filled = 0
        while filled < len(out):
            number, at = divmod(start + filled, self._shard)
            part = np.frombuffer(self._map(number), self._dtype, min(self._shard - at, len(out) - filled), at * self._dtype.itemsize)
            out[filled : filled + len(part)] = part
            filled += len(part)

    def _announce(self, starts: np.ndarray, width: int) -> None:
        """Asks for the pages of all rows (ascending), neighbours as one stretch."""
        page, size = mmap.PAGESIZE, self._dtype.itemsize
        first = np.flatnonzero(np.append(True, (starts[1:] > starts[:-1] + width + page // size) | (np.diff(starts // self._shard) > 0)))
        last = np.append(first[1:], len(starts)) - 1
        number, at = np.divmod(starts[first], self._shard)
        begin = at * size // page * page
        stop = np.minimum(at + starts[last] - starts[first] + width, self._shard) * size
        for shard, low, length in zip(number.tolist(), begin.tolist(), (stop - begin).tolist(), strict=True):
            self._map(shard).madvise(mmap.MADV_WILLNEED, low, length)


def open_mapped(folder: str, tokens: int, dtype: np.dtype) -> MappedTokens | None:
    """The array of a store's `tokens` folder, or None where its files do not hold the tokens raw and in order."""
    metadata = json.loads((pathlib.Path(folder) / "zarr.json").read_text())
    little = [{"name": "bytes", "configuration": {"endian": "little"}}]
    sharding = metadata["codecs"][0].get("configuration", {})
    if len(metadata["codecs"]) != 1 or sharding.get("codecs") != little or sharding.get("index_location", "end") != "end":
        return None
    dtype = np.dtype(dtype).newbyteorder("<")
    (shard,), (chunk,) = metadata["chunk_grid"]["configuration"]["chunk_shape"], sharding["chunk_shape"]
    for number in range(-(-tokens // shard)):
        chunks = -(-min(shard, tokens - number * shard) // chunk)
        index = np.full((shard // chunk, 2), 2**64 - 1, "<u8")  # (offset, bytes) of each inner chunk; all ones where there is none
        index[:chunks, 0] = np.arange(chunks) * chunk * dtype.itemsize
        index[:chunks, 1] = chunk * dtype.itemsize
        with open(f"{folder}/c/{number}", "rb") as file:
            file.seek(-(index.nbytes + 4), os.SEEK_END)  # a checksum of 4 bytes follows the index
            if file.read(index.nbytes) != index.tobytes():
                return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MappedTokens(folder, tokens, shard, dtype, announce=tokens * dtype.itemsize > _SMALL * memory)
