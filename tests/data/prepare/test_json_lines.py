"""Arrow's parser and Python's give the same documents of the same lines, and every byte of a file belongs to exactly one block."""

import io
import json
import tracemalloc

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from kaiyuan_jax.data.prepare import json_lines
from kaiyuan_jax.data.prepare.fields import COLUMNS, Fields, Limits
from kaiyuan_jax.data.prepare.tally import Tally

LIMITS = Limits()
NAMES = ["text", "q", "id", "meta", "meta.x", "other"]
TOKENS = [
    "Inf",
    "-Inf",
    "Infinity",
    "-Infinity",
    "NaN",
    "nan",
    "1e999",
    "1e-999",
    "-0",
    "01",
    "1.",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "true",
    "12",
    "2.0",
    "1e2",
    "9007199254740993",
    '"\\ud800"',
    '"\\udc00x"',
    '"\\ud83d\\ude00"',
    '"a\\u0000b"',
    '"a\tb"',
    '"\\x"',
    "[" * 2000 + "]" * 2000,
    "null",
    "[]",
    "{}",
    '{"x": 1}',
    '{"x": "u"}',
    '{"x": 1, "x": 2}',
    '"Inf: Inf"',
    '"} {"',
    '"}\\n{"',
    '"1"',
]
FIELDS = st.builds(
    Fields,
    st.sampled_from(["text", "meta.x"]),
    st.sampled_from(["", "q", "meta.x"]),
    st.sampled_from(["", "id", "meta.x"]),
    st.sampled_from([(), ("other",), ("meta",), ("meta.x", "id"), ("other", "q")]),
)
values = st.one_of(
    st.sampled_from(TOKENS),
    st.builds(
        lambda value, ascii: json.dumps(value, ensure_ascii=ascii),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
            max_leaves=4,
        ),
        st.booleans(),
    ),
)
good = st.builds(
    lambda text, id, q, extra: json.dumps({"text": text, "id": id, "q": q, "other": extra}).encode(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(0, 1),
    st.text(max_size=3) | st.integers(),
)
odd = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=4).map(
    lambda pairs: ("{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}").encode()
)
junk = st.sampled_from(
    [
        b"",
        b" ",
        b"\r",
        b"{",
        b"}",
        b"3",
        b"null",
        b"[1]",
        b'{"text": "\xff"}',
        b'{"text": "a"} {"text": "b"}',
        b'{"text": "a"}\0',
        b'{"text": "cut',
        b'{"text":',
        b'"b"}',
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "\xed\xa0\x80"}',
    ]
)
lines = good | odd | junk


def rows(parse, block, fields, limits=LIMITS):
    tally = Tally()
    table = parse(block, 0, "f", fields, limits, tally)
    assert table.schema == COLUMNS
    table.validate(full=True)
    return [str(row) for row in table.to_pylist()], tally.to_json()


@settings(max_examples=200, deadline=None)
@given(st.lists(lines, min_size=1, max_size=5), FIELDS, st.sampled_from([b"\n", b"\r\n"]))
@example([b'{"text": "a", "id": 1}', b'{"text": "b", "id": 2, "other": Inf}'], Fields(id="id"), b"\n")
@example([b'{"text": "a"} {"text": "b"}', b'{"text": "c"', b', "q": 1}'], Fields(), b"\n")
@example([b'{"text": "a"} {"text": "b"}', b'{"text": "c", "o": {}', b', "q": 1}'], Fields(), b"\n")
@example([b'{"text": "a"}', b'{"text": "b", "o": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"], Fields(), b"\n")
@example([b'{"text": "a", "id": 1}', b'{"text": "b", "id": true}'], Fields(id="id", metadata=("id",)), b"\n")
def test_a_block_gives_what_its_lines_give_one_by_one(found, fields, end):
    block = end.join(found) + end
    assert rows(json_lines.parse, block, fields) == rows(json_lines.slow, block, fields)


@settings(max_examples=50, deadline=None)
@given(st.lists(good, min_size=1, max_size=5), st.booleans())
def test_ordinary_lines_take_the_fast_way(found, ends):
    block = b"\n".join(found) + b"\n" * ends
    assert json_lines._fast(block, Fields("text", "q", "id"), json_lines._types(block, Fields("text", "q", "id"))) is not None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=8), st.booleans(), st.integers(1, 20), st.integers(1, 9), st.integers(1, 15))
