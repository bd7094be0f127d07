"""Measurements of many texts at once, for the rules: shares of letters and digits, lines, words, repetition.

They read the bytes of an Arrow array through numpy, in comparisons of a whole array at a time. A character outside ASCII counts as a
letter, and once for each of its 2-4 bytes where nothing else is said. Words are what blanks separate. Definitions follow Gopher (arXiv
2112.11446, table A1) and FineWeb.
"""

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


# Arithmetic on bytes wraps around: x - 48 < 10 holds for the digits 48 to 57 only.
def _letter(data: np.ndarray) -> np.ndarray:
    return (((data | 32) - np.uint8(97)) < 26) | (data >= 128)


def _digit(data: np.ndarray) -> np.ndarray:
    return (data - np.uint8(48)) < 10


def _blank(data: np.ndarray) -> np.ndarray:
    return (data == 32) | ((data - np.uint8(9)) < 2)


def _han_lead(data: np.ndarray) -> np.ndarray:
    """First bytes of U+4000 to U+9FFF."""
    return (data - np.uint8(0xE4)) < 6


def _continuation(data: np.ndarray) -> np.ndarray:
    return (data & 0xC0) == 0x80


# The closing quotation marks U+201D and U+2019 end in the bytes 9D and 99.
_SENTENCE_END = np.isin(np.arange(256), [*b".!?\"')", 0x9D, 0x99])


