"""Quality scores of documents: several a document, each a column `score.<name>`; one of them may be the key that a store is sorted by.

    heuristic[:kind]                 features and faults of the text, in [0, 1] (quality.py); kind: prose, code, chinese, or guessed
    fasttext:MODEL.bin:LABEL         a fastText classifier's probability of a label (fasttext_model.py; launch/train_classifier.py)
    onnx:FOLDER[:LABEL]              a Hugging Face sequence classifier exported to ONNX (onnx_classifier.py)
    file:SCORES.parquet:COLUMN[:id]  a number computed elsewhere, looked up by `hash`, the 16 bytes that name a normalised text
                                     (launch/score_documents.py writes such files), or by `id`

A name before the kind, as in `edu=fasttext:edu.bin:hq`, names the column; without one it is the kind, or the column of a file. The
column that came with the data needs no scorer: reading leaves it as `quality`.

By `hash`, a file's scores are found where cleaning left a text as it was in the file; where it masked or cut, take them by `id`. What is
not found, and what is not a finite number, is null. A file is held in memory by every process: 24 bytes a row.
"""

import dataclasses
import functools
import hashlib
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import fasttext_model, onnx_classifier, quality
from kaiyuan_jax.data.prepare.normalise import HASH_BYTES, normalise_text, text_hash

KINDS = ("prose", "code", "chinese")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_FORMS = "heuristic[:kind], fasttext:model.bin:label, onnx:folder[:label] or file:scores.parquet:column[:id], each after name= if wanted"


class ScoreError(UserError):
    """A scorer that cannot be used; one line."""


@dataclasses.dataclass(frozen=True)
class Heuristic:
    name: str
    kind: str = ""  # prose, code or chinese; empty: guessed for each text

    def check(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise ScoreError(f"kind of text {self.kind!r}, must be {', '.join(KINDS)}, or left out to have it guessed")

    def values(self, documents: pa.Table) -> list[float | None]:
        return [quality.score(text, self.kind) for text in documents["text"].to_pylist()]

    def files(self) -> list[str]:
        return []


@dataclasses.dataclass(frozen=True)
class FastText:
    name: str
    path: str
    label: str  # without __label__

    def check(self) -> None:
        _need_label(self.label, fasttext_model.read_labels(self.path), self.path)
        fasttext_model.library()

    def values(self, documents: pa.Table) -> list[float | None]:
        return fasttext_model.apply(self.path, self.label, documents["text"].to_pylist())

    def files(self) -> list[str]:
        return [self.path]


@dataclasses.dataclass(frozen=True)
class Onnx:
    name: str
    folder: str
    label: str = ""  # may be empty for a model with one output

    def check(self) -> None:
        labels = onnx_classifier.load(self.folder).labels
        if self.label or len(labels) > 1:
            _need_label(self.label, labels, self.folder)

    def values(self, documents: pa.Table) -> list[float | None]:
        return onnx_classifier.load(self.folder).scores(documents["text"].to_pylist(), self.label).tolist()

    def files(self) -> list[str]:
        return [os.path.join(self.folder, name) for name in onnx_classifier.FILES]


@dataclasses.dataclass(frozen=True)
class File:
    name: str
    path: str
    column: str
    key: str = "hash"  # or id

    def check(self) -> None:
        schema = _schema(self.path)
        numbers = [field.name for field in schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)]
        if self.column not in numbers:
            raise ScoreError(f"{self.path}: no column of numbers {self.column!r}; found {', '.join(numbers) or 'none'}")
        if self.key not in schema.names:
            raise ScoreError(f"{self.path}: no column {self.key!r} to look scores up by; found {', '.join(schema.names)}")
        if self.key == "hash" and schema.field("hash").type != pa.binary(HASH_BYTES):
            raise ScoreError(f"{self.path}: column hash is {schema.field('hash').type}, must be 16 bytes; see launch/score_documents.py")
        _lookup(self.path, self.column, self.key, os.stat(self.path).st_mtime_ns)

    def values(self, documents: pa.Table) -> list[float | None]:
        known, scores = _lookup(self.path, self.column, self.key, os.stat(self.path).st_mtime_ns)
        keys = _hash_keys(documents) if self.key == "hash" else [_id_key(name) for name in documents["id"].to_pylist()]
        wanted = np.array(keys, f"S{HASH_BYTES}")
        if not len(known) or not len(wanted):
            return [None] * len(wanted)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, scores[place], np.nan).tolist()

    def files(self) -> list[str]:
        return [self.path]


Scorer = Heuristic | FastText | Onnx | File


