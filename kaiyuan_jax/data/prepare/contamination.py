"""Marks documents that quote evaluation sets: in which an n-gram of 13 words of a test item stands, as in GPT-3 (arXiv 2005.14165).

Words are compared as `minhash` sees them: case, digits, punctuation and diacritics do not count, and a character of an unsegmented script
is a word. An item of fewer than 13 but at least 8 words is looked for whole; shorter ones ("Yes.") would remove the innocent and are left
out. An index is the sorted 64-bit hashes of all these n-grams, so that a false hit among 10^9 places and 10^8 n-grams has a chance of half
a percent. A document is first looked up at every place by the hash of 8 words, in a table of bits and then by bisection; what begins like
an n-gram of the index is then compared whole.
"""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa

from kaiyuan_jax import files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import minhash
from kaiyuan_jax.data.prepare.tally import Tally

NGRAM = 13  # words
SHORTEST = 8  # words of an item that is looked for at all
_FILTER_BITS = 22  # a table of 4 MiB: at 10^5 n-grams one place in 40 goes on to the bisection


class ContaminationError(UserError):
    """Evaluation sets that cannot be looked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """What to look for: 18 bytes an n-gram."""

    sets: tuple[str, ...]  # names, sorted
    hashes: dict[int, np.ndarray]  # by length in words: uint64, ascending; equal ones belong to several sets
    members: dict[int, np.ndarray]  # uint16, the number of the set of each
    beginnings: np.ndarray  # uint64, ascending: the first SHORTEST words of each
    skipped: dict[str, int]  # items shorter than SHORTEST, which are not looked for, by name of every set


def index(texts_by_set: dict[str, list[str]], n: int = NGRAM) -> Index:
    """Of the items of evaluation sets by name; `skipped` counts those too short. Raises ContaminationError for n below SHORTEST."""
    if n < SHORTEST:
        raise ContaminationError(
            f"contamination n-gram: {n} words; at least {SHORTEST} are needed, or common phrases would be hits; 13 is usual"
        )
    names = tuple(sorted(texts_by_set))
    found: dict[int, list[tuple[np.ndarray, int]]] = {}
    beginnings, skipped = [np.zeros(0, np.uint64)], {}
    for number, name in enumerate(names):
        hashes, offsets = minhash.words(pa.array(texts_by_set[name], pa.large_string()))
        lengths = np.minimum(np.diff(offsets), n)
        skipped[name] = int((lengths < SHORTEST).sum())
        for length in np.unique(lengths[lengths >= SHORTEST]).tolist():
            places = np.concatenate([np.arange(offsets[i], offsets[i + 1] - length + 1) for i in np.flatnonzero(lengths == length)])
            found.setdefault(length, []).append((np.unique(minhash.ngrams_at(hashes, places, length)), number))
            beginnings.append(minhash.ngrams_at(hashes, places, SHORTEST))
    pairs = {}
    for length, some in sorted(found.items()):
        grams = np.concatenate([grams for grams, _ in some])
        members = np.concatenate([np.full(len(grams), number, np.uint16) for grams, number in some])
        order = np.lexsort((members, grams))
        pairs[length] = grams[order], members[order]
    hashes, members = ({length: pair[side] for length, pair in pairs.items()} for side in (0, 1))
    return Index(names, hashes, members, np.unique(np.concatenate(beginnings)), skipped)


def save(path: str | Path, index: Index) -> None:
    """Writes an index as arrays (.npz) without any object, so that reading one never runs code."""
    arrays = {f"hashes {length}": values for length, values in index.hashes.items()}
    arrays |= {f"members {length}": values for length, values in index.members.items()}
    names = np.array(index.sets, np.str_), np.array([index.skipped[name] for name in index.sets], np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, sets=names[0], skipped=names[1], beginnings=index.beginnings, **arrays)
    files.replace(path, buffer.getvalue())


def load(path: str | Path) -> Index:
    """What `save` wrote."""
    with np.load(path, allow_pickle=False) as found:
        lengths = sorted(int(name.split()[1]) for name in found.files if name.startswith("hashes "))
        hashes, members = ({length: found[f"{side} {length}"] for length in lengths} for side in ("hashes", "members"))
        sets = tuple(found["sets"].tolist())
        return Index(sets, hashes, members, found["beginnings"], dict(zip(sets, found["skipped"].tolist(), strict=True)))


def mark(table: pa.Table, index: Index, tally: Tally, minimum: int = 1) -> pa.Table:
    """Sets `removed` to "contamination <set>" where at least `minimum` places of a text quote that set, the set most quoted.

    Needs the columns text and removed; rows that are removed already stay as they are. The tally counts the documents removed, with
    the first n-gram quoted by each as examples.
    """
    texts = pa.concat_arrays([pa.array([], pa.large_string()), *table.column("text").cast(pa.large_string()).chunks])
    removed = table.column("removed").cast(pa.large_string()).to_pylist()
    alive = np.array([reason is None for reason in removed], bool)
    rows, places, lengths, members = _hits(texts, index)
    for hit in _winners(rows, members, alive, minimum):
        name = f"contamination {index.sets[members[hit]]}"
        removed[rows[hit]] = name
        spans = minhash.spans(texts[rows[hit]].as_py())[places[hit] : places[hit] + lengths[hit]]
        tally.add(name, 1, ["".join(spans).strip()])
    return table.set_column(table.schema.get_field_index("removed"), "removed", pa.array(removed, pa.large_string()))


def quoted(texts: pa.LargeStringArray, index: Index) -> set[str]:
    """Names of the sets of which any of the texts holds an n-gram."""
    return {index.sets[number] for number in np.unique(_hits(texts, index)[3]).tolist()}


def _hits(texts: pa.LargeStringArray, index: Index) -> np.ndarray:
    """int64 [4, hits]: row, place in words, length in words and number of the set, ordered by them."""
    columns = [np.zeros((4, 0), np.int64)]
    likely = np.zeros(1 << _FILTER_BITS, bool)
    likely[index.beginnings >> np.uint64(64 - _FILTER_BITS)] = True
    words, offsets = minhash.words(texts)
    for begin, end in minhash.batches(offsets, minhash.BLOCK // 2):
        grams, counts = minhash.ngrams(words[offsets[begin] : offsets[end]], offsets[begin : end + 1] - offsets[begin], SHORTEST)
        found = np.flatnonzero(likely[grams >> np.uint64(64 - _FILTER_BITS)])
        found = found[_ranges(index.beginnings, grams[found])[1] > 0]
        bounds = np.append(0, np.cumsum(counts))
        rows = np.searchsorted(bounds, found, "right") - 1
        places, rows = found - bounds[rows], rows + begin
        for length, hashes in index.hashes.items():
            inside = np.flatnonzero(offsets[rows] + places + length <= offsets[rows + 1])
            first, several = _ranges(hashes, minhash.ngrams_at(words, (offsets[rows] + places)[inside], length))
            # A hash of several sets is that many hits.
            entries = np.arange(several.sum()) + np.repeat(first - (np.cumsum(several) - several), several)
            hit = np.repeat(inside, several)
            columns.append(np.stack([rows[hit], places[hit], np.full_like(hit, length), index.members[length][entries].astype(np.int64)]))
    hits = np.concatenate(columns, axis=1)
    return hits[:, np.lexsort(hits[::-1])]


def _ranges(ascending: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each value would stand first, how often it occurs)."""
    first = np.searchsorted(ascending, values)
    return first, np.searchsorted(ascending, values, "right") - first


def _winners(rows: np.ndarray, members: np.ndarray, alive: np.ndarray, minimum: int) -> list[int]:
    """For each row alive, the number of its first hit of the set that has most, at least `minimum`; the first set among equals."""
    pairs, first, counts = np.unique(np.stack([rows, members]), axis=1, return_index=True, return_counts=True)
    kept = np.flatnonzero((counts >= minimum) & alive[pairs[0]])
    order = kept[np.lexsort((pairs[1, kept], -counts[kept], pairs[0, kept]))]
    _, best = np.unique(pairs[0, order], return_index=True)
    return first[order[best]].tolist()
