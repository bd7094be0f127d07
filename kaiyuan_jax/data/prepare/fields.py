"""Fields of a row by name or dotted path, in dictionaries and in Arrow tables, and the columns that every reader makes of them.

A field `a.b` is the column called `a.b`, or else field `b` of the object in column `a`. Text that is not there loses its row; a
quality that is not a finite number becomes null; both are counted, with the places of ten examples.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaiyuan_jax.data.prepare.inputs import Damaged, ReadError
from kaiyuan_jax.data.prepare.tally import Tally

COLUMNS = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("quality", pa.float64()), ("metadata", pa.large_string())])


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names of the fields of a row; dots go into nested fields (`meta.score`); empty means there is none."""

    text: str = "text"
    quality: str = ""
    id: str = ""
    metadata: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.text or not all(self.metadata):
            raise ReadError(f"--text_field={self.text!r}, --metadata_fields={','.join(self.metadata)!r}: a name is empty; name a field")

    def flags(self) -> list[tuple[str, str]]:
        """(field, flag that sets it) of all that are set."""
        named = [(self.text, "--text_field"), (self.quality, "--quality_field"), (self.id, "--id_field")]
        return [(field, flag) for field, flag in named if field] + [(field, "--metadata_fields") for field in self.metadata]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file may ask of memory."""

    document_bytes: int = 64 << 20  # of a text, or of a line of JSON
    expansion: int = 200  # bytes decompressed per byte stored, once `EXPANSION_FROM` bytes are out


EXPANSION_FROM = 64 << 20


def lost(tally: Tally, reason: str, places: list[str]) -> None:
    """Counts rows that give no document."""
    tally.add(f"read: {reason}", len(places), places)
    tally.add("read: rows lost", len(places))


def absent(path: str, field: str, flag: str, found: list[str]) -> ReadError:
    """The error for a field that is nowhere, with those that are and the nearest of them."""
    shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    folded = {name.lower(): name for name in found}
    near = [folded[name] for name in difflib.get_close_matches(field.lower(), list(folded), n=2, cutoff=0.6)]
    ends = [name for name in found if name.split(".")[-1].lower() == field.split(".")[-1].lower()]
    suggested = list(dict.fromkeys(near + ends))[:3]
    hint = f"; did you mean {' or '.join(map(repr, suggested))}?" if suggested else ""
    return ReadError(f"{path}: no field {field!r}; found {shown or 'none'}{hint}; set {flag}")


def follow(row: dict, field: str):
    """The value of a field of a row, None if it is null or not there."""
    if row.get(field) is not None or "." not in field:
        return row.get(field)
    value = row
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def has(row: dict, field: str) -> bool | None:
    """Whether a row has a field, be it null; None if what would hold it is null, which says nothing."""
    if field in row:
        return True
    for part in field.split("."):
        if row is None:
            return None
        if not isinstance(row, dict) or part not in row:
            return False
        row = row[part]
    return True


def names(row: dict, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a row, ten levels deep."""
    found = []
    for key, value in row.items():
        found.append(prefix + key)
        if isinstance(value, dict) and prefix.count(".") < 9:
            found += names(value, f"{prefix}{key}.")
    return found


def as_characters(text: str) -> str:
    """JSON can carry halves of surrogate pairs, which are no characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def as_json(value) -> str:
    """Canonical JSON of a value, whatever its type."""
    try:
        text = _encode(value)
    except (ValueError, TypeError, RecursionError):
        text = _encode(_finite(value))
    return as_characters(text)


def _plain(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain).encode


def _finite(value, depth: int = 0):
    """JSON has no NaN; keys of mixed types cannot be sorted; what is nested too deep is left out."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item, depth + 1) for key, item in value.items()} if depth < 100 else None
    if isinstance(value, list | tuple):
        return [_finite(item, depth + 1) for item in value] if depth < 100 else None
    if isinstance(value, int) and value.bit_length() > 10_000:
        return None
    return value


def as_name(value) -> str | None:
    """An id: a string as it is, anything else as JSON."""
    return value if value is None else as_characters(value) if isinstance(value, str) else as_json(value)


def resolve(schema: pa.Schema, field: str) -> list[str] | None:
    """Where a field lies in a schema: [column, field of its struct, ...], None if nowhere."""
    if field in schema.names:
        return [field]
    parts = field.split(".")
    if parts[0] not in schema.names:
        return None
    type = schema.field(parts[0]).type
    for part in parts[1:]:
        if not pa.types.is_struct(type) or type.get_field_index(part) < 0:
            return None
        type = type.field(part).type
    return parts


def schema_names(schema: pa.Schema) -> list[str]:
    """Dotted names of all fields of a schema."""

    def walk(field: pa.Field, prefix: str):
        yield prefix + field.name
        if pa.types.is_struct(field.type):
            for index in range(field.type.num_fields):
                yield from walk(field.type.field(index), f"{prefix}{field.name}.")

    return [name for field in schema for name in walk(field, "")]


