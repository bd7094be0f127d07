"""Every kind of input gives the same documents, whole or in pieces, and what cannot be read is counted or named, with its place."""

import gzip
import json
import os
import uuid

import fsspec
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import given, settings

from kaiyuan_jax.data.prepare import read as r
from kaiyuan_jax.data.prepare.read import Damaged, Fields, Limits, ReadError, Unreachable, find, pieces, read
from kaiyuan_jax.data.prepare.tally import Tally

ROWS = [{"text": f"text {i} é数", "meta": {"score": i / 4, "url": f"u{i}"}, "name": f"n{i}", "year": 2000 + i} for i in range(10)]
TEXT, LIMITS = Fields(), Limits()
FIELDS = Fields("text", "meta.score", "name", ("year", "meta.url"))
EXPECTED = [
    {
        "id": row["name"],
        "text": row["text"],
        "quality": row["meta"]["score"],
        "metadata": json.dumps({"meta.url": row["meta"]["url"], "year": row["year"]}),
    }
    for row in ROWS
]
FORMATS = ["a.parquet", "a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.ndjson.zst", "data-00000-of-00001.arrow", "file.arrow"]


def rows_of(*inputs, fields=FIELDS, limits=LIMITS, size=0, tally=None):
    tally = Tally() if tally is None else tally
    found, _ = find([str(item) for item in inputs])
    parts = [piece for item in found for piece in (pieces(item, size) if size else [r.Piece(item, 0, 0)])]
    tables = [table for piece in parts for table in read(piece, fields, limits, tally)]
    for table in tables:
        assert table.schema == r.COLUMNS
    return [row for table in tables for row in table.to_pylist()]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder, name, rows=ROWS):
    path = folder / name
    table = pa.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=3)
    elif name.endswith(".arrow"):
        with (pa.ipc.new_file if name == "file.arrow" else pa.ipc.new_stream)(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines(rows)))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(lines(rows))
    else:
        path.write_bytes(lines(rows))
    return path


def counted(path, fields=TEXT, limits=LIMITS):
    """(texts, counts, examples by the reason they were lost for)."""
    tally = Tally()
    texts = [row["text"] for row in rows_of(path, fields=fields, limits=limits, tally=tally)]
    return texts, {name.removeprefix("read: "): count for name, count in tally.counts.items()}, tally.examples


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_whole_and_in_pieces(tmp_path, name):
    path, tally = write(tmp_path, name), Tally()
    assert rows_of(path, tally=tally) == EXPECTED and tally.counts == {"read: rows": 10}
    assert rows_of(path, size=1) == rows_of(path, size=200) == EXPECTED


@pytest.mark.parametrize("name", FORMATS)
def test_a_url_gives_the_rows_of_a_local_file(tmp_path, name):
    system, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    system.pipe(f"{folder}/{name}", write(tmp_path, name).read_bytes())
    assert rows_of(f"memory:/{folder}/{name}") == rows_of(f"memory:/{folder}", size=100) == EXPECTED


