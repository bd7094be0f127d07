"""Pass 1: pieces of raw input become parts of cleaned, scored, fingerprinted documents.

Row by row, so that it runs anywhere in any order: read, normalise, clean, decontaminate, hash, score, MinHash bands. A part is

    NAME-S.arrow     the texts
    NAME-S.parquet   everything else, one row a text: uid, input, hash, tie, quality (the score that orders the store), size, bands,
                     id, metadata, score.NAME

`uid` is the part's number times 2**22 plus the row. It finds a text again; it decides nothing, so that neither does the cutting into parts.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaiyuan_jax.data.prepare import clean, contamination, minhash, normalise, read, score
from kaiyuan_jax.data.prepare.job import unique
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings
from kaiyuan_jax.data.prepare.tally import Tally

TIE_BYTES = 8
ROW_BITS, PART_BITS = 22, 16  # of a uid: the row in its part, the part in its task; 25 are left for the task
_TEXTS = pa.schema([("text", pa.large_string())])


@dataclasses.dataclass(frozen=True)
class Part:
    """A part on disk."""

    name: str  # path without an ending
    number: int
    documents: int
    bytes: int  # of text

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Everything but the texts."""
        return pq.read_table(self.name + ".parquet", columns=columns)

    def texts(self) -> pa.LargeStringArray:
        """Mapped, not read: what is touched is decompressed batch by batch when combined."""
        with pa.ipc.open_file(pa.memory_map(self.name + ".arrow")) as file:
            return file.read_all()["text"].combine_chunks()


