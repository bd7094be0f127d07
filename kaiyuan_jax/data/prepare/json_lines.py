"""JSON lines, in blocks of whole lines: twice as fast as Python's parser where Arrow's takes the block, and the same rows either way.

A block goes to Arrow's parser if that cannot change the result, and to Python's, line by line, if Arrow refuses it. What makes both
equal: Arrow stops at no line ends, so each line must begin with `{` and end with `}` (then no object crosses a line end, because a
string holds no raw newline and after `}` no value begins inside an object) and there must be as many objects as lines. What Arrow
takes and Python does not (`Inf`, nesting of thousands) is taken in both ways: such a line is shown to Arrow alone.
"""

import functools
import io
import itertools
import json
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from kaiyuan_jax.data.prepare import fields as F
from kaiyuan_jax.data.prepare.fields import Fields, Limits
from kaiyuan_jax.data.prepare.tally import Tally

BLOCK = 4 << 20  # bytes read at a time
_BLANK = b" \t\r"
TYPES = (pa.large_string(), pa.int64())  # of ids and metadata that Arrow's parser is asked for


def _int(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # thousands of digits
        return float(digits)


_decode = json.JSONDecoder(parse_int=_int).decode


def blocks(stream: BinaryIO, start: int, stop: int | None, limit: int, block: int = BLOCK) -> Iterator[tuple[int, bytes | None]]:
    """(offset, whole lines) of the lines that begin in [start, stop) of a stream that stands at `start`, or one byte before it.

    A line longer than `limit` bytes is passed over without holding it and given as (offset, None). `start` > 0 means that the stream
    stands at `start - 1`: unless that byte ends a line, the first line is another piece's.
    """
    position = max(start - 1, 0)  # of the first byte in `held`, or of the line passed over
    held: list[bytes] = []
    size = 0
    skipping = start > 0  # the end of the line before
    long = False  # the line passed over is ours, and too long
    while True:
        chunk = stream.read(block)
        if not chunk:
            break
        if skipping or long:
            end = chunk.find(b"\n")
            if end < 0:
                size += len(chunk)
                continue
            if long:
                yield position, None
            position += size + end + 1
            chunk, size, skipping, long = chunk[end + 1 :], 0, False, False
        if stop is not None and not size and position >= stop:
            return
        end = chunk.rfind(b"\n")
        if end < 0:
            held.append(chunk)
            size += len(chunk)
            if size > limit:
                held, long = [], True
            continue
        whole = b"".join((*held, chunk[: end + 1]))
        if stop is not None and position + len(whole) > stop:
            # The last of our lines is the one that holds byte stop - 1.
            cut = whole.find(b"\n", max(stop - 1 - position, 0)) + 1
            yield position, whole[:cut]
            return
        yield position, whole
        position += len(whole)
        if stop is not None and position >= stop:
            return
        held, size = [chunk[end + 1 :]], len(chunk) - end - 1
        if size > limit:
            held, long = [], True
    if long:
        yield position, None
    elif size and not skipping and (stop is None or position < stop):
        yield position, b"".join(held)


def parse(block: bytes, offset: int, name: str, fields: Fields, limits: Limits, tally: Tally) -> pa.Table:
    """The documents of a block of whole lines that begins at byte `offset` of file `name`."""
    columns = _fast(block, fields, _types(block, fields)) if len(block) <= min(limits.document_bytes, 64 << 20) else None
    if columns is None:
        return slow(block, offset, name, fields, limits, tally)

    @functools.cache
    def ends():
        return np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))

    def place(row: int) -> str:
        return f"{name}, byte {offset + (int(ends()[row - 1]) + 1 if row else 0)}"

    return F.documents(*columns, [], place, limits, tally)


def slow(block: bytes, offset: int, name: str, fields: Fields, limits: Limits, tally: Tally) -> pa.Table:
    """As `parse`, line by line: it knows what is wrong with a line."""
    texts, qualities, ids, metadata, places = [], [], [], [], []
    at = offset
    for line in block.split(b"\n"):
        place, size = at, len(line)
        at += size + 1
        if not line.strip(_BLANK):
            continue
        where = f"{name}, byte {place}"
        if size > limits.document_bytes:
            _refuse(tally, "longer than the limit", where)
            continue
        try:
            row = _decode(str(line, "utf-8"))
        except UnicodeDecodeError:
            _refuse(tally, "not UTF-8", where)
            continue
        except (ValueError, RecursionError) as error:
            columns = _alone(line, fields) if b"Inf" in line or isinstance(error, RecursionError) else None
            if columns is None:
                _refuse(tally, "not JSON", f"{where}: {error}")
                continue
            text, quality, id, extra = (None if values is None else values[0].as_py() for values in columns)
        else:
            if not isinstance(row, dict):
                _refuse(tally, "not a JSON object", f"{where}: {line[:80].decode('utf-8', 'ignore')}")
                continue
            text, quality = F.follow(row, fields.text), F.follow(row, fields.quality) if fields.quality else None
            id = F.as_name(F.follow(row, fields.id)) if fields.id else None
            extra = F.as_json({field: F.follow(row, field) for field in fields.metadata}) if fields.metadata else None
        if text is not None and not isinstance(text, str):
            _refuse(tally, "text is not text", f"{where}: {type(text).__name__} {str(text)[:80]}")
            continue
        texts.append(text)
        qualities.append(_number(quality, where, tally) if text is not None else None)
        ids.append(id)
        metadata.append(extra)
        places.append(where)
    string = pa.large_string()
    try:
        text = pa.array(texts, string)
    except UnicodeEncodeError:
        text = pa.array([text if text is None else F.as_characters(text) for text in texts], string)
    columns = pa.array(qualities, pa.float64()), pa.array(ids, string), pa.array(metadata, string)
    return F.documents(text, *columns, [], places.__getitem__, limits, tally)