LINES = st.lists(
    st.sampled_from(
        [
            b'{"text": "a", "q": 1}',
            '{"text": "é数", "q": "bad"}'.encode(),
            b'{"q": NaN, "text": "b"}',
            b"",
            b" ",
            b'{"text',
            b"\xff",
            b"3",
            b'{"q": 1}',
            b'{"text": 5}',
            b'{"text": "\\u0000"}',
            b'{"text": "' + b"l" * 60 + b'"}',
        ]
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(LINES, st.booleans(), st.booleans(), st.integers(1, 100))
def test_pieces_of_any_size_give_the_rows_and_counts_of_the_whole(tmp_path_factory, found, mark, ended, size):
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    first = b'{"text": "first", "q": null}'
    path.write_bytes(b"\xef\xbb\xbf" * mark + b"\n".join([first, *found]) + b"\n" * ended)
    whole, parts, fields = Tally(), Tally(), Fields(quality="q")
    limits = Limits(document_bytes=64)
    assert rows_of(path, fields=fields, limits=limits, tally=whole) == rows_of(path, fields=fields, limits=limits, tally=parts, size=size)
    assert whole == parts
    assert whole.counts["read: rows"] == 1 + sum(bool(line.strip()) for line in found)


@pytest.mark.parametrize("name", ["a.parquet", "data.arrow", "file.arrow"])
def test_places_in_tables_do_not_depend_on_pieces(tmp_path, name):
    path = write(tmp_path, name, [{"text": None if row in (4, 8) else "t"} for row in range(10)])
    for size in (0, 1, 30):
        tally = Tally()
        rows_of(path, fields=TEXT, size=size, tally=tally)
        assert tally.counts == {"read: rows": 10, "read: no text": 2, "read: rows lost": 2}
        assert set(tally.examples["read: no text"]) == {f"{name}, row 5", f"{name}, row 9"}


def test_every_lost_row_is_counted_under_its_reason_with_its_place(tmp_path):
    rows = [
        b'{"text": "kept"}',
        b'{"text": ',
        b"[3]",
        b'{"text": "\xff"}',
        b'{"body": "x"}',
        b'{"text": null}',
        b'{"text": 3}',
        b'{"text": ["x"]}',
        b'{"text": "' + b"l" * 100 + b'"}',
        b'{"text": "kept too"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    texts, counts, examples = counted(tmp_path / "a.jsonl", limits=Limits(document_bytes=50))
    assert texts == ["kept", "kept too"]
    assert counts == {
        "rows": 10,
        "rows lost": 8,
        "not JSON": 1,
        "not a JSON object": 1,
        "not UTF-8": 1,
        "no text": 2,
        "text is not text": 2,
        "longer than the limit": 1,
    }
    assert examples["read: not UTF-8"] == [f"a.jsonl, byte {len(rows[0]) + len(rows[1]) + len(rows[2]) + 3}"]
    assert examples["read: not JSON"][0].startswith("a.jsonl, byte 17: ") and "byte 27: [3]" in examples["read: not a JSON object"][0]
    assert any("int 3" in text for text in examples["read: text is not text"])


def test_quality_that_is_no_finite_number_becomes_null_and_is_counted(tmp_path):
    values = ["1", "2.5", '"0.5"', "NaN", "Infinity", "null", "true", "[1]", "9" * 400]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "t", "q": {value}}}\n' for value in values) + '{"text": "t"}\n')
    tally = Tally()
    found = [row["quality"] for row in rows_of(tmp_path / "a.jsonl", fields=Fields(quality="q"), tally=tally)]
    assert found == [1.0, 2.5] + [None] * 8
    assert tally.counts == {"read: rows": 10, "read: quality is not a number": 3, "read: quality is not finite": 3}
    assert any("0.5" in example for example in tally.examples["read: quality is not a number"])


def test_quality_in_parquet_follows_the_same_rules(tmp_path):
    pq.write_table(
        pa.table({"text": ["a", "b", "c"], "q": [1.0, float("nan"), None], "s": ["1", None, "x"], "i": pa.array([1, 2, 3], pa.int8())}),
        tmp_path / "a.parquet",
    )

    def read_with(field):
        tally = Tally()
        return [row["quality"] for row in rows_of(tmp_path / "a.parquet", fields=Fields(quality=field), tally=tally)], tally.counts

    assert read_with("q") == ([1.0, None, None], {"read: rows": 3, "read: quality is not finite": 1})
    assert read_with("s") == ([None] * 3, {"read: rows": 3, "read: quality is not a number": 2})
    assert read_with("i") == ([1.0, 2.0, 3.0], {"read: rows": 3})


@pytest.mark.parametrize(
    "type", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_of_any_lossless_type_is_read(tmp_path, type):
    pq.write_table(pa.table({"text": pa.array(["a", "é", None], pa.string()).cast(type)}), tmp_path / "a.parquet")
    texts, counts, _ = counted(tmp_path / "a.parquet")
    assert texts == ["a", "é"] and counts == {"rows": 3, "no text": 1, "rows lost": 1}


def test_parquet_texts_that_are_not_utf8_or_too_long_are_counted(tmp_path):
    pq.write_table(
        pa.table({"text": pa.array([b"a", b"\xff", b"long" * 9, b"c\0"], pa.binary())}), tmp_path / "a.parquet", row_group_size=2
    )
    texts, counts, examples = counted(tmp_path / "a.parquet", limits=Limits(document_bytes=30))
    assert texts == ["a", "c\0"]
    assert counts == {"rows": 4, "rows lost": 2, "not UTF-8": 1, "longer than the limit": 1, "NUL characters": 1}
    assert examples["read: longer than the limit"] == ["a.parquet, row 3"] and examples["read: NUL characters"] == ["a.parquet, row 4"]


def test_parquet_whose_text_column_holds_numbers_is_damaged(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(Damaged, match="field 'text' is int64, must be text; set --text_field"):
        rows_of(tmp_path / "a.parquet", fields=Fields())


def test_names_with_dots_are_columns_before_they_are_paths(tmp_path):
    rows = [{"text": "t", "a.b": 2.0, "a": {"b": 1.0}}]
    for name in ("a.jsonl", "a.parquet", "a.arrow"):
        assert rows_of(write(tmp_path, name, rows), fields=Fields(quality="a.b"))[0]["quality"] == 2.0


def test_ids_and_metadata_of_any_type_are_read_alike_from_rows_and_columns(tmp_path):
    rows = [{"text": "t", "id": 7, "m": {"k": [1, 2.5, None], "j": "数"}, "f": 1.0}, {"text": "u", "id": 8, "m": None, "f": None}]
    fields = Fields(id="id", metadata=("m", "f"))
    rows[0]["m"] = {"j": "数", "k": [1.0, 2.5, None]}
    found = [rows_of(write(tmp_path, name, rows), fields=fields) for name in ("a.jsonl", "a.parquet", "a.arrow")]
    assert found[0] == found[1] == found[2]
    assert [row["id"] for row in found[0]] == ["7", "8"]
    assert [row["metadata"] for row in found[0]] == ['{"f": 1.0, "m": {"j": "数", "k": [1.0, 2.5, null]}}', '{"f": null, "m": null}']


def test_half_surrogates_become_something_that_can_be_encoded(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b", "id": "\\udc00", "m": "\\ud800"}\n')
    row = rows_of(tmp_path / "a.jsonl", fields=Fields(id="id", metadata=("m",)))[0]
    assert (row["text"], row["id"], row["metadata"]) == ("a?b", "?", '{"m": "?"}')


def test_nul_characters_are_kept_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\u0000b"}\n{"text": "c"}\n')
    texts, counts, _ = counted(tmp_path / "a.jsonl")
    assert texts == ["a\0b", "c"] and counts == {"rows": 2, "NUL characters": 1}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.arrow", "a.txt"])
def test_an_empty_file_gives_no_rows_and_is_counted(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert counted(tmp_path / name)[:2] == ([], {"empty files": 1})
    assert rows_of(tmp_path / name, size=10) == []


def test_files_without_rows_count_as_empty(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "b.arrow"), pa.schema({"text": pa.string()})):
        pass
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b"", mtime=0))
    assert counted(tmp_path)[:2] == ([], {"empty files": 3})


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst", "data.arrow", "file.arrow"])
def test_a_truncated_file_is_damaged_and_one_piece(tmp_path, name):
    rows = [{"text": os.urandom(50).hex()} for _ in range(1000)]
    path = write(tmp_path, name, rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(Damaged, match=f"{name}: cannot be read as .*; truncated, or not what its name says") as error:
        rows_of(path, fields=Fields(), size=100)
    assert "\n" not in str(error.value) and "a.parquet" not in error.value.reason


def test_damage_in_the_middle_comes_after_the_tables_before_it(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", [{"text": os.urandom(500).hex()} for _ in range(12_000)])
    path.write_bytes(path.read_bytes()[:-1000])
    (input,), _ = find([str(path)])
    found = 0
    with pytest.raises(Damaged):
        for table in read(r.Piece(input, 0, 0), Fields(), Limits(), Tally()):
            found += table.num_rows
    assert found > 4000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl.gz", b"not gzip", ["cannot be read as JSON lines"]),
        ("a.parquet", b"not parquet", ["cannot be read as Parquet"]),
        ("a.arrow", b"not arrow, but long enough", ["cannot be read as Arrow"]),
        ("a.txt", b"a\xff" + b"a" * 100, ["not UTF-8 at byte 1"]),
        ("a.txt", b"a" * 70_000 + b"\xff", ["not UTF-8 at byte 70,000", "iconv"]),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), ["is gzip", "name"]),
        ("a.json", b'[\n{"text": "x"},\n{"text": "y"}]', ["one object a line", "jq"]),
        ("a.json", b'{\n  "text": "x"\n}', ["one object a line"]),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), ["UTF-16"]),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_damaged(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Damaged) as error:
        rows_of(tmp_path / name, fields=Fields())
    for word in (name, *words):
        assert word in str(error.value)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_decompression_bomb_is_damaged_before_it_goes_off(tmp_path, codec):
    path = tmp_path / ("a.jsonl.gz" if codec == "gzip" else "a.jsonl.zst")
    with pa.CompressedOutputStream(str(path), codec) as file:
        file.write(b'{"text": "first"}\n')
        for _ in range(80):
            file.write(b"\0" * (1 << 20))
    with pytest.raises(Damaged, match="more than 200 times its bytes; a decompression bomb"):
        rows_of(path, fields=Fields())


