"""How a value that a program multiplies, or adds one to, is stored so that the program computes with ours: Gemma's norms and embedding.

Gemma multiplies a norm's output by 1 + w, in float32, and the rows of its embedding by the root of the width D, rounded to the dtype of
the embedding, in that dtype. Stored are then w = g - 1 and e / sqrt(D), and of the neighbours of these in the file's dtype the one from
which the program comes nearest to g and e. What it comes to:

    gains, float32    exact for g of at least 1/2; below, 1 + w lies on a grid of 2^-24 and misses g by at most 2^-25 (2^-24 below zero)
    embedding         exact where D is a power of 4. Else the products of neighbouring numbers lie up to two units in the last place
                      apart, and some e lie between: for D = 2048 one in seven misses by one unit, at most 8.5e-8 of e in float32 and
                      0.55% in bfloat16; float16 also loses what falls below its smallest normal number, 6.1e-5
    tied embedding    the output head is then the stored table, smaller by sqrt(D), which the final norm's gain makes good

What does not come back bit for bit is kept as corrections, integers that are added to the bits of what was undone, for a later import.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

PIECE = 1 << 22  # elements at a time, so that intermediate arrays stay small

BITS = {2: np.int16, 4: np.int32}


@dataclasses.dataclass(frozen=True)
class Fold:
    """`guess` gives float64 values near those to store, of our values in float64; `undo` is what the program computes of the stored."""

    guess: Callable[[np.ndarray], np.ndarray]
    undo: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass
class Loss:
    """What a fold could not keep, over all values that went through it."""

    values: int = 0
    missed: int = 0
    largest: float = 0.0  # error, absolute
    relative: float = 0.0  # error to the value's size

    def add(self, wanted: np.ndarray, got: np.ndarray) -> None:
        """Both of one shape; errors are taken in float64."""
        wanted, got = wanted.astype(np.float64), got.astype(np.float64)
        error = np.abs(wanted - got)
        self.values += wanted.size
        self.missed += int(np.count_nonzero(error))
        self.largest = max(self.largest, float(error.max(initial=0.0)))
        ratio = np.divide(error, np.abs(wanted), out=np.zeros_like(error), where=wanted != 0)
        self.relative = max(self.relative, float(ratio.max(initial=0.0)))


def plus_one(scale: float = 1.0) -> Fold:
    """Of a gain: the program has 1 + w, in float32. With a scale it is to come to scale times our gain."""
    one = np.float32(1)
    if scale == 1.0:
        return Fold(lambda gain: gain - 1, lambda stored: one + stored.astype(np.float32))
    # One rounding more: the scaled gain is divided again.
    return Fold(lambda gain: gain * scale - 1, lambda stored: ((one + stored.astype(np.float32)) / scale).astype(np.float32))


def times_root(width: int, dtype: np.dtype) -> Fold:
    """Of embedding rows: the program multiplies by sqrt(width) rounded to the stored dtype, in that dtype."""
    factor = np.asarray(root(width, dtype)).astype(np.float32)

    def undo(stored):
        return (stored.astype(np.float32) * factor).astype(dtype)  # a product of two bfloat16 or float16 numbers is exact in float32

    return Fold(lambda rows: rows / float(factor), undo)


def root(width: int, dtype: np.dtype) -> float:
    """sqrt(width) as the program rounds it to the dtype of its embedding."""
    return float(np.asarray(np.float32(math.sqrt(width))).astype(dtype))


def store(array: np.ndarray, fold: Fold, dtype: np.dtype, loss: Loss) -> tuple[np.ndarray, np.ndarray | None]:
    """(what to store in `dtype` for an array of ours, the corrections that an import needs), both of its shape; adds to `loss`.

    No corrections are needed where everything comes back, and there are none where `dtype` is not that of the array.
    """
    flat, stored, fixes = array.reshape(-1), np.empty(array.size, dtype), None
    for start in range(0, array.size, PIECE):
        piece = flat[start : start + PIECE]
        wanted = piece.astype(np.float64)
        best = cast(fold.guess(wanted), dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(fold.undo(best).astype(np.float64) - wanted)
        (missed,) = np.nonzero((error > 0) & np.isfinite(best))  # what is too large stays infinite, for all to see
        for step in (-1, 1):
            other = neighbour(best[missed], step)
            nearer = np.abs(fold.undo(other).astype(np.float64) - wanted[missed])
            take = nearer < error[missed]
            best[missed[take]], error[missed[take]] = other[take], nearer[take]
        stored[start : start + PIECE] = best
        undone = fold.undo(best)
        loss.add(piece, undone)
        if array.dtype == dtype and (found := corrections(piece, undone.astype(dtype))) is not None:
            fixes = np.zeros(array.size, found.dtype) if fixes is None else fixes
            fixes = fixes.astype(np.promote_types(fixes.dtype, found.dtype), copy=False)
            fixes[start : start + PIECE] = found
    return stored.reshape(array.shape), None if fixes is None else fixes.reshape(array.shape)


def neighbour(array: np.ndarray, step: int) -> np.ndarray:
    """The next floating-point numbers, away from zero for +1 and towards it for -1; zero stays."""
    bits = array.view(BITS[array.dtype.itemsize])
    return np.where(array == 0, bits, bits + np.asarray(step, bits.dtype)).view(array.dtype)


def corrections(array: np.ndarray, undone: np.ndarray) -> np.ndarray | None:
    """What has to be added to the bits of `undone` to give those of `array`, of one float dtype, in the fewest bytes; None: nothing."""
    kind = BITS[array.dtype.itemsize]
    difference = ordered(array.reshape(-1).view(kind)) - ordered(undone.reshape(-1).view(kind))
    if not difference.any():
        return None
    for narrow in (np.int8, np.int16, np.int32):
        if np.abs(difference).max() <= np.iinfo(narrow).max:
            return difference.astype(narrow).reshape(array.shape)
    raise ValueError("values and what was stored of them differ by more than 32 bits hold")


def correct(undone: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """The array that `corrections` was made of."""
    kind = BITS[undone.dtype.itemsize]
    return unordered(ordered(undone.view(kind)) + correction, kind).view(undone.dtype)


def ordered(bits: np.ndarray) -> np.ndarray:
    """int64 that grows with the float whose bits these are, one by one through zero: -0 is -1, +0 is 0."""
    top = np.int64(np.iinfo(bits.dtype).max)
    wide = bits.astype(np.int64)
    return np.where(wide >= 0, wide, -(wide & top) - 1)


def unordered(order: np.ndarray, kind: type) -> np.ndarray:
    """Inverse of `ordered`, as signed integers of `kind`."""
    low = np.int64(np.iinfo(kind).min)
    return np.where(order >= 0, order, low + (-order - 1)).astype(kind)


def cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in another float dtype, rounded to nearest; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)