class Measures:
    """Measurements of the texts of one array without nulls; each is [B] float64, computed once and on demand."""

    def __init__(self, texts: pa.LargeStringArray):
        self.texts = texts
        offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        data = texts.buffers()[2]
        self.data = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if data else np.zeros(0, np.uint8)
        self.offsets = offsets - offsets[0]

    def _count(self, flags: np.ndarray) -> np.ndarray:
        """How many of the bytes of each text are flagged."""
        bounds = self.offsets.tolist()
        return np.array([np.count_nonzero(flags[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)], np.float64)

    @functools.cached_property
    def _blanks(self) -> np.ndarray:
        return _blank(self.data)

    @functools.cached_property
    def _blank_count(self) -> np.ndarray:
        return self._count(self._blanks)

    @functools.cached_property
    def _letters(self) -> np.ndarray:
        return _letter(self.data)

    @functools.cached_property
    def bytes(self) -> np.ndarray:
        return np.diff(self.offsets).astype(np.float64)

    @functools.cached_property
    def characters(self) -> np.ndarray:
        return self.bytes - self._count(_continuation(self.data))

    @functools.cached_property
    def visible(self) -> np.ndarray:
        """Bytes that are not blank, at least 1."""
        return np.maximum(1, self.bytes - self._blank_count)

    @functools.cached_property
    def letters(self) -> np.ndarray:
        """Share of visible bytes that are letters."""
        return self._count(self._letters) / self.visible

    @functools.cached_property
    def digits(self) -> np.ndarray:
        """Share of visible bytes that are digits."""
        return self._count(_digit(self.data)) / self.visible

    @functools.cached_property
    def symbols(self) -> np.ndarray:
        """Share of visible bytes that are neither letters nor digits."""
        return 1 - self.letters - self.digits

    @functools.cached_property
    def han(self) -> np.ndarray:
        """Share of visible bytes in Han characters."""
        return 3 * self._count(_han_lead(self.data)) / self.visible

    @functools.cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """(start of each word, number of the first word of each text [B + 1])."""
        blank = self._blanks
        before = np.ones(len(blank), bool)
        before[1:] = blank[:-1]
        before[self.offsets[self.offsets < len(blank)]] = True
        starts = np.flatnonzero(before & ~blank)
        return starts, np.searchsorted(starts, self.offsets)

    @functools.cached_property
    def words(self) -> np.ndarray:
        return np.diff(self._words[1]).astype(np.float64)

    @functools.cached_property
    def word_length(self) -> np.ndarray:
        """Mean characters of a word."""
        return (self.characters - self._blank_count) / np.maximum(1, self.words)

    @functools.cached_property
    def words_with_letter(self) -> np.ndarray:
        """Share of words."""
        starts, first = self._words
        if not len(starts):
            return np.zeros(len(self.texts))
        having = np.concatenate([[0], np.cumsum(np.maximum.reduceat(self._letters.view(np.uint8), starts), dtype=np.int64)])
        return np.diff(having[first]) / np.maximum(1, self.words)

    @functools.cached_property
    def _lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        newlines = np.flatnonzero(self.data == 10)
        first = np.searchsorted(newlines, self.offsets) + np.arange(len(self.offsets))
        ends = np.sort(np.concatenate([newlines, self.offsets[1:]]), kind="stable")
        starts = np.empty_like(ends)
        starts[1:] = ends[:-1] + 1
        starts[first[:-1]] = self.offsets[:-1]
        return starts, ends, first

    @functools.cached_property
    def lines(self) -> np.ndarray:
        """Lines that are not empty, at least 1."""
        starts, ends, _ = self._lines
        return np.maximum(1, self._chosen(ends > starts))

    def _chosen(self, chosen: np.ndarray) -> np.ndarray:
        """Lines by text that are chosen."""
        return np.diff(np.concatenate([[0], np.cumsum(chosen)])[self._lines[2]]).astype(np.float64)

    @functools.cached_property
    def longest_line(self) -> np.ndarray:
        """Bytes."""
        starts, ends, first = self._lines
        return np.maximum.reduceat(ends - starts, first[:-1]).astype(np.float64) if len(self.texts) else np.zeros(0)

    @functools.cached_property
    def mean_line(self) -> np.ndarray:
        """Bytes of a line that is not empty."""
        return self.bytes / self.lines

    @functools.cached_property
    def short_lines(self) -> np.ndarray:
        """Share of lines with fewer than 30 bytes."""
        starts, ends, _ = self._lines
        return self._chosen((ends > starts) & (ends - starts < 30)) / self.lines

    @functools.cached_property
    def _last(self) -> np.ndarray:
        """The last byte of each line, 0 of an empty one."""
        starts, ends, _ = self._lines
        return (
            np.where(ends > starts, self.data[np.maximum(0, ends - 1)], 0).astype(np.uint8)
            if len(self.data)
            else np.zeros(len(ends), np.uint8)
        )

    @functools.cached_property
    def sentence_lines(self) -> np.ndarray:
        """Share of lines that end like a sentence."""
        return self._chosen(_SENTENCE_END[self._last]) / self.lines

    @functools.cached_property
    def ellipsis_lines(self) -> np.ndarray:
        """Share of lines that end with ... or …"""
        starts, ends, _ = self._lines
        cut = np.zeros(len(ends), bool)
        some = np.flatnonzero(((self._last == ord(".")) | (self._last == 0xA6)) & (ends - starts >= 3))
        last_three = [self.data[ends[some] - back] for back in (3, 2, 1)]
        cut[some] = np.logical_or.reduce(
            [np.logical_and.reduce([byte == one for byte, one in zip(last_three, sign, strict=True)]) for sign in (b"...", "…".encode())]
        )
        return self._chosen(cut) / self.lines

    @functools.cached_property
    def bullet_lines(self) -> np.ndarray:
        """Share of lines that begin with - * or • after blanks."""
        first = pc.match_substring_regex(self.texts, "\\A[ \\t]*[-*•] ").to_numpy(zero_copy_only=False)
        later = pc.count_substring_regex(self.texts, "\\n[ \\t]*[-*•] ").to_numpy(zero_copy_only=False)
        return (first + later) / self.lines

    @functools.cached_property
    def repeated_lines(self) -> np.ndarray:
        """Share of the bytes that lies in lines seen before in the same text."""
        data, bounds = self.data.tobytes(), self.offsets.tolist()
        repeated = [_repeated(data[start:end].split(b"\n")) for start, end in zip(bounds, bounds[1:], strict=False)]
        return np.array(repeated, np.float64) / np.maximum(1, self.bytes)


def _repeated(lines: list[bytes]) -> int:
    return sum(map(len, lines)) - sum(map(len, set(lines)))