def test_a_parquet_bomb_is_damaged_before_it_goes_off(tmp_path):
    pq.write_table(pa.table({"text": ["x" * (1 << 20)] * 66}), tmp_path / "a.parquet", use_dictionary=False, compression="zstd")
    with pytest.raises(Damaged, match="more than 200 times as much"):
        rows_of(tmp_path / "a.parquet", fields=Fields())


def test_text_whose_character_crosses_the_sniffed_head_is_text(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff" + "a" * ((1 << 16) - 4) + "数据")
    assert rows_of(tmp_path / "a.txt") == [{"id": "a.txt", "text": "a" * ((1 << 16) - 4) + "数据", "quality": None, "metadata": None}]


def test_a_text_file_above_the_limit_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 100)
    assert counted(tmp_path / "a.txt", limits=Limits(document_bytes=99))[1] == {"rows": 1, "rows lost": 1, "longer than the limit": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_field_is_named_with_those_that_are_there_and_the_nearest(tmp_path, name):
    path = write(tmp_path, name)
    with pytest.raises(
        ReadError, match=r"no field 'txt'; found text, meta, meta.score, meta.url, name, year; did you mean 'text'\?; set --text_field"
    ):
        rows_of(path, fields=Fields("txt"))
    with pytest.raises(ReadError, match=r"no field 'url'; .*; did you mean 'meta.url'\?"):
        rows_of(path, fields=Fields("url"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("flag", ["quality", "id", "metadata"])
def test_a_field_that_is_nowhere_is_an_error_whatever_it_is_for(tmp_path, name, flag):
    path = write(tmp_path, name)
    with pytest.raises(ReadError, match=rf"{name}: no field 'meta.scor'; .*did you mean 'meta.score'.*; set --{flag}_field") as error:
        rows_of(path, fields=Fields(**{flag: ("name", "meta.scor") if flag == "metadata" else "meta.scor"}), size=100)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_row_of_many_may_have_a_field_that_the_others_lack(tmp_path, place):
    rows = [row if index == place else {"text": row["text"]} for index, row in enumerate(ROWS)]
    lacking = {"id": None, "quality": None, "metadata": '{"meta.url": null, "year": null}'}
    expected = [row if index == place else row | lacking for index, row in enumerate(EXPECTED)]
    assert rows_of(write(tmp_path, "a.jsonl", rows)) == rows_of(tmp_path / "a.jsonl", size=50) == expected


def test_a_field_of_what_is_null_in_every_row_may_be_there_later(tmp_path):
    rows = [{"text": "t", "meta": None}] * 3
    assert [row["quality"] for row in rows_of(write(tmp_path, "a.jsonl", rows), fields=Fields(quality="meta.score"))] == [None] * 3
    with pytest.raises(ReadError, match="no field 'meta.score'; found text, meta; set --quality_field"):
        rows_of(write(tmp_path, "b.jsonl", [*rows, {"text": "t"}]), fields=Fields(quality="meta.score"))


@pytest.mark.parametrize("name", [*FORMATS, "a.txt"])
def test_a_file_that_is_gone_since_it_was_found_is_unreachable_and_not_damaged(tmp_path, name):
    system, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    system.pipe(f"{folder}/{name}", write(tmp_path, name).read_bytes())
    found = [find([item])[0][0] for item in (str(tmp_path / name), f"memory:/{folder}/{name}")]
    (tmp_path / name).unlink()
    system.rm(f"{folder}/{name}")
    for input in found:
        with pytest.raises(Unreachable, match=f"{name}: cannot be reached"):
            [table for piece in pieces(input, 100) for table in read(piece, FIELDS, LIMITS, Tally())]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("after", [0, 1])
def test_a_connection_that_breaks_while_reading_is_not_a_damaged_file(tmp_path, monkeypatch, name, after):
    system, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    system.pipe(f"{folder}/{name}", write(tmp_path, name).read_bytes())
    (input,), _ = find([f"memory:/{folder}/{name}"])
    reads = []

    def broken(self, size=-1):
        reads.append(size)
        if len(reads) > after:
            raise OSError("connection lost")
        return super(MemoryFile, self).read(size)

    monkeypatch.setattr(MemoryFile, "read", broken, raising=False)
    with pytest.raises(Unreachable, match="connection lost"):
        list(read(r.Piece(input, 0, 0), FIELDS, LIMITS, Tally()))


def test_the_text_field_may_be_missing_in_rows_even_in_a_whole_piece(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"b": 1}\n{"b": 2}\n{"text": "x"}\n')
    assert len(rows_of(tmp_path / "a.jsonl", fields=Fields(), size=5)) == 1


def test_an_empty_field_name_is_refused():
    with pytest.raises(ReadError, match="a name is empty"):
        Fields("")


def test_tables_stay_small(tmp_path):
    sizes = [3 << 20, 3 << 20, 9 << 20, *[10] * 9000]
    for name in ("a.jsonl", "a.parquet"):
        write(tmp_path, name, [{"text": "x" * size} for size in sizes])
        (input,), _ = find([str(tmp_path / name)])
        tables = list(read(r.Piece(input, 0, 0), Fields(), Limits(), Tally()))
        assert sum(table.num_rows for table in tables) == len(sizes)
        for table in tables:
            assert table.num_rows <= 4096
            assert table.num_rows == 1 or sum(map(len, table["text"].to_pylist())) <= 4 << 20
