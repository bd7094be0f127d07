"""Writes stores: `write_store` from a stream of documents, or piece by piece when many workers write the shards of one store.

    create_tokens    an empty array of known length; every shard is then one file of its own
    write_shard      one shard, by whoever has its tokens
    write_documents  the document table, from tables in final order
    finish           counts, checksums and the manifest: now it is a store

A store is built in a folder with a temporary name and renamed at the end (`replace_folder`). Its bytes depend on the documents alone:
shards and row groups have fixed sizes, whatever wrote them.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

import kaiyuan_jax
from kaiyuan_jax.data import blocks
from kaiyuan_jax.data.store import (
    COLUMNS,
    ROW_GROUP,
    SCHEMA,
    SHARD,
    SORT_KEY,
    Manifest,
    Store,
    StoreError,
    file_sha256,
    fingerprint,
    open_store,
    shard_digest,
    token_type,
)


def write_store(
    folder: str | os.PathLike,
    *,
    documents: Iterable[tuple[str, float, int, np.ndarray]],
    tokenizer_json: str,
    vocabulary: int,
    eod: int,
    scored: bool = True,
    seed: int = 0,
    facts: dict | None = None,
    compression: int = 0,
) -> Store:
    """Writes a store and opens it. `documents` yields (id, quality, bytes of text, token ids without the end), in final order.

    Tokens are held in memory until the end. Raises `StoreError` if the documents do not ascend, hold a token outside the vocabulary or
    a quality that is not finite, or if there are none; nothing is left behind. An existing store of the same name is replaced at the end.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    dtype, end = token_type(vocabulary), np.array([eod], token_type(vocabulary))
    ids, qualities, sizes, parts = [], [], [], []
    for name, quality, size, tokens in documents:
        tokens, quality = np.asarray(tokens), float(quality)
        if not np.isfinite(quality):
            raise StoreError(f"document {name}: quality is {quality}, must be finite; drop it or give it a number")
        if qualities and quality < qualities[-1]:
            raise StoreError(f"document {name}: quality {quality:.6g} after {qualities[-1]:.6g}; documents must come in ascending quality")
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise StoreError(f"document {name}: a token outside the vocabulary [0, {vocabulary}); use the tokenizer of the store")
        ids.append(name), qualities.append(quality), sizes.append(size)
        parts += [tokens.astype(dtype), end]
    if not ids:
        raise StoreError(f"{folder}: no documents to write; check the input and the text field")
    values = np.concatenate(parts)
    lengths = np.array([len(part) + 1 for part in parts[::2]], np.int64)
    numbers = [np.cumsum(lengths) - lengths, lengths, np.array(qualities), np.array(sizes), np.ones_like(lengths)]
    table = pa.table([*map(pa.array, numbers), pa.array(ids, pa.large_string())], schema=COLUMNS)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        create_tokens(partial, len(values), dtype, compression)
        digests = [write_shard(partial, number, values[start : start + SHARD]) for number, start in enumerate(range(0, len(values), SHARD))]
        write_documents(partial, [table], COLUMNS)
        finish(partial, digests=digests, tokenizer_json=tokenizer_json, vocabulary=vocabulary, eod=eod, scored=scored, seed=seed,
               facts=facts or {})  # fmt: skip
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    replace_folder(partial, folder)
    return open_store(folder)


def create_tokens(folder: Path, tokens: int, dtype: np.dtype, compression: int) -> None:
    """An array of `tokens` tokens without shards yet.

    Args: compression: zstd level; 0 stores raw tokens, which are read by mapping the files. Level 1 takes a third off the disk and
    about ten times longer to read in scattered order.
    """
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = [little, {"name": "zstd", "configuration": {"level": compression}}] if compression else [little]
    sharding = {"name": "sharding_indexed", "configuration": {"chunk_shape": [blocks.BLOCK], "codecs": codecs,
                                                              "index_codecs": [little, {"name": "crc32c"}]}}  # fmt: skip
    grid = {"name": "regular", "configuration": {"chunk_shape": [SHARD]}}
    metadata = {"shape": [tokens], "data_type": dtype.name, "codecs": [sharding], "chunk_grid": grid}
    ts.open(_array(folder) | {"metadata": metadata}, create=True).result()


def write_shard(folder: Path, number: int, values: np.ndarray) -> bytes:
    """Writes shard `number`, whole; gives its digest. Shards may be written at once by different processes. Raises OSError."""
    try:
        ts.open(_array(folder)).result()[number * SHARD : number * SHARD + len(values)].write(values).result()
    except ValueError as error:  # tensorstore's kind for whatever the file system says
        full = "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error).splitlines()[0][:300]) from None
    return shard_digest(values)


def _array(folder: Path) -> dict:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "tokens")}}


def write_documents(folder: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Writes documents.parquet from tables in final order, in row groups of `ROW_GROUP` whatever the tables' sizes; gives the count.

    `schema` is `COLUMNS`, perhaps with `score.NAME` and metadata columns.
    """
    count = 0
    with pq.ParquetWriter(folder / "documents.parquet", schema, compression="zstd", compression_level=1) as writer:
        for table in regrouped(tables, schema):
            writer.write_table(table, row_group_size=ROW_GROUP)
            count += table.num_rows
    return count


def regrouped(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of tables in tables of `ROW_GROUP` rows, the last one shorter, so that a file's bytes do not depend on how they came."""
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table.select(schema.names).cast(schema)])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held.combine_chunks()


def finish(
    folder: Path, *, digests: list[bytes], tokenizer_json: str, vocabulary: int, eod: int, scored: bool, seed: int, facts: dict
) -> Manifest:
    """Writes tokenizer.json and the manifest of a folder that holds its tokens and documents; `digests` are those of the shards."""
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    table = pq.read_table(folder / "documents.parquet", columns=["length", "bytes"])
    lengths = table["length"].to_numpy()
    manifest = Manifest(
        schema=SCHEMA, code_version=kaiyuan_jax.__version__, tokens=int(lengths.sum()), documents=len(lengths),
        bytes=int(table["bytes"].to_numpy().sum()), vocabulary=vocabulary, eod=eod, dtype=token_type(vocabulary).name, scored=scored,
        sort_key=SORT_KEY, seed=seed, fingerprint=fingerprint(tokenizer_json), tokens_sha256=hashlib.sha256(b"".join(digests)).hexdigest(),
        documents_sha256=file_sha256(folder / "documents.parquet"), files=_sizes(folder), facts=facts,
    )  # fmt: skip
    text = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def refuse_foreign(folder: Path) -> None:
    """Raises `StoreError` if the folder holds something that is not a store and would be replaced."""
    if folder.exists() and not (folder / "manifest.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: exists and is not a store; choose another folder or remove it")


def replace_folder(partial: Path, folder: Path) -> None:
    """Renames a finished folder into place; one that was there before is removed."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