def test_pieces_share_the_lines_of_a_file(sizes, ended, size, block, limit):
    whole = b"\n".join(bytes([97 + index]) * length for index, length in enumerate(sizes)) + b"\n" * (ended and bool(sizes))
    expected, at = [], 0
    for line in whole.split(b"\n") if not whole.endswith(b"\n") else whole.split(b"\n")[:-1]:
        expected.append((at, line))
        at += len(line) + 1
    found = []
    for start in range(0, len(whole), size):
        stream = io.BytesIO(whole)
        stream.seek(max(start - 1, 0))
        for offset, lines in json_lines.blocks(stream, start, min(start + size, len(whole)), limit, block):
            if lines is None:
                found.append((offset, None))
                continue
            for line in lines.removesuffix(b"\n").split(b"\n"):
                found.append((offset, line))
                offset += len(line) + 1

    def passed(entry):
        return entry[0], None if entry[1] is None or len(entry[1]) > limit else entry[1]

    assert [passed(entry) for entry in found] == [passed(entry) for entry in expected if whole]


def test_a_line_of_any_length_is_passed_over_in_little_memory():
    class Endless(io.RawIOBase):
        left = 100 << 20

        def read(self, size=-1):
            size = min(size, self.left)
            self.left -= size
            return b"x" * size if self.left else b"x" * size + b'\n{"text": "y"}\n' * bool(size)

    tracemalloc.start()
    given = list(json_lines.blocks(Endless(), 0, None, 1 << 20, 1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20
    assert given == [(0, None), ((100 << 20) + 1, b'{"text": "y"}\n')]


@pytest.mark.parametrize("line", [b'{"text": "abcd"}', b'{"text": "abcdef"}'])
def test_a_long_line_counts_as_long_wherever_blocks_end(line):
    found, tally = rows(json_lines.parse, line + b"\n", Fields(), Limits(document_bytes=16))
    assert (len(found), tally["counts"].get("read: longer than the limit", 0)) == ((1, 0) if len(line) == 16 else (0, 1))


VALUE = st.none() | st.just("x") | st.dictionaries(st.sampled_from(["b", "c"]), st.just(1))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["id", "a"]), VALUE), max_size=4), st.booleans(), st.sampled_from(["id", "a", "a.b"]))
def test_a_field_is_missing_if_rows_lack_it_and_none_has_it(found, mark, field):
    head = b"\xef\xbb\xbf" * mark + b"".join(json.dumps(row).encode() + b"\n" for row in [{"text": "t"}, *found])
    first, *inner = field.split(".")
    has = any(first in row and all(isinstance(row[first], dict) and part in row[first] for part in inner) for row in found)
    missing = json_lines.missing(head + b'{"id": "cut", "a": {"b"', Fields(id=field))
    assert missing is None if has else (missing[:2] == (field, "--id_field") and missing[2][0] == "text")


def test_a_beginning_without_a_whole_row_says_nothing_of_fields():
    assert json_lines.missing(b'3\nnot JSON\n{"text": "cut', Fields(id="id")) is None


def test_the_first_of_several_missing_fields_is_reported_with_its_own_flag():
    head = b'{"text": "t", "a": {"b": 1}}\n' + b'{"text": "t", "x": ' + b'{"y": ' * 500 + b"1" + b"}" * 500 + b"}\n"
    field, flag, names = json_lines.missing(head, Fields("text", "a.b", "a.c", ("a", "z")))
    assert (field, flag, names[:4]) == ("a.c", "--id_field", ["text", "a", "a.b", "x"]) and len(names) < 20
    assert json_lines.missing(head, Fields(metadata=("a", "z")))[:2] == ("z", "--metadata_fields")