def _refuse(tally: Tally, reason: str, place: str) -> None:
    tally.add("read: rows")
    F.lost(tally, reason, [place])


def _number(value, where: str, tally: Tally) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    if value is not None:
        tally.add("read: quality is not a number", 1, [f"{where}: {str(value)[:80]!r}"])
    return None


def _alone(line: bytes, fields: Fields):
    """`_fast` for one line that Python refuses, whatever the types of its id and metadata."""
    every = itertools.product(TYPES, repeat=len(_typed(fields)))
    return next(filter(None, (_fast(line.strip(_BLANK), fields, types) for types in every)), None)


def _typed(fields: Fields) -> list[str]:
    return [field for field in (fields.id, *fields.metadata) if field]


def _types(block: bytes, fields: Fields) -> list[pa.DataType] | None:
    """Types of id and metadata, which may be of any: the first row of the block is taken as the example."""
    wanted = _typed(fields)
    if not wanted:
        return []
    if len(wanted) > 6:
        return None  # `_alone` would try 2^7 combinations
    end = block.find(b"\n")
    try:
        row = _decode(str(block[: end if end >= 0 else None], "utf-8"))
    except (ValueError, RecursionError):
        return None
    values = [F.follow(row, field) if isinstance(row, dict) else None for field in wanted]
    # Floats are for Python's parser: it tells 1 from 1.0.
    known = {str: pa.large_string(), int: pa.int64(), type(None): pa.large_string()}
    types = [known.get(type(value)) for value in values]
    return types if all(types) else None


def _fast(block: bytes, fields: Fields, types):
    """(text, quality, id, metadata) as Arrow's parser reads them, None if it refuses the block or might read it in another way."""
    lines = _objects(block)
    schema = _schema(fields, types) if lines and types is not None else None
    if schema is None or not _is_utf8(block):
        return None
    read = pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = pa.json.read_json(pa.BufferReader(block), read_options=read, parse_options=options)
    except (pa.ArrowException, ValueError):
        return None
    if table.num_rows != lines:
        return None
    batch = table.combine_chunks().to_batches()[0]

    def values(field: str) -> pa.Array:
        whole = F.column(batch, [field])
        return pc.coalesce(whole, F.column(batch, field.split("."))) if "." in field else whole

    metadata = F.as_metadata({field: values(field) for field in fields.metadata}, lines)
    id = F.as_names(values(fields.id)) if fields.id else None
    return values(fields.text), values(fields.quality) if fields.quality else None, id, metadata


def _objects(block: bytes) -> int:
    """The number of lines, if each begins with `{` and ends with `}`, else 0."""
    if not block.startswith(b"{") or not block.endswith((b"}", b"}\n", b"}\r\n")) or b"\0" in block:
        return 0
    bytes = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(bytes[:-1] == ord("\n"))
    before = np.where(bytes[ends - 1] == ord("\r"), bytes[ends - 2], bytes[ends - 1])
    return len(ends) + 1 if (before == ord("}")).all() and (bytes[ends + 1] == ord("{")).all() else 0


def _is_utf8(block: bytes) -> bool:
    offsets = pa.py_buffer(np.array([0, len(block)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(block)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _schema(fields: Fields, types) -> pa.Schema | None:
    """What Arrow shall look for: every field by its whole name and by its path; None if one is asked for as two types."""
    tree: dict = {}
    wanted = [(fields.text, pa.large_string()), *zip(_typed(fields), types, strict=True)]
    if fields.quality:
        wanted.append((fields.quality, pa.float64()))
    for field, type in wanted:
        for path in {(field,), tuple(field.split("."))}:
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    return None
            if node.setdefault(path[-1], type) != type:
                return None
    return pa.schema(_struct(tree))


def _struct(tree: dict) -> list[pa.Field]:
    return [pa.field(name, pa.struct(_struct(node)) if isinstance(node, dict) else node) for name, node in tree.items()]


def missing(head: bytes, fields: Fields) -> tuple[str, str, list[str]] | None:
    """(field, its flag, names that are there) of the first field that no row of the beginning of a file has, if there are rows."""
    unseen, lacking, found = fields.flags(), set(), {}
    for line in io.BytesIO(head.removeprefix(b"\xef\xbb\xbf")):
        try:
            row = _decode(str(line, "utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            has = {field: F.has(row, field) for field, _ in unseen}
            unseen = [(field, flag) for field, flag in unseen if not has[field]]
            if not unseen:
                return None
            lacking.update(field for field, _ in unseen if has[field] is False)
            found |= dict.fromkeys(F.names(row) or ["nothing"])
    return next(((field, flag, list(found)) for field, flag in unseen if field in lacking), None)