def parse(spec: str) -> Scorer:
    """The scorer that a flag describes; nothing is opened. Raises `ScoreError` for what is not one of the forms above."""
    name, equals, rest = spec.partition("=")
    if not equals or ":" in name:  # an = further on belongs to a path
        name, rest = "", spec
    elif not _NAME.fullmatch(name):
        raise ScoreError(f"--scores={spec}: name {name!r}, must be letters, digits, _ and -")
    kind, _, details = rest.partition(":")
    match kind, details.split(":"):
        case "heuristic", [kind_of_text]:
            return Heuristic(name or "heuristic", kind_of_text)
        case "fasttext", [path, label] if path and label:
            return FastText(name or "fasttext", path, label.removeprefix(fasttext_model.LABEL))
        case "onnx", [folder, *label] if folder and len(label) <= 1:
            return Onnx(name or "onnx", folder, *label)
        case "file", [path, column] if path and column:
            return File(_name_of(spec, name or column), path, column)
        case "file", [path, column, ("id" | "hash") as key] if path and column:
            return File(_name_of(spec, name or column), path, column, key)
        case "fasttext", [path] if path:
            found = fasttext_model.read_labels(path) if os.path.isfile(path) else []
            raise ScoreError(f"--scores={spec}: no label; write fasttext:{path}:LABEL" + (f", of {_listed(found)}" if found else ""))
    raise ScoreError(f"--scores={spec}: not a scorer; write {_FORMS}")


def problems(specs: tuple[str, ...]) -> list[str]:
    """Every mistake, one line each: forms, names used twice, files missing or broken, labels and columns that are not there."""
    found, names = [], {}
    for spec in specs:
        try:
            scorer = parse(spec)
        except UserError as error:
            found.append(str(error))
            continue
        if scorer.name in names:
            found.append(f"--scores={spec}: the name {scorer.name!r} is also that of {names[scorer.name]}; write othername={_plain(spec)}")
        names.setdefault(scorer.name, spec)
        try:
            scorer.check()
        except UserError as error:
            found.append(f"--scores={spec}: {error}")
    return found


def score(table: pa.Table, scorers: tuple[Scorer, ...]) -> pa.Table:
    """The documents with a float64 column `score.<name>` for each scorer, in their order; rows that are `removed` get null.

    Needs `text`, and `id` where a file is joined by it; `hash` is computed where the table has none. A row's scores depend on that row
    alone. Raises `ScoreError` for a name used twice or a column that is already there.
    """
    kept = np.ones(len(table), bool)
    if "removed" in table.column_names:
        kept = table["removed"].is_null().to_numpy()
    documents = table.filter(pa.array(kept))
    for scorer in scorers:
        column = f"score.{scorer.name}"
        if column in table.column_names:
            raise ScoreError(f"--scores: two scorers are named {scorer.name!r}; put another name= before one")
        values = np.full(len(table), np.nan)
        values[kept] = np.array(scorer.values(documents), np.float64)  # None becomes NaN
        table = table.append_column(pa.field(column, pa.float64()), pa.array(values, mask=~np.isfinite(values)))
    return table


def identity(scorer: Scorer) -> dict:
    """What decides its values, JSON-able: its kind, its fields and the sha256 of its files; for manifests and for resuming."""
    checksums = {}
    for path in scorer.files():
        with open(path, "rb") as file:
            checksums[os.path.basename(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    fields = {key: value for key, value in vars(scorer).items() if key not in ("path", "folder")}
    return {"scorer": type(scorer).__name__.lower(), **fields, "files": checksums}


def _name_of(spec: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ScoreError(f"--scores={spec}: the column {name!r} cannot name a score; write name=file:...")
    return name


def _plain(spec: str) -> str:
    name, equals, rest = spec.partition("=")
    return rest if equals and ":" not in name else spec


def _listed(labels) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")


def _need_label(label: str, labels, path: str) -> None:
    if label not in labels:
        raise ScoreError(f"{path}: no label {label!r}; found {_listed(labels) or 'none'}")


def _hash_keys(documents: pa.Table) -> list[bytes]:
    if "hash" in documents.column_names:
        return documents["hash"].to_pylist()
    return [text_hash(normalise_text(text)) for text in documents["text"].to_pylist()]


def _id_key(name: str | None) -> bytes:
    return b"" if name is None else text_hash(name)


def _schema(path: str) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ScoreError(f"{path}: cannot be read as Parquet ({reason})") from None


@functools.lru_cache(maxsize=4)
def _lookup(path: str, column: str, key: str, changed: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys S16 ascending, scores float64, NaN for null) of a file. Raises `ScoreError` where a key has two scores."""
    try:
        table = pq.read_table(path, columns=[key, column])
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    table = table.filter(table[key].is_valid())
    values = table[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    if key == "hash":
        keys = np.frombuffer(b"".join(table[key].to_pylist()), f"S{HASH_BYTES}")
    else:
        keys = np.array([_id_key(str(name)) for name in table[key].to_pylist()], f"S{HASH_BYTES}")
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    same = keys[1:] == keys[:-1]
    clash = same & (values[1:] != values[:-1]) & ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
    if clash.any():
        first = table[key][int(order[int(np.flatnonzero(clash)[0])])].as_py()
        shown = first.hex() if isinstance(first, bytes) else repr(first)
        raise ScoreError(f"{path}: {key} {shown} has two values of {column}; give each {key} one row")
    return keys, values
