"""Stores that are missing, damaged, of somebody else, or made to do harm."""

import io
import json
import os
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bad_inputs.cases import Case, both, cut, edit, flip, remove, replace

GOOD = "--config=experiment.py"


def sizes(good):
    """Makes the manifest agree with the files, so that damage is met behind the check of sizes."""
    manifest = json.loads((good / "store/manifest.json").read_text())
    manifest["files"] = {name: (good / "store" / name).stat().st_size for name in manifest["files"]}
    (good / "store/manifest.json").write_text(json.dumps(manifest))


def listed(name, size=0):
    """Adds a file to the manifest."""

    def change(good):
        manifest = json.loads((good / "store/manifest.json").read_text())
        manifest["files"][name] = size
        (good / "store/manifest.json").write_text(json.dumps(manifest))

    return change


def linked(name, target):
    def change(good):
        path = good / "store" / name
        path.unlink()
        os.symlink(target, path)

    return change


def documents(**columns):
    """Columns of the document table written over."""

    def change(good):
        path = good / "store/documents.parquet"
        table = pq.read_table(path)
        for name, make in columns.items():
            values = pa.array(make(table[name].to_numpy(zero_copy_only=False)), table[name].type, from_pandas=False)
            table = table.set_column(table.column_names.index(name), name, values)
        pq.write_table(table, path)
        sizes(good)

    return change


def bomb(good):
    """A million documents in a few kilobytes, and a manifest that says so."""
    count, buffer = 1_000_000, io.BytesIO()
    ones = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([1]))
    schema = pq.read_schema(good / "store/documents.parquet").remove_metadata()
    columns = [ones.cast(field.type) if field.name != "id" else pa.array(["x"] * count, field.type) for field in schema]
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
    (good / "store/documents.parquet").write_bytes(buffer.getvalue())
    manifest = json.loads((good / "store/manifest.json").read_text())
    (good / "store/manifest.json").write_text(json.dumps(manifest | {"documents": count, "tokens": count}))
    sizes(good)


def crc32c(content: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def packed_bomb(good):
    """A shard of one chunk of a few kilobytes that would unpack to 64 MiB."""
    path = good / "store/tokens/zarr.json"
    tree = json.loads(path.read_text())
    tree["codecs"][0]["configuration"]["codecs"].append({"name": "zstd", "configuration": {"level": 3}})
    path.write_text(json.dumps(tree))
    chunk = pa.compress(bytes(64 << 20), codec="zstd", asbytes=True)
    index = np.full((1024, 2), 2**64 - 1, "<u8")
    index[0] = 0, len(chunk)
    (good / "store/tokens/c/0").write_bytes(chunk + index.tobytes() + struct.pack("<I", crc32c(index.tobytes())))
    sizes(good)


def array(**changes):
    return both(edit("store/tokens/zarr.json", **changes), sizes)


CASES = [
    Case("no store", GOOD, ("no store at 'store'", "prepare the store"), remove("store")),
    Case("an unfinished store", GOOD, ("manifest.json is missing", "not a finished store"), remove("store/manifest.json")),
    Case("a manifest that is not JSON", GOOD, ("manifest.json is not readable JSON",), replace("store/manifest.json", "{")),
    Case("a manifest of bytes", GOOD, ("manifest.json is not readable JSON",), replace("store/manifest.json", b"\xff\xff")),
    Case("a manifest nested too deep", GOOD, ("manifest.json is not readable JSON",), replace("store/manifest.json", "[" * 99999)),
    Case("a manifest of another version", GOOD, ("schema 99, this version reads 2",), edit("store/manifest.json", schema=99)),
    Case("a manifest without a field", GOOD, ("manifest.json lacks or adds tokens",), edit("store/manifest.json", tokens=...)),
    Case("a manifest with a word for a number", GOOD, ("manifest.json has tokens 'many'",), edit("store/manifest.json", tokens="many")),
    Case("a manifest of no documents", GOOD, ("0 documents", "no store can have"), edit("store/manifest.json", documents=0)),
    Case("a manifest of an absurd size", GOOD, ("tokens/c/1",), edit("store/manifest.json", tokens=10**12)),
    Case("a manifest that names a folder above", GOOD, ("'../secret', outside the store",), listed("../secret")),
    Case("a manifest that names another place", GOOD, ("'/etc/passwd', outside the store",), listed("/etc/passwd")),
    Case("a manifest that names a file with a NUL", GOOD, ("'a\\x00b', outside the store",), listed("a\0b")),
    Case("a shard that is a link", GOOD, ("tokens/c/0 is a link",), linked("tokens/c/0", "/dev/zero")),
    Case("a tokenizer that is a link", GOOD, ("tokenizer.json is a link",), linked("tokenizer.json", "/etc/passwd")),
    Case("a missing shard", GOOD, ("tokens/c/0 is missing",), remove("store/tokens/c/0")),
    Case("a shard cut short", GOOD, ("tokens/c/0 has", "truncated?"), cut("store/tokens/c/0", 0.5)),
    Case(
        "another tokenizer",
        GOOD,
        ("tokenizer.json is not the tokenizer that made the tokens",),
        both(replace("store/tokenizer.json", "{}"), sizes),
    ),
    Case("a flipped token", GOOD, ("tokens have checksum",), flip("store/tokens/c/0", 0.0005)),
    Case("a flipped document table", GOOD, ("documents.parquet",), flip("store/documents.parquet", 0.2)),
    Case(
        "a document table that is none",
        GOOD,
        ("documents.parquet cannot be read",),
        both(replace("store/documents.parquet", b"PAR1" * 9), sizes),
    ),
    Case("documents that do not ascend", GOOD, ("quality falls at document 1",), documents(quality=lambda values: values[::-1].copy())),
    Case("a document without quality", GOOD, ("quality nan, must be finite",), documents(quality=lambda values: values * np.nan)),
    Case("documents that overlap", GOOD, ("do not tile",), documents(offset=lambda values: values // 2)),
    Case("lengths that wrap around", GOOD, ("do not tile",), documents(length=lambda values: np.where(values > 0, 2**62, values))),
    Case("a decompression bomb", GOOD, ("documents.parquet holds 1,000,000 documents", "a decompression bomb?"), bomb),
    Case("a chunk that unpacks to more than a chunk", GOOD, ("cannot be decoded", "End of data expected"), packed_bomb),
    Case("an array of another shape", GOOD, ("the manifest says",), array(shape=[10**12])),
    Case(
        "an array of huge chunks",
        GOOD,
        ("codecs or chunks that no store has",),
        array(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1 << 40]}}),
    ),
    Case(
        "an array of other codecs",
        GOOD,
        ("not the description of an array",),
        array(codecs=[{"name": "gzip", "configuration": {"level": 5}}]),
    ),
    Case(
        "a held-out store of another tokenizer",
        GOOD,
        ("heldout was made with another tokenizer than store",),
        both(edit("heldout/manifest.json", fingerprint="0" * 64)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_store_is_one_line_and_leaves_nothing(case, refused):
    refused(case)
