"""A file of scores: one row a document, whatever the files; kept pieces are used once and for nothing else."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import normalise, read
from kaiyuan_jax.data.prepare.tally import Tally
from kaiyuan_jax.evaluation import score_file

SCHEMA = pa.schema([("text", pa.string()), ("name", pa.string())])
FIELDS = read.Fields(text="text", id="name")
SCORERS = {"loss": lambda texts: np.array([float(len(text)) for text in texts]), "minus": lambda texts: np.array([0.5 for _ in texts])}


def write(output, folder, scorers=SCORERS, facts=None):
    return score_file.write(output, read.find([str(folder)])[0], FIELDS, scorers, facts or {}, Tally())


rows_of = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["x", "y  ", "y", "long text", " \n", ""])), min_size=1)


@settings(max_examples=40, deadline=None)
@given(rows_of, st.data())
def test_the_file_has_each_pair_of_text_and_id_once_however_the_rows_lie_in_files(tmp_path_factory, rows, data):
    tables = []
    for order in (rows, data.draw(st.permutations(rows))):
        folder = tmp_path_factory.mktemp("rows")
        cut = data.draw(st.integers(0, len(rows)))
        (folder / "in").mkdir()
        columns = {"text": [text for _, text in order[cut:]], "name": [name for name, _ in order[cut:]]}
        pq.write_table(pa.table(columns, schema=SCHEMA), folder / "in/b.parquet")
        lines = [json.dumps({"name": name, "text": text}) + "\n" for name, text in order[:cut]]
        (folder / "in/a.jsonl").write_text("".join(lines))
        tables.append(write(folder / "s.parquet", folder / "in"))
        assert pq.read_table(folder / "s.parquet").equals(tables[-1])
        assert sorted(path.name for path in folder.iterdir()) == ["in", "s.parquet"]
    assert tables[0].equals(tables[1])
    pairs = {(normalise.text_hash(text), name, len(text)) for name, raw in rows if (text := normalise.normalise_text(raw))}
    found = list(zip(*(tables[0][column].to_pylist() for column in ("hash", "id", "loss")), strict=True))
    assert set(found) == pairs and len(found) == len(pairs)
    assert [digest for digest, _, _ in found] == sorted(digest for digest, _, _ in pairs)
    assert tables[0]["difference"].equals(pc.subtract(tables[0]["loss"], 0.5))


def test_what_has_no_score_is_null_and_one_scorer_gives_no_difference(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "name": "1"}\n{"text": "b", "name": "2"}\n')
    scorer = lambda texts: np.array([1.0 if text == "a" else np.nan for text in texts])  # noqa: E731
    table = write(tmp_path / "s.parquet", tmp_path / "in.jsonl", {"loss": scorer})
    assert table.column_names == ["hash", "id", "loss"]
    assert dict(zip(table["id"].to_pylist(), table["loss"].to_pylist(), strict=True)) == {"1": 1.0, "2": None}


def test_a_job_goes_on_from_finished_pieces_of_its_own_models_and_files(tmp_path):
    folder, seen = tmp_path / "in", []
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": name, "name": name}) + "\n")
    (folder / "c.parquet").write_bytes(b"PAR1 cut off")

    def scorer(texts):
        seen.extend(texts)
        return np.zeros(len(texts))

    with pytest.raises(read.ReadError, match="c.parquet"):
        write(tmp_path / "s.parquet", folder, {"loss": scorer}, {"model": 1})
    assert seen == ["a", "b"] and not (tmp_path / "s.parquet").exists()

    with pytest.raises(read.ReadError, match="c.parquet"):
        write(tmp_path / "s.parquet", folder, {"loss": scorer}, {"model": 2})
    assert seen == ["a", "b"] * 2  # another model: nothing of the first is used

    seen.clear()
    (folder / "b.jsonl").write_text('{"text": "new b", "name": "b"}\n')
    (folder / "c.parquet").unlink()
    table = write(tmp_path / "s.parquet", folder, {"loss": scorer}, {"model": 1})
    assert seen == ["new b"]
    assert set(table["hash"].to_pylist()) == {normalise.text_hash("a"), normalise.text_hash("new b")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "s.parquet"]
