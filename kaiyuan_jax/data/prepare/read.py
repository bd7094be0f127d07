"""Reads raw text: Parquet, JSON lines (plain, .gz, .zst), text files, folders of those, and Hugging Face datasets (`hf:name:split`).

Every reader yields tables of the same three columns, a few MB at a time: id (null if no field gives one), text, quality (null if
unknown). Files are taken in the order of their names, never in the order in which a file system lists them.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax.config import UserError

COLUMNS = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("quality", pa.float64())])
JSON_LINES = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz", ".jsonl.zst", ".json.zst")
BATCH_BYTES = 4 << 20  # of text in one table
BATCH_ROWS = 4096


class ReadError(UserError):
    """Input that cannot be read; one line with the file, what was found and what to do."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names of the fields of a row; dots go into nested fields (`meta.score`); empty means there is none."""

    text: str = "text"
    quality: str = ""
    id: str = ""


@dataclasses.dataclass(frozen=True)
class Input:
    """One file or dataset. `name` is what the manifest records: relative, so that it does not depend on the machine."""

    name: str
    path: str
    kind: str  # parquet | json | text | hf

    def size(self) -> int:
        """Bytes on disk, for progress bars; 0 for a dataset."""
        return 0 if self.kind == "hf" else os.path.getsize(self.path)

    def checksum(self) -> str:
        """sha256 of the file, or the fingerprint of the dataset."""
        if self.kind == "hf":
            return _dataset(self.path)._fingerprint
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find(inputs: list[str]) -> tuple[list[Input], list[str]]:
    """Files named by the inputs, ordered by name, and the files of folders that were left out because they are not text.

    Raises `ReadError` for an input that does not exist, a file that is not text, or nothing found.
    """
    found, skipped = [], []
    for item in inputs:
        path = Path(item)
        if item.startswith("hf:"):
            found.append(Input(item, item, "hf"))
        elif path.is_dir():
            for file in sorted(path.rglob("*")):
                relative = file.relative_to(path)
                if not file.is_file() or any(part.startswith(".") for part in relative.parts):
                    continue
                kind = _kind(file)
                if kind:
                    found.append(Input(relative.as_posix(), str(file), kind))
                else:
                    skipped.append(relative.as_posix())
        elif path.is_file():
            kind = _kind(path)
            if not kind:
                raise ReadError(f"--input={item}: not UTF-8 text, Parquet or JSON lines; convert it first")
            found.append(Input(path.name, item, kind))
        else:
            raise ReadError(f"--input={item}: no such file or folder (a Hugging Face dataset is written hf:name or hf:name:split)")
    if not found:
        raise ReadError(f"--input={','.join(inputs)}: no text files found; expected Parquet, JSON lines or text")
    return sorted(found, key=lambda input: (input.name, input.path)), skipped


def read(input: Input, fields: Fields) -> Iterator[pa.Table]:
    """Tables of `COLUMNS` from one input; raises `ReadError` naming file and row."""
    reader = {"parquet": _parquet, "json": _json, "text": _text, "hf": _hugging_face}[input.kind]
    ids, texts, qualities, size = [], [], [], 0
    for row, (name, text, quality) in enumerate(reader(input, fields)):
        if text is None:
            continue
        if not isinstance(text, str):
            raise ReadError(f"{input.path}, row {row + 1}: field {fields.text!r} is {type(text).__name__}, must be text; set --text_field")
        if quality is not None:
            try:
                quality = float(quality)
            except (TypeError, ValueError):
                raise ReadError(f"{input.path}, row {row + 1}: quality {quality!r} is not a number; set --quality_field") from None
        ids.append(None if name is None else str(name))
        # JSON can carry halves of surrogate pairs, which are no characters.
        texts.append(text if text.isascii() else text.encode("utf-8", "replace").decode())
        qualities.append(quality)
        size += len(text)
        if size >= BATCH_BYTES or len(ids) >= BATCH_ROWS:
            yield pa.table([ids, texts, qualities], schema=COLUMNS)
            ids, texts, qualities, size = [], [], [], 0
    if ids:
        yield pa.table([ids, texts, qualities], schema=COLUMNS)


def _kind(path: Path) -> str:
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith(JSON_LINES):
        return "json"
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    if b"\0" in head:
        return ""
    try:
        # The last character may be cut by the end of what was read.
        head[: max(0, len(head) - 4)].decode("utf-8") if len(head) == 1 << 16 else head.decode("utf-8")
    except UnicodeDecodeError as error:
        return "text" if len(head) == 1 << 16 and error.start > len(head) - 9 else ""
    return "text"


def _text(input: Input, fields: Fields):
    del fields  # a text file is one document, named after itself
    try:
        yield input.name, Path(input.path).read_text(encoding="utf-8-sig"), None
    except UnicodeDecodeError as error:
        raise ReadError(f"{input.path}: not UTF-8 at byte {error.start:,}; convert it, for example with iconv") from None


def _follow(row, field: str, input: Input, number: int, flag: str):
    value = row
    for part in field.split("."):
        if isinstance(value, dict) and part not in value and flag != "--text_field":
            return None  # a row without its score or id: what a missing score means is for the caller to say
        if not isinstance(value, dict) or part not in value:
            here = ", ".join(sorted(value)) if isinstance(value, dict) else f"{type(value).__name__} {str(value)[:30]!r}"
            raise ReadError(f"{input.path}, row {number}: no field {field!r}; found {here}; set {flag}")
        value = value[part]
    return value


def _values(row, fields: Fields, input: Input, number: int):
    def value(field, flag):
        return _follow(row, field, input, number, flag) if field else None

    return value(fields.id, "--id_field"), value(fields.text, "--text_field"), value(fields.quality, "--quality_field")


def _json(input: Input, fields: Fields):
    try:
        with pa.input_stream(input.path, compression="detect") as stream:
            for number, line in enumerate(_lines(stream), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ReadError(f"{input.path}, line {number}: not JSON ({error}); one JSON object a line is expected") from None
                yield _values(row, fields, input, number)
    except (OSError, pa.ArrowException) as error:
        raise ReadError(f"{input.path}: cannot be read ({error}); truncated or not compressed as its name says?") from None


def _lines(stream) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _parquet(input: Input, fields: Fields):
    try:
        file = pq.ParquetFile(input.path)
        columns = file.schema_arrow.names
        for field, flag in ((fields.text, "--text_field"), (fields.quality, "--quality_field"), (fields.id, "--id_field")):
            if field and field.split(".")[0] not in columns:
                raise ReadError(f"{input.path}: no field {field!r}; found {', '.join(columns)}; set {flag}")
        wanted = sorted({field.split(".")[0] for field in (fields.text, fields.quality, fields.id) if field})
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield _values(row, fields, input, number)
    except (OSError, pa.ArrowException) as error:
        raise ReadError(f"{input.path}: cannot be read as Parquet ({error})") from None


def _dataset(item: str):
    try:
        import datasets
    except ImportError:
        raise ReadError(f"--input={item}: needs the package `datasets`; install it with pip install 'kaiyuan_jax[engine]'") from None
    name, *rest = item.removeprefix("hf:").split(":")
    subset, split = (rest[0] if len(rest) > 1 else None), (rest[-1] if rest else "train")
    try:
        return datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the package raises a dozen kinds, from network errors to unknown splits
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ReadError(f"--input={item}: {reason[0]}; check the name, the split and the network") from None


def _hugging_face(input: Input, fields: Fields):
    for number, row in enumerate(_dataset(input.path), 1):
        yield _values(row, fields, input, number)
