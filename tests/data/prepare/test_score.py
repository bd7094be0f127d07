"""Scores by specification: forms, mistakes, columns, and scorers that give a document the same value wherever it is computed."""

import pickle
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import fasttext_model, quality, score
from kaiyuan_jax.data.prepare.normalise import normalise_text, text_hash
from kaiyuan_jax.data.prepare.score import FastText, File, Heuristic, Onnx, ScoreError

TEXTS = ["rain over the hill", "buy now", "def f(x):\n    return x", "学而时习之，不亦说乎？", "", "cheap offer", "the wind and the sea"]


def documents(texts=TEXTS, removed=()):
    marks = ["short" if place in removed else None for place in range(len(texts))]
    ids = [f"d{place}" for place in range(len(texts))]
    kinds = [pa.large_string()] * 3
    return pa.table([pa.array(c, k) for c, k in zip((ids, texts, marks), kinds, strict=True)], names=["id", "text", "removed"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("score") / "m.bin"
    options = fasttext_model.Options(dimension=2, buckets=64, min_count=1)
    fasttext_model.save(fasttext_model.train(TEXTS, [0, 1, 0, 0, 0, 1, 0], ["hq", "lq"], options), path)
    return str(path)


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """A file with a score for all but the second text, whole numbers and text too, in no order."""
    path = tmp_path_factory.mktemp("score") / "s.parquet"
    chosen = [6, 0, 3, 2, 5, 4]
    hashes = pa.array([text_hash(normalise_text(TEXTS[place])) for place in chosen], pa.binary(16))
    columns = dict(hash=hashes, id=[f"d{place}" for place in chosen], value=[float(p) for p in chosen], whole=chosen, note=["x"] * 6)
    columns["gaps"] = [None, float("nan"), float("inf"), -1.0, None, 2.0]
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    "spec, scorer",
    [
        ("heuristic", Heuristic("heuristic")),
        ("heuristic:code", Heuristic("heuristic", "code")),
        ("mine=heuristic", Heuristic("mine")),
        ("fasttext:a/m.bin:hq", FastText("fasttext", "a/m.bin", "hq")),
        ("edu=fasttext:a/m.bin:__label__hq", FastText("edu", "a/m.bin", "hq")),
        ("fasttext:/dim=2/m.bin:hq", FastText("fasttext", "/dim=2/m.bin", "hq")),
        ("onnx:folder", Onnx("onnx", "folder")),
        ("x_1=onnx:folder:LABEL_1", Onnx("x_1", "folder", "LABEL_1")),
        ("file:s.parquet:difference", File("difference", "s.parquet", "difference")),
        ("a-b=file:s.parquet:my column:id", File("a-b", "s.parquet", "my column", "id")),
    ],
)
def test_a_specification_describes_one_scorer(spec, scorer):
    assert score.parse(spec) == scorer
    assert pickle.loads(pickle.dumps(scorer)) == scorer


@pytest.mark.parametrize(
    "spec", ["", "fastext:m.bin:hq", "fasttext", "fasttext::hq", "file:s.parquet", "onnx:", "file:s:c:name", "heuristic:a:b"]
)
def test_what_is_no_form_is_answered_with_the_forms(spec):
    with pytest.raises(ScoreError, match=re.escape("write heuristic[:kind], fasttext:model.bin:label, onnx:folder[:label] or file:")):
        score.parse(spec)


def test_names_that_cannot_be_columns_are_refused():
    with pytest.raises(ScoreError, match="name 'a b', must be letters"):
        score.parse("a b=heuristic")
    with pytest.raises(ScoreError, match="column 'a b' cannot name a score; write name=file"):
        score.parse("file:s.parquet:a b")


def test_every_mistake_is_named_before_any_work(model, scores, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    specs = {
        f"fasttext:{model}:good": "no label 'good'; found hq, lq",
        f"fasttext:{model}": "no label; write fasttext:",
        f"x=fasttext:{tmp_path}/none.bin:hq": "No such file",
        f"onnx:{tmp_path}/empty": "has no model.onnx, tokenizer.json, config.json",
        "a=heuristic:poem": "kind of text 'poem', must be prose, code, chinese",
        f"file:{scores}:note": "no column of numbers 'note'; found value, whole, gaps",
        f"v=file:{scores}:value:id": None,
        f"v=file:{scores}:value": f"the name 'v' is also that of v=file:{scores}:value:id; write othername=file:{scores}:value",
        f"b=file:{tmp_path}/broken.parquet:x": "cannot be read as Parquet",
        "nothing:at all": "not a scorer",
    }
    found = score.problems(tuple(specs))
    expected = [(spec, reason) for spec, reason in specs.items() if reason]
    assert len(found) == len(expected)
    for line, (spec, reason) in zip(found, expected, strict=True):
        assert line.startswith(f"--scores={spec}: ") and reason in line and "\n" not in line
    assert score.problems(("heuristic", f"fasttext:{model}:hq", f"file:{scores}:value")) == []


def test_a_file_without_its_key_or_with_two_values_for_one_is_refused(tmp_path):
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"hash": ["aa"], "v": [1.0]}), path)
    assert "column hash is string, must be 16 bytes" in score.problems((f"file:{path}:v",))[0]
    assert "no column 'id' to look scores up by; found hash, v" in score.problems((f"file:{path}:v:id",))[0]
    pq.write_table(pa.table({"id": ["a", "b", "a", "b"], "v": [1.0, 2.0, 1.0, 3.0], "w": [1.0, None, 1.0, None]}), path)
    assert "id 'b' has two values of v; give each id one row" in score.problems((f"file:{path}:v:id",))[0]
    assert score.problems((f"file:{path}:w:id",)) == []