def tasks(found: list[read.Input], settings: Settings, size: int, part: int, index: str) -> tuple[list[dict], list[int]]:
    """Tasks of about `size` bytes of input each, which write parts of about `part` bytes of text, and those bytes of input.

    `index` is the path of the contamination index, or empty.
    """
    groups, sizes = [[]], [0]
    for number, input in enumerate(found):
        cut = read.pieces(input, size)
        for piece in cut:
            weight = max(1, input.bytes // len(cut))
            if groups[-1] and sizes[-1] + weight > size:
                groups.append([]), sizes.append(0)
            groups[-1].append((number, piece, len(cut) == 1))
            sizes[-1] += weight
    return [{"pieces": group, "settings": settings, "size": part, "index": index, "task": i} for i, group in enumerate(groups)], sizes


def make(task: dict) -> dict:
    """Writes the parts of one task; gives them, the tallies, and inputs that could not be read to their end with the reason.

    Raises `PrepareError` for a document without the score that it is to be sorted by, `ReadError` for a wrong field.
    """
    settings, writer = task["settings"], _Writer(unique(task["name"]), task["task"] << PART_BITS, task["size"])
    tally, by_input, damaged, lost = Tally(), {}, {}, {}
    for number, piece, whole in task["pieces"]:
        mine = Tally()
        try:
            for raw in read.read(piece, settings.fields, settings.limits, mine):
                writer.add(rows(raw, settings, task["index"], mine, piece.input.path), number)
        except read.Damaged as error:
            damaged[number] = error.reason
            continue
        if mine.counts.get("read: rows lost"):
            lost[number] = {name.removeprefix("read: "): count for name, count in mine.counts.items() if name in mine.examples}
        (tally if whole else by_input.setdefault(number, Tally())).merge(mine)
    return {"parts": [dataclasses.asdict(part) for part in writer.close()], "tally": tally.to_json(), "damaged": damaged,
            "lost": lost, "by_input": {number: held.to_json() for number, held in by_input.items()}}  # fmt: skip


def rows(raw: pa.Table, settings: Settings, index: str, tally: Tally, place: str = "") -> pa.Table:
    """The documents of a raw table (id, text, quality, metadata) that stay, with every column of a part but uid and input."""
    tally.add("documents read", raw.num_rows)
    tally.add("bytes read", _bytes(raw["text"]))
    texts = normalise.normalise_array(_one(raw["text"]))
    empty = pc.equal(pc.binary_length(texts), 0)
    tally.add("empty", pc.sum(empty).as_py() or 0)
    kept = pc.invert(empty)
    table = raw.set_column(raw.column_names.index("text"), "text", texts).filter(kept)
    table = clean.clean(table, settings.cleaning, tally)
    if index:
        table = contamination.mark(table, _index(index), tally)
    table = table.filter(pc.is_null(table["removed"]))
    tally.add("documents cleaned", table.num_rows)
    tally.add("bytes cleaned", _bytes(table["text"]))
    texts = _one(table["text"])
    digests = hashes(texts)
    names = pc.coalesce(_one(table["id"]), pa.array([digest.hex() for digest in digests.to_pylist()], pa.large_string()))
    table = table.set_column(table.column_names.index("id"), "id", names).append_column("hash", digests)
    table = score.score(table, [_scorer(spec) for spec in settings.scorers])
    table = _sorted_by(table, settings, tally, place)
    texts = _one(table["text"])
    if settings.near_duplicates:
        # A list of any length: Parquet files with nulls among lists of one length cannot be read back.
        table = table.append_column("bands", pc.cast(minhash.bands(texts, settings.near), pa.list_(pa.uint64())))
    table = table.append_column("size", pc.cast(pc.binary_length(texts), pa.int64()))
    return table.append_column("tie", _ties(table)).drop_columns(["removed", "language"])


def hashes(texts: pa.LargeStringArray) -> pa.Array:
    """binary(16): `normalise.text_hash` of each text, read from the array's memory."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1].tolist() if len(texts) else [0]
    view = memoryview(data) if data else b""
    pairs = zip(bounds[:-1], bounds[1:], strict=True)
    made = b"".join(hashlib.blake2b(view[begin:end], digest_size=normalise.HASH_BYTES).digest() for begin, end in pairs)
    return pa.Array.from_buffers(pa.binary(normalise.HASH_BYTES), len(texts), [None, pa.py_buffer(made)])


def _sorted_by(table: pa.Table, settings: Settings, tally: Tally, place: str) -> pa.Table:
    """With `quality` as the score that orders the store, finite everywhere; a score of the data that does not is kept as score.quality."""
    if settings.sort_column != "quality" and settings.quality_field:
        table = table.append_column("score.quality", table["quality"])
    values = table[settings.sort_column] if settings.sort_column else pa.array(np.zeros(table.num_rows))
    table = table.set_column(table.column_names.index("quality"), "quality", pc.add(values, 0.0))  # -0.0 becomes 0.0
    valid = pc.fill_null(pc.is_finite(table["quality"]), False)
    missing = table.num_rows - (pc.sum(valid).as_py() or 0)
    if missing and settings.missing_quality == "error":
        name, wanted = table["id"].filter(pc.invert(valid))[0].as_py(), settings.sort_column
        wanted = settings.quality_field if wanted == "quality" else wanted
        raise PrepareError(f"{place}: document {name} has no finite {wanted}; fill the field or drop such documents with "
                           "--missing_quality=drop")  # fmt: skip
    tally.add("without quality", missing)
    return table.filter(valid) if missing else table


def _ties(table: pa.Table) -> pa.Array:
    """binary(8): a hash of what is not the text, so that the choice between documents of one text never depends on their place."""
    scores = [name for name in table.column_names if name.startswith("score.")]
    columns = [_one(table[name]) for name in ("id", "metadata", *scores)]
    columns = [pc.cast(column, pa.large_string()) for column in columns]
    joined = pc.binary_join_element_wise(*columns, pa.scalar("\x1f", pa.large_string()), null_handling="replace")
    made = b"".join(hashlib.blake2b(text.encode(), digest_size=TIE_BYTES).digest() for text in joined.to_pylist())
    return pa.Array.from_buffers(pa.binary(TIE_BYTES), table.num_rows, [None, pa.py_buffer(made)])


def _bytes(texts: pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(texts)).as_py() or 0


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


@functools.cache
def _index(path: str) -> contamination.Index:
    return contamination.load(path)


@functools.cache
def _scorer(spec: str):
    return score.parse(spec)


class _Writer:
    """Cuts a stream of tables into parts of about `size` bytes of text; numbers count up from `first`."""

    def __init__(self, name: str, first: int, size: int):
        self.name, self.first, self.size = name, first, size
        self.parts: list[Part] = []
        self.file, self.held, self.documents, self.bytes = None, [], 0, 0

    def add(self, table: pa.Table, input: int) -> None:
        for piece in _cut(table, self.size):
            if self.bytes and (self.bytes + piece.nbytes > self.size or self.documents + piece.num_rows > 1 << ROW_BITS):
                self.flush()
            if self.file is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self.file = pa.ipc.new_file(f"{self.name}-{len(self.parts)}.arrow", _TEXTS, options=options)
            self.file.write_table(piece.select(["text"]))
            uid = (self.first + len(self.parts) << ROW_BITS) + self.documents + np.arange(piece.num_rows)
            held = piece.drop_columns("text").append_column("uid", pa.array(uid)).append_column(
                "input", pa.array(np.full(piece.num_rows, input, np.int32)))  # fmt: skip
            self.held.append(held)
            self.documents += piece.num_rows
            self.bytes += int(pc.sum(piece["size"]).as_py() or 0)

    def flush(self) -> None:
        self.file.close()
        if len(self.parts) >= 1 << PART_BITS:
            raise PrepareError(f"one piece of input gives more than {1 << PART_BITS:,} parts of {self.size:,} bytes; split that file, or "
                               "raise --memory")  # fmt: skip
        name = f"{self.name}-{len(self.parts)}"
        pq.write_table(pa.concat_tables(self.held), name + ".parquet", compression="lz4")
        self.parts.append(Part(name, self.first + len(self.parts), self.documents, self.bytes))
        self.file, self.held, self.documents, self.bytes = None, [], 0, 0

    def close(self) -> list[Part]:
        if self.file is not None:
            self.flush()
        return self.parts


def _cut(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """One table, or its rows in a few, none much above `size` bytes unless one text is."""
    if table.num_rows <= 1 or table.nbytes <= size:
        if table.num_rows:
            yield table
        return
    half = table.num_rows // 2
    yield from _cut(table.slice(0, half), size)
    yield from _cut(table.slice(half), size)
