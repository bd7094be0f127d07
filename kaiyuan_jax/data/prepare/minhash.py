"""Bands of MinHash values: texts whose sets of word n-grams overlap share a band, so that near-duplicates meet in a group by.

A text is seen as words, case, digits, punctuation and diacritics put aside as in the published pipeline (arXiv 2512.07612): lower case,
digits are 0, punctuation and symbols are spaces, combining marks vanish. A character of a script that puts no spaces between words
(Han, kana, Thai, Lao, Khmer, Myanmar) is a word by itself; this is decided character by character, so a text may mix scripts. The whole
normalisation is thus one table over code points, and hashing words is arithmetic over arrays. With t_i the random number of the
character at i, and R odd, a word [s, e) has the hash R^-s (sum_{i<e} t_i R^i - sum_{i<s} t_i R^i) mod 2^64: two prefix sums.

A set of n-grams A is summarised by the smallest of a h mod 2^32 over its hashes h, for 126 odd numbers a (the hashes being well mixed, to
add a shift changed nothing in the estimates and took a quarter longer). Two sets share one such minimum with probability
J = |A and B| / |A or B|, a band of r of them with J^r, and at least one of b bands with 1 - (1 - J^r)^b. For 128 permutations and a
threshold of 0.7, b = 14 and r = 9 balance what is wrongly found and wrongly missed (Leskovec et al., Mining of Massive Datasets, chapter
3). A band is stored as one 64-bit hash with its number mixed in.
"""

import dataclasses
import functools
import hashlib
import itertools
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK = 1 << 17  # bytes of text, or twice the words, worked on at a time: they stay in the processor's cache
_SEPARATOR, _LETTER, _SINGLE, _SKIPPED = range(4)
_UNSEGMENTED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar, and two blocks further down
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # Han
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),
)
_LOOKED_UP = (range(0x3400), range(0xA000, 0xAC00), range(0xD7B0, 0xD800), range(0xF900, 0x20000), range(0xE0000, 0xE0200))


@dataclasses.dataclass(frozen=True)
class Options:
    """What counts as near: Jaccard similarity above `threshold` of the sets of n-grams of words."""

    ngram: int = 5  # words; a text with fewer has no bands
    permutations: int = 128  # at most so many are used
    threshold: float = 0.7
    seed: int = 1234

    @property
    def shape(self) -> tuple[int, int]:
        """(bands, rows of a band)."""
        return optimal_bands(self.permutations, self.threshold)


def probability(similarity: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Of sharing at least one band, by Jaccard similarity: the S-curve."""
    return 1 - (1 - np.asarray(similarity, float) ** rows) ** bands


@functools.cache
def optimal_bands(permutations: int, threshold: float) -> tuple[int, int]:
    """(bands, rows): the least integral of the S-curve below the threshold plus that of its complement above, as in datasketch."""
    nodes, weights = np.polynomial.legendre.leggauss(200)

    def mean(low: float, high: float, shape: tuple[int, int]) -> float:
        return float(weights @ probability(low + (nodes + 1) * (high - low) / 2, *shape) / 2)

    def error(shape: tuple[int, int]) -> float:
        return threshold * mean(0, threshold, shape) + (1 - threshold) * (1 - mean(threshold, 1, shape))

    return min(((bands, rows) for bands in range(1, permutations + 1) for rows in range(1, permutations // bands + 1)), key=error)


def bands(texts: pa.LargeStringArray, options: Options = Options()) -> pa.FixedSizeListArray:  # noqa: B008 (frozen)
    """Fixed-size lists of uint64, one for each band: null where the text is null or has fewer words than an n-gram."""
    number, rows = options.shape
    hashes, offsets = words(texts)
    found = np.zeros((len(texts), number), np.uint64)
    for begin, end in batches(offsets, BLOCK // 2):
        grams, counts = ngrams(hashes[offsets[begin] : offsets[end]], offsets[begin : end + 1] - offsets[begin], options.ngram)
        long = np.flatnonzero(counts)
        starts = np.append(0, np.cumsum(counts[long]))[:-1]
        minima = _minima((grams >> np.uint64(32)).astype(np.uint32), starts, number * rows, options.seed)
        found[begin + long] = _fold(minima.reshape(number, rows, -1))
    short = np.diff(offsets) < options.ngram
    return pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), number, mask=pa.array(short))


def words(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 hashes of the words of all texts, in order; int64 offsets of the texts into them, one more than texts).

    A word that is longer than `BLOCK` may be cut.
    """
    if texts.null_count:
        texts = texts.fill_null("")
    if len(texts) == 0:
        return np.zeros(0, np.uint64), np.zeros(1, np.int64)
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2] or b"")
    bounds = _cut_long(data, offsets)
    hashes, ends = [np.zeros(0, np.uint64)], [np.zeros(1, np.int64)]
    for begin, end in batches(bounds, BLOCK):
        places = bounds[begin : end + 1]
        found, starts, places = _words_of_block(data[places[0] : places[-1]], places - places[0])
        hashes.append(found)
        ends.append(ends[-1][-1] + np.searchsorted(starts, places[1:]))
    return np.concatenate(hashes), np.concatenate(ends)[np.searchsorted(bounds, offsets)]