def test_each_scorer_adds_its_column_and_removed_rows_get_none(model, scores):
    scorers = tuple(map(score.parse, ("heuristic", f"edu=fasttext:{model}:hq", f"file:{scores}:value")))
    table = documents(removed=(0, 5))
    scored = score.score(table, scorers)
    assert scored.select(table.column_names).equals(table)
    assert scored.column_names[3:] == ["score.heuristic", "score.edu", "score.value"]
    assert all(scored.schema.field(name).type == pa.float64() for name in scored.column_names[3:])
    kept = [text for place, text in enumerate(TEXTS) if place not in (0, 5)]
    expected = [quality.score(text) for text in kept]
    column = scored["score.heuristic"].to_pylist()
    assert column[0] is None and column[5] is None and [v for v in column if v is not None] == expected
    assert [v for v in scored["score.edu"].to_pylist() if v is not None] == fasttext_model.apply(model, "hq", kept)
    assert scored["score.value"].to_pylist() == [None, None, 2.0, 3.0, 4.0, None, 6.0]


def test_a_name_used_twice_is_refused(model):
    with pytest.raises(ScoreError, match="two scorers are named 'heuristic'"):
        score.score(documents(), (Heuristic("heuristic"), Heuristic("heuristic", "code")))


@pytest.mark.parametrize("key", ["hash", "id"])
def test_a_file_is_joined_by_hash_or_id_and_what_is_no_number_is_null(scores, key):
    scored = score.score(documents(), (File("v", scores, "whole", key), File("g", scores, "gaps", key)))
    assert scored["score.v"].to_pylist() == [0.0, None, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert scored["score.g"].to_pylist() == [None, None, -1.0, None, 2.0, None, None]


def test_a_hash_that_the_table_has_is_used_as_it_is(scores):
    table = documents(["changed by cleaning"] * 2)
    hashes = pa.array([text_hash(TEXTS[3]), text_hash(b"\0".decode())], pa.binary(16))
    scored = score.score(table.append_column("hash", hashes), (File("v", scores, "value"),))
    assert scored["score.v"].to_pylist() == [3.0, None]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(-9, 9)), unique_by=lambda row: row[0], max_size=30), st.data())
def test_a_lookup_finds_exactly_the_hashes_that_are_there(tmp_path_factory, rows, data):
    path = str(tmp_path_factory.mktemp("s") / "s.parquet")  # its own path each time: files are cached by path and time
    hashes = [digest for digest, _ in rows]
    pq.write_table(pa.table({"hash": pa.array(hashes, pa.binary(16)), "v": pa.array([v for _, v in rows], pa.int64())}), path)
    others = data.draw(st.lists(st.binary(min_size=16, max_size=16), max_size=5)) + [b"\0" * 16]
    asked = data.draw(st.permutations(hashes + others))
    table = documents(["x"] * len(asked)).append_column("hash", pa.array(asked, pa.binary(16)))
    known = dict(rows)
    assert score.score(table, (File("v", path, "v"),))["score.v"].to_pylist() == [known.get(digest) for digest in asked]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(len(TEXTS))), st.integers(0, len(TEXTS)))
def test_a_row_s_scores_do_not_depend_on_its_neighbours(model, scores, order, cut):
    scorers = tuple(map(score.parse, ("heuristic", f"fasttext:{model}:lq", f"file:{scores}:value")))
    whole = score.score(documents(), scorers)
    table = documents().take(order)
    parts = pa.concat_tables([score.score(part, scorers) for part in (table.slice(0, cut), table.slice(cut))])
    assert parts.equals(whole.take(order))


def test_identity_changes_with_the_model_s_bytes_and_not_with_its_place(model, tmp_path):
    moved = tmp_path / "m.bin"
    content = open(model, "rb").read()
    moved.write_bytes(content)
    first = score.identity(FastText("n", model, "hq"))
    assert score.identity(FastText("n", str(moved), "hq")) == first
    assert score.identity(FastText("n", str(moved), "lq")) != first
    moved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert score.identity(FastText("n", str(moved), "hq")) != first
    assert score.identity(Heuristic("h", "code")) == {"scorer": "heuristic", "name": "h", "kind": "code", "files": {}}
    assert list(first["files"]) == ["m.bin"]
