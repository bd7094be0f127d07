"""A store: one source of text, tokenised once, in ascending quality.

    tokens/             flat zarr3 array (tensorstore), uint16 if the vocabulary fits, else uint32; every document ends with one
                        end-of-document token
    documents.parquet   one row a document: offset, length (tokens, with the end-of-document token), quality, bytes (of UTF-8 text),
                        copies (documents of its duplicate cluster, itself included), id; perhaps `score.NAME` and metadata;
                        ascending by quality, equal quality by a seeded hash
    tokenizer.json      what made the tokens and reads them back
    manifest.json       written last: counts, checksums; a folder without it is not a store

Sequence j of length L is tokens [jL, (j+1)L], L + 1 of them, so that every token but the first is a target exactly once and a store
of T tokens has (T - 1) // L sequences. Rank in quality is token mass: token t lies at quantile t / T, whatever the documents' lengths.
A store holds no dates and no paths, and not even the names of the files that its text came from: the same documents give the same
bytes however they were cut into files. (What was read is in the report beside the store.) `store_write.py` writes stores.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import reprlib
import typing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

from kaiyuan_jax import json_text, storage
from kaiyuan_jax.config import UserError, has_type
from kaiyuan_jax.data import blocks, mapped, patience

SCHEMA = 2
SHARD = 1 << 24  # tokens in one file
SORT_KEY = "quality ascending, then keyed hash of the text"
COLUMNS = pa.schema(
    [("offset", pa.int64()), ("length", pa.int64()), ("quality", pa.float64()), ("bytes", pa.int64()), ("copies", pa.int64()),
     ("id", pa.large_string())]
)  # fmt: skip
ROW_GROUP = 16_384  # documents
LARGEST = 1 << 50  # tokens
DOCUMENTS_A_BYTE, EXPANSION, EXPANSION_FROM = 16, 100, 64 << 20  # of documents.parquet: beyond, it is not what it seems


class StoreError(UserError):
    """A store that must not be read (or written); one line with the folder, what was found and what to do."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store says about itself. `files` maps every other file of the folder to its size in bytes."""

    schema: int
    code_version: str
    tokens: int
    documents: int
    bytes: int  # UTF-8 bytes of all documents
    vocabulary: int  # entries of the tokenizer
    eod: int  # id of the end-of-document token
    dtype: str  # uint16 | uint32
    scored: bool  # False: no quality known, the order is the seeded hash alone
    sort_key: str
    seed: int
    fingerprint: str  # sha256 of tokenizer.json
    tokens_sha256: str  # of the sha256 of every shard's values, little-endian
    documents_sha256: str  # of documents.parquet
    files: dict[str, int]
    facts: dict  # free: settings and counts of the preparation


@dataclasses.dataclass(frozen=True)
class Documents:
    """The document table, n documents in ascending quality; a column is read when it is first asked for."""

    path: str
    count: int

    def __len__(self) -> int:
        return self.count

    @functools.cached_property
    def offset(self) -> np.ndarray:
        """int64 [n], first token."""
        return self.column("offset").to_numpy()

    @functools.cached_property
    def length(self) -> np.ndarray:
        """int64 [n], tokens including the end-of-document token."""
        return self.column("length").to_numpy()

    @functools.cached_property
    def quality(self) -> np.ndarray:
        """float64 [n]."""
        return self.column("quality").to_numpy()

    @functools.cached_property
    def bytes(self) -> np.ndarray:
        """int64 [n], UTF-8 bytes of the text."""
        return self.column("bytes").to_numpy()

    @functools.cached_property
    def copies(self) -> np.ndarray:
        """int64 [n], documents of the cluster of duplicates that this one stands for, itself included."""
        return self.column("copies").to_numpy()

    def column(self, name: str) -> pa.Array:
        """A column by name, such as `score.fluency`; KeyError with the names there are."""
        names = pq.read_schema(self.path).names
        if name not in names:
            raise KeyError(f"{self.path}: no column {name!r}; found {', '.join(names)}")
        with self._readable():
            values = pq.read_table(self.path, columns=[name], memory_map=True)[name].combine_chunks()
        if len(values) != self.count:
            raise StoreError(f"{self.path}: column {name} has {len(values):,} of {self.count:,} documents; prepare the source again")
        return values

    def id(self, document: int) -> str:
        """The id of one document; reads the row group that holds it."""
        group, row = divmod(int(document), ROW_GROUP)
        with self._readable():
            return self._ids(group)[row].as_py()

    @contextlib.contextmanager
    def _readable(self):
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise StoreError(f"{self.path}: cannot be read ({reason}); copy the store again or prepare it again") from None

    @functools.cached_property
    def _ids(self):
        # As a dictionary, so that one long id which all rows repeat is held once.
        file = pq.ParquetFile(self.path, memory_map=True, read_dictionary=["id"])
        return functools.lru_cache(maxsize=64)(lambda group: file.read_row_group(group, columns=["id"])["id"].combine_chunks())


