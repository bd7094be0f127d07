"""Every kind of input gives the same documents, and what cannot be read is named with file and row."""

import gzip
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.data.prepare.read import Fields, ReadError, find, read

ROWS = [{"text": f"text {i} é数", "meta": {"score": i / 4}, "name": f"n{i}"} for i in range(10)]
FIELDS = Fields("text", "meta.score", "name")


def rows_of(*inputs, fields=FIELDS):
    found, _ = find([str(item) for item in inputs])
    return [row for item in found for table in read(item, fields) for row in table.to_pylist()]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder, name):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines(ROWS).encode()))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(lines(ROWS).encode())
    else:
        path.write_text(lines(ROWS))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    expected = [{"id": row["name"], "text": row["text"], "quality": row["meta"]["score"]} for row in ROWS]
    assert rows_of(write(tmp_path, name)) == expected


def test_folders_are_read_by_name_with_text_files_as_documents(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("\ufeffsecond")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n\n')
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\1")
    found, skipped = find([str(tmp_path)])
    assert [item.name for item in found] == ["a.md", "c.jsonl", "sub/b.txt"] and skipped == ["picture.png"]
    rows = [(row["id"], row["text"]) for row in rows_of(tmp_path, fields=Fields())]
    assert rows == [("a.md", "first"), (None, "third"), ("sub/b.txt", "second")]


def test_text_whose_character_crosses_the_sniffed_head_is_text(tmp_path):
    (tmp_path / "a.txt").write_text("a" * ((1 << 16) - 1) + "数据")
    assert rows_of(tmp_path / "a.txt", fields=Fields())[0]["text"].endswith("数据")


def test_half_surrogates_become_something_that_can_be_encoded(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert rows_of(tmp_path / "a.jsonl", fields=Fields())[0]["text"] == "a?b"


def test_missing_text_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "x"}\n')
    assert len(rows_of(tmp_path / "a.jsonl", fields=Fields())) == 1


@pytest.mark.parametrize(
    ("name", "content", "fields", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', Fields(), ["a.jsonl, line 2", "not JSON"]),
        ("a.jsonl", b'{"body": "x"}\n', Fields(), ["row 1", "'text'", "found body", "--text_field"]),
        ("a.jsonl", b'{"text": "x", "m": 3}\n', Fields(quality="m.b"), ["'m.b'", "found int '3'", "--quality_field"]),
        ("a.jsonl", b'{"text": "x", "q": "good"}\n', Fields(quality="q"), ["row 1", "'good'", "not a number"]),
        ("a.jsonl", b'{"text": 3}\n', Fields(), ["row 1", "int", "must be text"]),
        ("a.jsonl.gz", b"not gzip", Fields(), ["a.jsonl.gz", "cannot be read"]),
        ("a.parquet", b"not parquet", Fields(), ["a.parquet", "cannot be read as Parquet"]),
        ("a.txt", b"a\xff" + b"a" * 100, Fields(), ["a.txt", "not UTF-8"]),
        ("a.txt", b"a" * 70_000 + b"\xff", Fields(), ["a.txt", "not UTF-8 at byte 70,000"]),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, fields, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError) as error:
        rows_of(tmp_path / name, fields=fields)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_parquet_field_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ReadError, match="'body'; found text, meta, name; set --text_field"):
        rows_of(write(tmp_path, "a.parquet"), fields=Fields("body"))


def test_inputs_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ReadError, match="no such file"):
        find([str(tmp_path / "x")])
    with pytest.raises(ReadError, match="no text files found"):
        find([str(tmp_path)])


def test_a_data_set_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # what Python itself does for a package that must not be found
    with pytest.raises(ReadError, match=r"kaiyuan_jax\[engine\]"):
        rows_of("hf:some/name:test")