def spans(text: str) -> list[str]:
    """The words of one text as written, in order, each with what follows it up to the next."""
    data = text.encode()
    _, starts, places = _words_of_block(memoryview(data), np.array([0, len(data)]))
    visible = text if places[-1] == len(text) else "".join(character for character in text if _alphabet()[ord(character)] & 3 != _SKIPPED)
    return [visible[begin:end] for begin, end in itertools.pairwise([*starts.tolist(), len(visible)])]


def ngrams(hashes: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 hashes of the n-grams of words that lie inside one text, in order; their number by text)."""
    counts = np.diff(offsets)
    possible = max(len(hashes) - n + 1, 0)
    grams = np.zeros(possible, np.uint64)
    for place, factor in enumerate(_constants("n-gram", n)):
        grams += hashes[place : place + possible] * factor
    inside = np.arange(n, n + possible) <= np.repeat(offsets[1:], counts)[:possible]
    return _mix(grams if inside.all() else grams[inside]), np.maximum(counts - n + 1, 0)


def ngrams_at(hashes: np.ndarray, places: np.ndarray, n: int) -> np.ndarray:
    """uint64 hashes, as of `ngrams`, of the n-grams of words that begin at the places."""
    grams = np.zeros(len(places), np.uint64)
    for place, factor in enumerate(_constants("n-gram", n)):
        grams += hashes[places + place] * factor
    return _mix(grams)


def _cut_long(data: memoryview, offsets: np.ndarray) -> np.ndarray:
    """The offsets in bytes, and more inside texts longer than `BLOCK`: at blanks if there are any, never inside a character."""
    cuts = []
    for index in np.flatnonzero(np.diff(offsets) > BLOCK):
        begin, end = int(offsets[index]), int(offsets[index + 1])
        while end - begin > BLOCK:
            block = bytes(data[begin : begin + BLOCK])
            cut = max(block.rfind(b" "), block.rfind(b"\n"))
            if cut <= 0:
                cut = next(place for place in range(BLOCK - 1, 0, -1) if block[place] & 0xC0 != 0x80)
            cuts.append(begin := begin + cut)
    return np.sort(np.concatenate([offsets, np.array(cuts, np.int64)]))


def batches(bounds: np.ndarray, limit: int):
    """Ranges of neighbours whose sizes, the differences of `bounds`, add up to the limit at most; larger ones stay alone."""
    begin = 0
    while begin < len(bounds) - 1:
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + limit, "right")) - 1)
        yield begin, end
        begin = end


def _words_of_block(data: memoryview, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes and first characters of the words of texts, borders of the texts in characters); `places` are the borders in bytes."""
    if bytes(data).isascii():
        codes = np.frombuffer(data, np.uint8)
    else:
        codes = np.frombuffer(str(data, "utf-8").encode("utf-32-le"), np.uint32)
        texts = pa.LargeStringArray.from_buffers(len(places) - 1, pa.py_buffer(places), pa.py_buffer(data))
        places = np.append(0, np.cumsum(pc.utf8_length(texts).to_numpy()))
    characters = _alphabet().take(codes)
    kinds = characters.astype(np.uint8) & np.uint8(3)
    kept = kinds != _SKIPPED
    if not kept.all():
        characters, kinds, places = characters[kept], kinds[kept], np.append(0, np.cumsum(kept))[places]
    size = len(characters)
    letters = kinds == _LETTER
    joined = np.zeros(size + 1, bool)  # to the character before
    np.logical_and(letters[1:], letters[:-1], out=joined[1:size])
    joined[places] = False
    starts = np.flatnonzero((kinds != _SEPARATOR) & ~joined[:size])
    powers, inverses = _powers()[:, :size]
    sums = np.zeros(size + 1, np.uint64)
    np.cumsum(np.multiply(characters, powers, out=characters), out=sums[1:])
    # Separators add nothing, so that a word may be taken to end where the next one starts.
    return _mix(np.diff(sums[np.append(starts, size)]) * inverses[starts]), starts, places


