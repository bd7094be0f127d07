"""Reads raw text: Parquet, Arrow, JSON lines (plain, .gz, .zst) and text files, a piece of a file at a time.

Every reader yields tables of the same four columns (`COLUMNS`), at most 4 MB of text or 4096 rows each (one longer text is a table of
its own). A file is read in pieces that workers share: row groups of Parquet, record batches of Arrow, bytes of JSON lines, where a
line belongs to the piece in which it begins. Pieces of any size give the rows, counts and examples of the whole file. A row that gives
no document is counted under the reason, with its place: the row of a table, the byte at which a line begins (`tail -c +BYTE+1`).
"""

import dataclasses
import errno
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaiyuan_jax.data.prepare import columnar, json_lines
from kaiyuan_jax.data.prepare import fields as F
from kaiyuan_jax.data.prepare.fields import COLUMNS, EXPANSION_FROM, Fields, Limits
from kaiyuan_jax.data.prepare.inputs import Damaged, Input, ReadError, Unreachable, checksum, find, opened, unreachable
from kaiyuan_jax.data.prepare.tally import Tally

__all__ = ["COLUMNS", "Damaged", "Fields", "Input", "Limits", "Piece", "ReadError", "Unreachable", "checksum", "find", "pieces", "read"]
TABLE_BYTES = 4 << 20  # of text in one table
TABLE_ROWS = 4096
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "Parquet", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Piece:
    """[start, stop) of one input, to be read alone: row groups, record batches or bytes, by its kind; (0, 0) is the whole."""

    input: Input
    start: int
    stop: int


def pieces(input: Input, size: int) -> list[Piece]:
    """An input in pieces of about `size` bytes, in order. A damaged file is one piece: reading it says what is wrong."""
    ranges = [(0, 0)]
    try:
        if input.kind == "parquet" and input.bytes:
            ranges = columnar.parquet_ranges(input, size)
        elif input.kind == "arrow" and input.bytes:
            ranges = columnar.arrow_ranges(input, size)
        elif input.kind == "json" and not _packed(input):
            ranges = [(start, min(start + size, input.bytes)) for start in range(0, input.bytes, size)] or ranges
    except (pa.ArrowException, OSError):
        pass
    return [Piece(input, start, stop) for start, stop in ranges]


def read(piece: Piece, fields: Fields, limits: Limits, tally: Tally) -> Iterator[pa.Table]:
    """Tables of `COLUMNS`, in the order of the file.

    Raises `Damaged` for a file that cannot be read to its end (after the tables before that place), `Unreachable` for one that cannot be
    reached, `ReadError` for fields that are not there. Counts `read: rows`, `read: rows lost`, also by reason, and `read: empty files`.
    """
    input = piece.input
    if not input.bytes:
        tally.add("read: empty files", 1, [input.name])
        return
    reader = {"parquet": columnar.parquet, "arrow": columnar.arrow, "json": _json, "text": _text}[input.kind]
    try:
        for table in reader(input, piece.start, piece.stop, fields, limits, tally):
            yield from _cut(table)
    except (OSError, EOFError, pa.ArrowException) as error:
        # Arrow's errors have no number, except for a place before the beginning, to which only a damaged file points.
        if getattr(error, "errno", None) not in (None, errno.EINVAL) or isinstance(error, ConnectionError | TimeoutError):
            raise unreachable(input.path, error) from None
        kind = "JSON lines" if input.kind == "json" else input.kind.capitalize()
        reason = " ".join(str(error).split())[:200]
        raise Damaged(input.path, f"cannot be read as {kind} ({reason}); truncated, or not what its name says?") from None


def _packed(input: Input) -> str:
    return _PACKED.get(input.path[input.path.rfind(".") :].lower(), "")


def _cut(table: pa.Table) -> Iterator[pa.Table]:
    ends = np.cumsum(pc.binary_length(table["text"]).to_numpy())
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + TABLE_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + TABLE_ROWS)
        yield table.slice(start, stop - start)
        start = stop


def _text(input: Input, start: int, stop: int, fields: Fields, limits: Limits, tally: Tally) -> Iterator[pa.Table]:
    """The whole file is one document, named after itself; it has no fields."""
    if input.bytes > limits.document_bytes:
        tally.add("read: rows")
        F.lost(tally, "longer than the limit", [input.name])
        return
    with opened(input.path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Damaged(input.path, f"not UTF-8 at byte {error.start:,}; convert it, for example with iconv") from None
    string = pa.large_string()
    columns = pa.array([text], string), None, pa.array([input.name], string), pa.nulls(1, string)
    yield F.documents(*columns, [], lambda _: input.name, limits, tally)


def _json(input: Input, start: int, stop: int, fields: Fields, limits: Limits, tally: Tally) -> Iterator[pa.Table]:
    if not start:
        _check_head(input, fields, limits)
    empty = True
    with _stream(input, limits) as stream:
        if start:
            stream.seek(start - 1)
        for offset, block in json_lines.blocks(stream, start, stop or None, limits.document_bytes):
            empty = False
            if block is None:
                tally.add("read: rows")
                F.lost(tally, "longer than the limit", [f"{input.name}, byte {offset}"])
                continue
            if not offset and block.startswith(_BOM):
                offset, block = len(_BOM), block[len(_BOM) :]
            yield json_lines.parse(block, offset, input.name, fields, limits, tally)
    if empty and _packed(input):
        tally.add("read: empty files", 1, [input.name])


def _check_head(input: Input, fields: Fields, limits: Limits) -> None:
    """Looks at the first 4 MB for what no row can be right with: another format, or a field that none of them has."""
    with _stream(input, limits) as stream:
        head = stream.read(json_lines.BLOCK)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            raise Damaged(input.path, f"is {kind}, which its name does not say; rename or convert it")
    first = head.removeprefix(_BOM).lstrip()[:1024].split(b"\n")[0].strip()
    if first in (b"[", b"{") or first.startswith(b"[{"):
        raise Damaged(input.path, "is one JSON value over many lines, not one object a line; convert it, for example with jq -c '.[]'")
    wrong = json_lines.missing(head, fields)
    if wrong:
        raise F.absent(input.path, *wrong)


class _Expanding(io.RawIOBase):
    """A decompressed stream that ends in an error once it grows out of proportion to what is stored."""

    def __init__(self, input: Input, codec: str, limits: Limits):
        self.path, self.expansion, self.out = input.path, limits.expansion, 0
        self.stored = columnar.source(input)
        self.stream = pa.CompressedInputStream(self.stored, codec)

    def read(self, size: int = -1) -> bytes:
        chunk = self.stream.read(size)
        self.out += len(chunk)
        if self.out > EXPANSION_FROM and self.out > self.expansion * self.stored.tell():
            raise Damaged(self.path, f"decompresses to more than {self.expansion} times its bytes; a decompression bomb?")
        return chunk

    def close(self) -> None:
        self.stored.close()
        super().close()


def _stream(input: Input, limits: Limits):
    codec = _packed(input)
    return _Expanding(input, codec, limits) if codec else opened(input.path)
