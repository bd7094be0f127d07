"""Seeded permutations that need no memory: where index i of n lands, computed for an array of indices at once.

A Feistel network permutes pairs. Write i = left b + right with left in [0, a) and right in [0, b), where a b >= n and a, b are about
sqrt(n). Each round adds to one half, modulo its range, a hash of the other half; undoing the rounds in reverse gives the inverse, so
the whole is a permutation of [0, a b). That range exceeds [0, n) by at most a, and an index that lands beyond n is sent through
again until it lands inside ("cycle walking"), which leaves a permutation of [0, n).

Every argument may be an array: one call permutes indices of many ranges with many seeds, which is what a batch of 27 sources needs.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_KEYS = np.arange(6, dtype=np.uint64) * _GOLDEN  # six rounds
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def seed_of(*parts) -> int:
    """A 63-bit seed from any printable parts, the same on every machine: `seed_of(0, "phase", 2, "code")`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def hash64(values, seeds) -> np.ndarray:
    """uint64 hashes of integers under seeds (broadcast, at least 1-d): SplitMix64's finaliser twice, so that near seeds are unrelated."""
    values, seeds = (np.atleast_1d(part).astype(np.uint64) for part in (values, seeds))  # arrays wrap around silently, scalars warn
    return _mix(values + _mix(seeds * _GOLDEN + _GOLDEN))


def below(hashes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Maps hashes to integers in [0, bounds), bounds below 2^32 exactly uniform to 2^-32 and larger ones to 2^-21; int64."""
    bounds = np.asarray(bounds)
    if bounds.size and int(bounds.max()) >> 32:
        fraction = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.minimum((fraction * bounds).astype(np.int64), bounds - 1)
    return (((hashes >> _HALF) * bounds.astype(np.uint64)) >> _HALF).astype(np.int64)


def permute(indices, sizes, seeds) -> np.ndarray:
    """Image of each index under the permutation of [0, size) that its seed names; int64, shape by broadcasting.

    Sizes up to 2^62; every index must lie in [0, size). Time is O(len(indices)) whatever the sizes, memory likewise.
    """
    indices, sizes, seeds = np.broadcast_arrays(
        np.asarray(indices, np.int64), np.asarray(sizes, np.int64), np.asarray(seeds, np.int64)
    )
    shape = indices.shape
    image, sizes, seeds = indices.ravel().astype(np.uint64), sizes.ravel().astype(np.uint64), seeds.ravel().astype(np.uint64)
    rows = np.sqrt(sizes.astype(np.float64)).astype(np.uint64) + np.uint64(1)
    columns = (sizes + rows - np.uint64(1)) // rows
    keys = _mix(seeds * _GOLDEN + _GOLDEN)
    image = _feistel(image, rows, columns, keys)
    while (outside := np.flatnonzero(image >= sizes)).size:
        image[outside] = _feistel(image[outside], rows[outside], columns[outside], keys[outside])
    return image.astype(np.int64).reshape(shape)


def _feistel(pairs, rows, columns, keys):
    left = pairs // columns
    right = pairs - left * columns
    for number, round_key in enumerate(_ROUND_KEYS):
        if number % 2 == 0:
            left = _add(left, _mix(right ^ (keys + round_key)), rows)
        else:
            right = _add(right, _mix(left ^ (keys + round_key)), columns)
    return left * columns + right


def _add(half, hashes, size):
    # (half + a hash scaled to [0, size)) modulo size, without division; halves stay below 2^32.
    total = half + (((hashes >> _HALF) * size) >> _HALF)
    return np.where(total >= size, total - size, total)


def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