def column(batch: pa.RecordBatch, place: list[str]) -> pa.Array:
    """The values of a resolved field."""
    values = batch.column(batch.schema.names.index(place[0]))
    for part in place[1:]:
        values = pc.struct_field(values, [values.type.get_field_index(part)])
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def as_names(values: pa.Array) -> pa.Array:
    """Ids, as large_string."""
    if _is_text(values.type) or pa.types.is_integer(values.type):
        return values.cast(pa.large_string())
    return pa.array([as_name(value) for value in values.to_pylist()], pa.large_string())


def as_metadata(columns: dict[str, pa.Array], rows: int) -> pa.Array:
    """JSON objects of the chosen fields, null if none is chosen; large_string."""
    if not columns:
        return pa.nulls(rows, pa.large_string())
    values = zip(*(values.to_pylist() for values in columns.values()), strict=True)
    return pa.array([as_json(dict(zip(columns, row, strict=True))) for row in values], pa.large_string())


def as_texts(values: pa.Array, name: str, field: str) -> tuple[pa.Array, list[int]]:
    """(texts as large_string, rows that are no UTF-8 and became null); raises `Damaged` if the type holds no text."""
    type = values.type
    if pa.types.is_null(type):
        return values.cast(pa.large_string()), []
    if not _is_text(type) and not (pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_binary_view(type)):
        raise Damaged(name, f"field {field!r} is {type}, must be text; set --text_field if the texts have another name")
    values = values.cast(pa.large_binary())
    try:
        return values.cast(pa.large_string()), []  # checks UTF-8, which Parquet does not
    except pa.ArrowInvalid:
        texts, wrong = values.to_pylist(), []
        for row, text in enumerate(texts):
            try:
                texts[row] = text if text is None else text.decode()
            except UnicodeDecodeError:
                texts[row] = None
                wrong.append(row)
        return pa.array(texts, pa.large_string()), wrong


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)


def documents(
    text: pa.Array,
    quality: pa.Array | None,
    id: pa.Array | None,
    metadata: pa.Array,
    wrong: list[int],
    place: Callable[[int], str],
    limits: Limits,
    tally: Tally,
) -> pa.Table:
    """A table of `COLUMNS` from columns as read, without the rows that have no text; `wrong` rows have one that is not UTF-8.

    `place(row)` names a row in examples.
    """
    rows = len(text)
    if rows:
        tally.add("read: rows", rows)
    sizes = pc.binary_length(text).fill_null(-1).to_numpy(zero_copy_only=False)
    missing, long = np.setdiff1d(np.flatnonzero(sizes < 0), wrong), np.flatnonzero(sizes > limits.document_bytes)
    for reason, which in (("not UTF-8", wrong), ("no text", missing), ("longer than the limit", long)):
        if len(which):
            lost(tally, reason, [place(int(row)) for row in which])
    quality = pa.nulls(rows, pa.float64()) if quality is None else quality
    id = pa.nulls(rows, pa.large_string()) if id is None else id
    kept = np.flatnonzero((sizes >= 0) & (sizes <= limits.document_bytes))
    if len(kept) < rows:
        text, quality, id, metadata = (values.take(pa.array(kept)) for values in (text, quality, id, metadata))
    count_nul(text, lambda row: place(int(kept[row])), tally)
    quality = _numbers(quality, lambda row: place(int(kept[row])), tally)
    return pa.table([id, text, quality, metadata], schema=COLUMNS)


def count_nul(text: pa.Array, place: Callable[[int], str], tally: Tally) -> None:
    """Counts texts that hold NUL characters; they are kept, and normalising takes the characters out."""
    data = text.buffers()[2]
    if data is not None and data.size and not np.frombuffer(data, np.uint8).min():
        rows = np.flatnonzero(pc.match_substring(text, "\0").fill_null(False).to_numpy(zero_copy_only=False))
        if len(rows):
            tally.add("read: NUL characters", len(rows), [place(int(row)) for row in rows])


def _numbers(values: pa.Array, place: Callable[[int], str], tally: Tally) -> pa.Array:
    type = values.type
    if not (pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type) or pa.types.is_null(type)):
        rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        if len(rows):
            tally.add("read: quality is not a number", len(rows), [f"{place(int(row))}: {str(values[int(row)])[:80]!r}" for row in rows])
        return pa.nulls(len(values), pa.float64())
    values = values.cast(pa.float64(), safe=False)  # whole numbers above 2**53 are rounded
    infinite = pc.invert(pc.is_finite(values)).fill_null(False)
    rows = np.flatnonzero(infinite.to_numpy(zero_copy_only=False))
    if len(rows):
        tally.add("read: quality is not finite", len(rows), [f"{place(int(row))}: {values[int(row)].as_py()}" for row in rows])
        values = pc.if_else(infinite, pa.scalar(None, pa.float64()), values)
    return values
