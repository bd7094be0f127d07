"""Decoded blocks of token arrays, kept for the process in one least-recently-used cache.

A tensorstore read costs about 35 us of CPU whatever its size, which is 4M tokens/s for rows of 128 tokens. Rows are therefore cut
out of whole decoded blocks (one block = one compressed chunk of the array). Orders that walk a store forwards decode every block
once; a uniform order over a store that fits in the cache does too. Neighbouring blocks that are missing are read as one request, and
all requests of a call are in flight together.
"""

import collections
import itertools
import threading

import numpy as np

BLOCK = 16_384  # tokens; also the chunk of the array on disk
CACHE_BYTES = 256 << 20  # decoded bytes kept in a process, over all stores
REQUEST_BLOCKS = 64  # blocks of one request: 1M tokens
PIECE_BYTES = 32 << 20  # decoded bytes that one call may need at once, so that a huge call does not hold a huge copy

_cache: collections.OrderedDict[tuple[int, int], np.ndarray] = collections.OrderedDict()
_held = 0
_lock = threading.Lock()
_serial = itertools.count()


def new_key() -> int:
    """A number that names one opened array in the cache; never used twice in a process."""
    return next(_serial)


def _get(key: int, block: int) -> np.ndarray | None:
    found = _cache.get((key, block))
    if found is not None:
        _cache.move_to_end((key, block))
    return found


def _put(key: int, block: int, values: np.ndarray) -> None:
    global _held
    if (key, block) in _cache:
        return
    _cache[key, block] = values
    _held += values.nbytes
    while _held > CACHE_BYTES and len(_cache) > 1:
        _held -= _cache.popitem(last=False)[1].nbytes


def _load(array, key: int, wanted: list[int]) -> dict[int, np.ndarray]:
    """Decoded blocks by number; `wanted` ascends without repetition."""
    with _lock:
        blocks = {block: _get(key, block) for block in wanted}
    missing = [block for block, values in blocks.items() if values is None]
    if not missing:
        return blocks
    requests, size = [], array.shape[0]
    first = previous = missing[0]
    for block in [*missing[1:], None]:
        if block is None or block != previous + 1 or block - first >= REQUEST_BLOCKS:
            requests.append((first, previous + 1, array[first * BLOCK : min((previous + 1) * BLOCK, size)].read()))
            first = block
        previous = block
    for first, last, future in requests:
        values = future.result()
        for block in range(first, last):
            # A copy, so that a block kept in the cache does not keep its whole request alive.
            part = values[(block - first) * BLOCK : (block - first + 1) * BLOCK]
            blocks[block] = part if last - first == 1 else part.copy()
    with _lock:
        for block in missing:
            _put(key, block, blocks[block])
    return blocks


def rows(array, key: int, starts: np.ndarray, width: int) -> np.ndarray:
    """int32 [R, width]: row i is `array[starts[i] : starts[i] + width]`, for starts int64 [R] in any order, inside the array."""
    out = np.empty((len(starts), width), np.int32)
    order = np.argsort(starts, kind="stable")
    piece = max(1, PIECE_BYTES // (array.dtype.numpy_dtype.itemsize * (width + 2 * BLOCK)))
    for begin in range(0, len(order), piece):
        members = order[begin : begin + piece]
        first = starts[members] // BLOCK
        last = (starts[members] + (width - 1)) // BLOCK
        if (last - first <= 1).all():
            wanted = np.union1d(first, last).tolist()
        else:
            wanted = sorted(set(itertools.chain.from_iterable(map(range, first.tolist(), (last + 1).tolist()))))
        blocks = _load(array, key, wanted)
        for row, low, high, start in zip(members.tolist(), first.tolist(), last.tolist(), starts[members].tolist(), strict=True):
            at = start - low * BLOCK
            if low == high:
                out[row] = blocks[low][at : at + width]
                continue
            filled = BLOCK - at
            out[row, :filled] = blocks[low][at:]
            for block in range(low + 1, high):
                out[row, filled : filled + BLOCK] = blocks[block]
                filled += BLOCK
            out[row, filled:] = blocks[high][: width - filled]
    return out