@dataclasses.dataclass(frozen=True)
class Store:
    """An opened store. Cheap to pickle: files are opened again on first use in each process."""

    folder: str
    manifest: Manifest

    def __reduce__(self):
        return (Store, (self.folder, self.manifest))

    def __hash__(self) -> int:
        return hash((self.folder, self.manifest.tokens_sha256))

    @property
    def tokens(self) -> int:
        return self.manifest.tokens

    @property
    def scored(self) -> bool:
        return self.manifest.scored

    @property
    def eod(self) -> int:
        return self.manifest.eod

    @property
    def vocabulary(self) -> int:
        return self.manifest.vocabulary

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @functools.cached_property
    def _array(self) -> ts.TensorStore:
        return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{self.folder}/tokens"}}, read=True).result()

    @functools.cached_property
    def _mapped(self) -> mapped.MappedTokens | None:
        return mapped.open_mapped(f"{self.folder}/tokens", self.tokens, np.dtype(self.manifest.dtype))

    @functools.cached_property
    def _key(self) -> int:
        return blocks.new_key()

    @functools.cached_property
    def documents(self) -> Documents:
        return Documents(f"{self.folder}/documents.parquet", self.manifest.documents)

    def sequences(self, length: int) -> int:
        """Number of sequences of `length` tokens."""
        return max(0, (self.tokens - 1) // length)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as uint16 or uint32."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"{self.folder}: tokens [{start}, {stop}) asked for, the store has {self.tokens}")
        return patience.patiently(lambda: self._array[start:stop].read().result(), self.folder)

    def read_rows(self, sequences: np.ndarray, length: int) -> np.ndarray:
        """int32 [R, length + 1]: row i is sequence `sequences[i]` (int64 [R], any order, repeats allowed) and the token after it."""
        sequences = np.asarray(sequences, np.int64)
        if len(sequences) and not (0 <= sequences.min() and sequences.max() < self.sequences(length)):
            raise IndexError(f"{self.folder}: sequence {sequences.min()} or {sequences.max()} outside [0, {self.sequences(length)})")
        return patience.patiently(lambda: self._rows(sequences * length, length + 1), self.folder)

    def _rows(self, starts: np.ndarray, width: int) -> np.ndarray:
        if self._mapped is not None:
            return self._mapped.rows(starts, width)
        return blocks.rows(self._array, self._key, starts, width)

    def document_at(self, token):
        """Document that holds a token (int or int array): the inverse of `documents.offset`."""
        found = np.searchsorted(self.documents.offset, token, side="right") - 1
        return int(found) if np.ndim(found) == 0 else found

    def quality_quantile(self, document):
        """Token mass at the middle of a document (or of each document of an array): 0 worst, 1 best."""
        return (self.documents.offset[document] + self.documents.length[document] / 2) / self.tokens

    def tokenizer(self):
        """The `tokenizers.Tokenizer` that made the tokens."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(f"{self.folder}/tokenizer.json")


def fingerprint(tokenizer_json: str) -> str:
    """sha256 of a tokenizer.json: stores mix only if it is the same."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


def tie_break(text_hash: bytes, seed: int) -> bytes:
    """Keyed hash that orders documents of equal quality (and all documents of an unscored source)."""
    return hashlib.blake2b(text_hash, digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_digest(values: np.ndarray) -> bytes:
    """32 bytes that name the tokens of one shard."""
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<"), copy=False)).digest()


def token_type(vocabulary: int) -> np.dtype:
    """uint16 if the vocabulary fits, else uint32."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def _faults_that_pass_as_they_are(open_it):
    """Lets through the system's own error where it says nothing of the store and may be over soon: launchers start again on that."""

    @functools.wraps(open_it)
    def opened(*args, **options):
        try:
            return open_it(*args, **options)
        except StoreError as error:
            if error.__context__ is None or not storage.may_pass(error.__context__):
                raise
            raise error.__context__ from None

    return opened


@_faults_that_pass_as_they_are
def read_manifest(folder: str | os.PathLike) -> Manifest:
    """The manifest of a folder; `StoreError` if there is none or it is not one of ours."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        what = "no such folder" if not Path(folder).exists() else "manifest.json is missing, so this is not a finished store"
        raise StoreError(f"{folder}: {what}; prepare it with launch/prepare_data.py --output={folder}")
    try:
        fields = json_text.read(path)
        found = fields.get("schema")
    except (ValueError, OSError, AttributeError):
        raise StoreError(f"{folder}: manifest.json is not readable JSON; prepare the source again") from None
    if found != SCHEMA:
        raise StoreError(f"{folder}: manifest.json has schema {found!r}, this version reads {SCHEMA}; prepare the source again")
    names = {field.name for field in dataclasses.fields(Manifest)}
    if set(fields) != names:
        odd = ", ".join(sorted(names ^ set(fields)))
        raise StoreError(f"{folder}: manifest.json lacks or adds {odd}; prepare the source again")
    for name, kind in typing.get_type_hints(Manifest).items():
        if not (_is_sizes(fields[name]) if name == "files" else has_type(fields[name], kind)):
            raise StoreError(f"{folder}: manifest.json has {name} {reprlib.repr(fields[name])}, which is none; prepare the source again")
    manifest = Manifest(**fields)
    counts = 0 < manifest.documents <= manifest.tokens <= LARGEST and 0 <= manifest.eod < manifest.vocabulary <= 1 << 32
    if not (counts and manifest.dtype == token_type(manifest.vocabulary).name):
        raise StoreError(
            f"{folder}: manifest.json says {manifest.documents:,} documents, {manifest.tokens:,} {manifest.dtype} tokens, end "
            f"{manifest.eod} of {manifest.vocabulary:,}, which no store can have; prepare the source again"
        )
    return manifest


def _is_sizes(value) -> bool:
    return isinstance(value, dict) and all(has_type(size, int) and size >= 0 for size in value.values())


@_faults_that_pass_as_they_are
def open_store(folder: str | os.PathLike, *, vocabulary: int | None = None, fingerprint: str | None = None) -> Store:
    """Opens a store after the checks that need no pass over the tokens.

    Raises `StoreError` for a missing manifest or file, a file of another size, another tokenizer (than recorded, or than the
    `fingerprint` asked for), a vocabulary above the `vocabulary` asked for, NaN quality and documents that do not ascend or tile.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    inside = folder.resolve()
    for name in manifest.files:
        if Path(name).is_absolute() or ".." in Path(name).parts or not name.isprintable():
            raise StoreError(f"{folder}: manifest.json names the file {name!r}, outside the store; do not use this store")
    places = {parent: parent.resolve() for parent in {(folder / name).parent for name in manifest.files}}
    for name, size in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not places[path.parent].is_relative_to(inside):
            raise StoreError(f"{folder}: {name} is a link, which may lead anywhere; copy the store with its links followed (cp -rL)")
        if not path.is_file():
            raise StoreError(f"{folder}: {name} is missing; copy the store again or prepare it again")
        if path.stat().st_size != size:
            raise StoreError(
                f"{folder}: {name} has {path.stat().st_size:,} bytes where the manifest says {size:,} (truncated?); "
                "copy the store again or prepare it again"
            )
    shards = {f"tokens/c/{number}" for number in range(min(-(-manifest.tokens // SHARD), len(manifest.files)))}
    if missing := sorted(({"documents.parquet", "tokenizer.json", "tokens/zarr.json"} | shards) - manifest.files.keys()):
        raise StoreError(f"{folder}: manifest.json does not list {missing[0]}; prepare the source again")
    recorded = file_sha256(folder / "tokenizer.json")
    if recorded != manifest.fingerprint:
        raise StoreError(f"{folder}: tokenizer.json is not the tokenizer that made the tokens (sha256 {recorded[:12]}, manifest "
                         f"{manifest.fingerprint[:12]}); put the original back or prepare the source again")  # fmt: skip
    if fingerprint is not None and fingerprint != manifest.fingerprint:
        raise StoreError(f"{folder}: made with another tokenizer (fingerprint {manifest.fingerprint[:12]}, expected {fingerprint[:12]}); "
                         "prepare it with --tokenizer=<the other store>/tokenizer.json")  # fmt: skip
    if vocabulary is not None and manifest.vocabulary > vocabulary:
        raise StoreError(f"{folder}: tokens come from a vocabulary of {manifest.vocabulary:,}, the model has {vocabulary:,}; "
                         f"set model.vocabulary to at least {manifest.vocabulary}")  # fmt: skip
    store = Store(str(folder), manifest)
    _check_documents(store)
    _check_tokens(store)
    return store


def _check_tokens(store: Store) -> None:
    """Holds the description of the array against what `store_write` writes, so that it cannot ask for other codecs or larger chunks."""
    folder, manifest = store.folder, store.manifest
    try:
        found = json_text.read(Path(folder) / "tokens" / "zarr.json")
        (codec,), grid = found["codecs"], found["chunk_grid"]["configuration"]["chunk_shape"]
        sharding = codec["configuration"]
        names = [one["name"] for one in (codec, *sharding["codecs"], *sharding["index_codecs"])]
        little = [one["configuration"]["endian"] for one in (sharding["codecs"][0], sharding["index_codecs"][0])] == ["little"] * 2
        shape, dtype, chunk = found["shape"], found["data_type"], sharding["chunk_shape"]
        known = names in (["sharding_indexed", "bytes", *packed, "bytes", "crc32c"] for packed in ([], ["zstd"]))
        known = known and little and found["chunk_key_encoding"] == {"name": "default"} and sharding.get("index_location", "end") == "end"
    except (ValueError, OSError, LookupError, TypeError, AttributeError):
        raise StoreError(f"{folder}: tokens/zarr.json is not the description of an array; prepare the source again") from None
    if not known or grid != [SHARD] or chunk != [blocks.BLOCK]:
        raise StoreError(f"{folder}: tokens/zarr.json names codecs or chunks that no store has; prepare the source again")
    if (shape, dtype) != ([manifest.tokens], manifest.dtype):
        raise StoreError(f"{folder}: tokens are {dtype} {shape}, the manifest says {manifest.dtype} [{manifest.tokens}]; "
                         "prepare the source again")  # fmt: skip
    try:
        _ = store._array
    except (ValueError, OSError) as error:
        raise StoreError(f"{folder}: tokens cannot be opened ({str(error).splitlines()[0][:200]}); prepare the source again") from None


def _check_documents(store: Store) -> None:
    folder, table, again = store.folder, store.documents, "prepare the source again"
    try:
        found = pq.read_metadata(table.path)
        columns = {field.name: field.type for field in found.schema.to_arrow_schema()}
        if any(columns.get(field.name) != field.type for field in COLUMNS):
            raise StoreError(f"{folder}: documents.parquet lacks columns of this version; {again}")
        if found.num_rows != len(table):
            raise StoreError(f"{folder}: documents.parquet has {found.num_rows:,} documents, the manifest {len(table):,}; {again}")
        stored = os.stat(table.path).st_size
        size = sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))
        if found.num_rows > DOCUMENTS_A_BYTE * stored or size > max(EXPANSION_FROM, EXPANSION * stored):
            raise StoreError(f"{folder}: documents.parquet holds {found.num_rows:,} documents and {size:,} bytes in a file of {stored:,}; "
                             f"a decompression bomb? {again}")  # fmt: skip
        _ = table.offset, table.length, table.quality
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{folder}: documents.parquet cannot be read ({str(error).splitlines()[0][:200]}); {again}") from None
    if not np.isfinite(table.quality).all():
        at = int(np.flatnonzero(~np.isfinite(table.quality))[0])
        raise StoreError(f"{folder}: document {at} ({table.id(at)}) has quality {table.quality[at]}, must be finite; {again}")
    falls = np.flatnonzero(table.quality[1:] < table.quality[:-1])
    if len(falls):
        at = int(falls[0]) + 1
        raise StoreError(f"{folder}: quality falls at document {at} from {table.quality[at - 1]:.6g} to {table.quality[at]:.6g}, "
                         f"must ascend; {again}")  # fmt: skip
    ends = table.offset + table.length
    tiled = (table.length > 0).all() and (ends > table.offset).all() and (table.offset[1:] == ends[:-1]).all()
    if not (tiled and table.offset[0] == 0 and ends[-1] == store.tokens):
        raise StoreError(f"{folder}: the documents do not tile the {store.tokens:,} tokens one after the other; {again}")


def verify_store(store: Store) -> None:
    """Reads everything: checksums, every token below the vocabulary, one end-of-document token at the end of each document.

    Raises `StoreError`. Reads about 300M tokens/s.
    """
    folder, manifest = Path(store.folder), store.manifest
    found = file_sha256(folder / "documents.parquet")
    if found != manifest.documents_sha256:
        raise StoreError(f"{folder}: documents.parquet has checksum {found[:12]}, the manifest {manifest.documents_sha256[:12]}; "
                         "copy the store again or prepare it again")  # fmt: skip
    digest, ends, last = hashlib.sha256(), 0, store.documents.offset + store.documents.length - 1
    for start in range(0, store.tokens, SHARD):
        stop = min(start + SHARD, store.tokens)
        try:
            values = store.read(start, stop)
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise StoreError(f"{folder}: tokens [{start}, {stop}) cannot be decoded ({reason}); copy the store again") from None
        if int(values.max()) >= manifest.vocabulary:
            at = start + int(values.argmax())
            raise StoreError(f"{folder}: token {at:,} is {values.max()}, outside the vocabulary of {manifest.vocabulary:,}; "
                             "prepare the source again")  # fmt: skip
        digest.update(shard_digest(values))
        ends += int((values == manifest.eod).sum())
        inside = last[(start <= last) & (last < stop)]
        if not (values[inside - start] == manifest.eod).all():
            ends = -1
            break
    if digest.hexdigest() != manifest.tokens_sha256 and ends >= 0:
        raise StoreError(f"{folder}: tokens have checksum {digest.hexdigest()[:12]}, the manifest {manifest.tokens_sha256[:12]}; "
                         "copy the store again or prepare it again")  # fmt: skip
    if ends != manifest.documents:
        raise StoreError(f"{folder}: end-of-document tokens ({manifest.eod}) are not exactly at the ends of the "
                         f"{manifest.documents:,} documents; prepare the source again")  # fmt: skip