def _minima(grams: np.ndarray, starts: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """uint32 [permutations, texts]: the smallest value of each permutation over the n-grams of each text."""
    factors = (_constants(f"factors {seed}", permutations) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    values, minima = np.empty_like(grams), np.empty((permutations, len(starts)), np.uint32)
    for factor, row in zip(factors, minima, strict=True):
        np.multiply(grams, factor, out=values)
        np.minimum.reduceat(values, starts, out=row)
    return minima


def _fold(minima: np.ndarray) -> np.ndarray:
    """[texts, bands] uint64 of [bands, rows, texts] uint32."""
    folded = np.repeat(_constants("bands", len(minima))[:, None], minima.shape[2], 1)
    for row in range(minima.shape[1]):
        folded = _mix(folded ^ minima[:, row])
    return folded.T


@functools.cache
def _alphabet() -> np.ndarray:
    """uint64 by code point: a random number of the character it is folded into, and in the two lowest bits its kind; 0: a separator."""
    folded = np.arange(0x110000, dtype=np.uint64)
    kinds = np.full(0x110000, _SEPARATOR, np.uint64)
    kinds[0xAC00:0xD7A4] = _LETTER  # Hangul, whose decomposition into letters would be no diacritics
    for low, high in _UNSEGMENTED:
        kinds[low : high + 1] = _SINGLE
    for code in (code for codes in _LOOKED_UP for code in codes):
        character = chr(code)
        plain = [part for part in unicodedata.normalize("NFKD", character.lower()) if unicodedata.category(part) != "Mn"]
        if len(plain) == 1:
            character = plain[0]
        category = unicodedata.category(character)
        if category == "Nd":
            character = "0"
        folded[code] = ord(character)
        if category in ("Mn", "Me", "Cf"):
            kinds[code] = _SKIPPED
        elif category[0] not in "LN" and category != "Mc":
            kinds[code] = _SEPARATOR
        else:
            single = category[0] == "L" and any(low <= ord(character) <= high for low, high in _UNSEGMENTED)
            kinds[code] = _SINGLE if single else _LETTER
    return np.where(kinds == _SEPARATOR, np.uint64(0), (_mix(folded) & ~np.uint64(3)) | kinds)


@functools.cache
def _powers() -> np.ndarray:
    """uint64 [2, BLOCK]: R^i and R^-i mod 2^64."""
    root = int(_constants("root", 1)[0]) | 1
    bases = np.repeat(np.array([[root], [pow(root, -1, 1 << 64)]], np.uint64), BLOCK, axis=1)
    bases[:, 0] = 1
    return np.multiply.accumulate(bases, axis=1)


@functools.cache
def _constants(purpose: str, number: int) -> np.ndarray:
    """uint64 numbers that differ by purpose; the same on every machine, and the first ones whatever the number."""
    start = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    return _mix(np.arange(1, number + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start))


def _mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers in which every bit depends on every bit (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
