"""A store: one source of text, tokenised once, in ascending quality.

    tokens/           flat zarr3 array (tensorstore), uint16 if the vocabulary fits, else uint32; every document ends with one
                      end-of-document token
    documents.arrow   one Arrow record batch, memory-mapped: offset, length (tokens, with the end-of-document token), quality, bytes
                      (of UTF-8 text), id; ascending by quality, equal quality by a seeded hash
    tokenizer.json    what made the tokens and reads them back
    manifest.json     written last: counts, checksums, inputs; a folder without it is not a store

Sequence j of length L is tokens [jL, (j+1)L], L + 1 of them, so that every token but the first is a target exactly once and a store
of T tokens has (T - 1) // L sequences. Rank in quality is token mass: token t lies at quantile t / T, whatever the documents' lengths.
The folder is built under a temporary name and renamed, and holds no dates or paths: the same input gives the same bytes.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorstore as ts

import kaiyuan_jax
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data import blocks, mapped

SCHEMA = 1
SHARD = 1 << 24  # tokens in one file
SORT_KEY = "quality ascending, then keyed hash of the text"
COLUMNS = pa.schema(
    [("offset", pa.int64()), ("length", pa.int64()), ("quality", pa.float64()), ("bytes", pa.int64()), ("id", pa.large_string())]
)


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
    tokens_sha256: str  # of the token values, little-endian
    documents_sha256: str  # of documents.arrow
    inputs: dict[str, str]  # input file -> sha256
    files: dict[str, int]
    facts: dict  # free: settings fingerprint, counts of the preparation


@dataclasses.dataclass(frozen=True)
class Documents:
    """The document table as views on the mapped file; n documents in ascending quality."""

    offset: np.ndarray  # int64 [n], first token
    length: np.ndarray  # int64 [n], tokens including the end-of-document token
    quality: np.ndarray  # float64 [n]
    bytes: np.ndarray  # int64 [n], UTF-8 bytes of the text
    _ids: pa.Array

    def __len__(self) -> int:
        return len(self.offset)

    def id(self, document: int) -> str:
        return self._ids[int(document)].as_py()


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
        return _read_documents(Path(self.folder))

    def sequences(self, length: int) -> int:
        """Number of sequences of `length` tokens."""
        return max(0, (self.tokens - 1) // length)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as uint16 or uint32."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"{self.folder}: tokens [{start}, {stop}) asked for, the store has {self.tokens}")
        return self._array[start:stop].read().result()

    def read_rows(self, sequences: np.ndarray, length: int) -> np.ndarray:
        """int32 [R, length + 1]: row i is sequence `sequences[i]` (int64 [R], any order, repeats allowed) and the token after it."""
        sequences = np.asarray(sequences, np.int64)
        if len(sequences) and not (0 <= sequences.min() and sequences.max() < self.sequences(length)):
            raise IndexError(f"{self.folder}: sequence {sequences.min()} or {sequences.max()} outside [0, {self.sequences(length)})")
        if self._mapped is not None:
            return self._mapped.rows(sequences * length, length + 1)
        return blocks.rows(self._array, self._key, sequences * length, length + 1)

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


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _read_documents(folder: Path) -> Documents:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(folder / "documents.arrow")))
        if reader.schema != COLUMNS or reader.num_record_batches != 1:
            raise StoreError(f"{folder}: documents.arrow has columns or batches of another version; prepare the source again")
        batch = reader.get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{folder}: documents.arrow cannot be read ({error}); prepare the source again") from None
    columns = [batch.column(name).to_numpy(zero_copy_only=True) for name in ("offset", "length", "quality", "bytes")]
    return Documents(*columns, batch.column("id"))


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """The manifest of a folder; `StoreError` if there is none or it is not one of ours."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        what = "no such folder" if not Path(folder).exists() else "manifest.json is missing, so this is not a finished store"
        raise StoreError(f"{folder}: {what}; prepare it with launch/prepare_data.py --output={folder}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        found = fields.get("schema")
    except (ValueError, AttributeError):
        raise StoreError(f"{folder}: manifest.json is not readable JSON; prepare the source again") from None
    if found != SCHEMA:
        raise StoreError(f"{folder}: manifest.json has schema {found!r}, this version reads {SCHEMA}; prepare the source again")
    names = {field.name for field in dataclasses.fields(Manifest)}
    if set(fields) != names:
        odd = ", ".join(sorted(names ^ set(fields)))
        raise StoreError(f"{folder}: manifest.json lacks or adds {odd}; prepare the source again")
    return Manifest(**fields)


def open_store(folder: str | os.PathLike, *, vocabulary: int | None = None, fingerprint: str | None = None) -> Store:
    """Opens a store after the checks that need no pass over the tokens.

    Raises `StoreError` for a missing manifest or file, a file of another size, another tokenizer (than recorded, or than the
    `fingerprint` asked for), a vocabulary above the `vocabulary` asked for, NaN quality and documents that do not ascend or tile.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name, size in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{folder}: {name} is missing; copy the store again or prepare it again")
        if path.stat().st_size != size:
            raise StoreError(
                f"{folder}: {name} has {path.stat().st_size:,} bytes where the manifest says {size:,} (truncated?); "
                "copy the store again or prepare it again"
            )
    recorded = _file_sha256(folder / "tokenizer.json")
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
    if store._array.shape != (manifest.tokens,) or store._array.dtype.name != manifest.dtype:
        raise StoreError(f"{folder}: tokens are {store._array.dtype.name} {list(store._array.shape)}, the manifest says "
                         f"{manifest.dtype} [{manifest.tokens}]; prepare the source again")  # fmt: skip
    return store


def _check_documents(store: Store) -> None:
    folder, table, again = store.folder, store.documents, "prepare the source again"
    if len(table) != store.manifest.documents:
        raise StoreError(f"{folder}: documents.arrow has {len(table):,} documents, the manifest {store.manifest.documents:,}; {again}")
    if not np.isfinite(table.quality).all():
        at = int(np.flatnonzero(~np.isfinite(table.quality))[0])
        raise StoreError(f"{folder}: document {at} ({table.id(at)}) has quality {table.quality[at]}, must be finite; {again}")
    falls = np.flatnonzero(table.quality[1:] < table.quality[:-1])
    if len(falls):
        at = int(falls[0]) + 1
        raise StoreError(f"{folder}: quality falls at document {at} from {table.quality[at - 1]:.6g} to {table.quality[at]:.6g}, "
                         f"must ascend; {again}")  # fmt: skip
    ends = table.offset + table.length
    tiled = (table.length > 0).all() and (table.offset[1:] == ends[:-1]).all()
    if not (tiled and table.offset[0] == 0 and ends[-1] == store.tokens):
        raise StoreError(f"{folder}: the documents do not tile the {store.tokens:,} tokens one after the other; {again}")


def verify_store(store: Store) -> None:
    """Reads everything: checksums, every token below the vocabulary, one end-of-document token at the end of each document.

    Raises `StoreError`. Reads about 300M tokens/s.
    """
    folder, manifest = Path(store.folder), store.manifest
    found = _file_sha256(folder / "documents.arrow")
    if found != manifest.documents_sha256:
        raise StoreError(f"{folder}: documents.arrow has checksum {found[:12]}, the manifest {manifest.documents_sha256[:12]}; "
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
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
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


def write_store(
    folder: str | os.PathLike,
    *,
    documents: Iterable[tuple[str, float, int, np.ndarray]],
    tokenizer_json: str,
    vocabulary: int,
    eod: int,
    scored: bool = True,
    seed: int = 0,
    inputs: dict[str, str] | None = None,
    facts: dict | None = None,
    compression: int = 0,
) -> Store:
    """Writes a store and opens it. `documents` yields (id, quality, bytes of text, token ids without the end), in final order.

    Args: compression: zstd level; 0 stores raw tokens, which are read by mapping the files. Level 1 takes a third off the disk and
    about ten times longer to read in scattered order.
    Raises `StoreError` if the documents do not ascend, hold a token outside the vocabulary or a quality that is not finite, or if there
    are none; nothing is left behind. An existing store of the same name is replaced at the end.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "manifest.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: exists and is not a store; choose another folder or remove it")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        table, digest = _write_tokens(partial, documents, vocabulary, eod, compression)
        with pa.OSFile(str(partial / "documents.arrow"), "wb") as sink, pa.ipc.new_file(sink, COLUMNS) as writer:
            writer.write_batch(table)
        (partial / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        lengths = table.column("length").to_numpy()
        manifest = Manifest(
            schema=SCHEMA, code_version=kaiyuan_jax.__version__, tokens=int(lengths.sum()), documents=table.num_rows,
            bytes=int(table.column("bytes").to_numpy().sum()), vocabulary=vocabulary, eod=eod, dtype=_dtype(vocabulary).name,
            scored=scored, sort_key=SORT_KEY, seed=seed, fingerprint=fingerprint(tokenizer_json), tokens_sha256=digest,
            documents_sha256=_file_sha256(partial / "documents.arrow"), inputs=inputs or {}, files=_sizes(partial), facts=facts or {},
        )  # fmt: skip
        text = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
        (partial / "manifest.json").write_text(text + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    replace_folder(partial, folder)
    return open_store(folder)


def replace_folder(partial: Path, folder: Path) -> None:
    """Renames a finished folder into place; one that was there before is removed."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _dtype(vocabulary: int) -> np.dtype:
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def _write_tokens(folder: Path, documents, vocabulary: int, eod: int, compression: int) -> tuple[pa.RecordBatch, str]:
    dtype, digest = _dtype(vocabulary), hashlib.sha256()
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if compression:
        codecs.append({"name": "zstd", "configuration": {"level": compression}})
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"name": "sharding_indexed", "configuration": {"chunk_shape": [blocks.BLOCK], "codecs": codecs, "index_codecs": index}}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder / "tokens")},
        "metadata": {"shape": [0], "data_type": dtype.name, "codecs": [sharding],
                     "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD]}}},
    }  # fmt: skip
    array = ts.open(spec, create=True).result()
    written = 0

    def flush(parts: list[np.ndarray], everything: bool) -> list[np.ndarray]:
        # Whole shards only, so that no shard is read back and rewritten: the bytes then depend on the tokens alone.
        nonlocal array, written
        values = np.concatenate(parts)
        whole = len(values) if everything else len(values) // SHARD * SHARD
        digest.update(values[:whole].astype(dtype.newbyteorder("<"), copy=False).tobytes())
        array = array.resize(exclusive_max=[written + whole]).result()
        for start in range(0, whole, SHARD):
            stop = min(start + SHARD, whole)
            array[written + start : written + stop].write(values[start:stop]).result()
        written += whole
        return [values[whole:]]

    ids, qualities, sizes, lengths, held, pending = [], [], [], [], 0, []
    end = np.array([eod], dtype)
    for name, quality, size, tokens in documents:
        tokens = np.asarray(tokens)
        quality = float(quality)
        if not np.isfinite(quality):
            raise StoreError(f"document {name}: quality is {quality}, must be finite; drop it or give it a number")
        if qualities and quality < qualities[-1]:
            raise StoreError(f"document {name}: quality {quality:.6g} after {qualities[-1]:.6g}; documents must come in ascending quality")
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise StoreError(f"document {name}: a token outside the vocabulary [0, {vocabulary}); use the tokenizer of the store")
        pending += [tokens.astype(dtype), end]
        held += len(tokens) + 1
        ids.append(name), qualities.append(quality), sizes.append(size), lengths.append(len(tokens) + 1)
        if held >= SHARD:
            pending = flush(pending, everything=False)
            held = len(pending[0])
    if not lengths:
        raise StoreError(f"{str(folder).removesuffix('.partial')}: no documents to write; check the input and the text field")
    flush(pending, everything=True)
    lengths = np.array(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    columns = [offsets, lengths, np.array(qualities, np.float64), np.array(sizes, np.int64)]
    return pa.record_batch([*map(pa.array, columns), pa.array(ids, pa.large_string())], schema=COLUMNS), digest.hexdigest()
