"""Pass 1: rows do not depend on how tables are cut, parts hold what they say, numbers never overflow into others."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import documents, normalise
from kaiyuan_jax.data.prepare.fields import COLUMNS
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings
from kaiyuan_jax.data.prepare.tally import Tally

TEXTS = ["", "a\r\nb", "one two three four five six seven eight", "数据" * 40, "write to x@example.org", "<|endoftext|>", "x" * 3000, " \n"]
SETTINGS = Settings(quality_field="q", id_field="id", mask=("email",), scores=("heuristic",), sort_by="quality", missing_quality="drop")


def raw(rows):
    """rows: (id or None, text, quality or None)."""
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
    return pa.table([*columns, pa.nulls(len(rows), pa.large_string())], schema=COLUMNS)


ROW = st.tuples(st.none() | st.sampled_from("abc"), st.sampled_from(TEXTS) | st.text(max_size=30), st.none() | st.floats(-2, 2))


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(ROW, min_size=1, max_size=12), cut=st.integers(0, 12))
def test_rows_do_not_depend_on_how_tables_are_cut(rows, cut):
    whole, first, second = Tally(), Tally(), Tally()
    expected = documents.rows(raw(rows), SETTINGS, "", whole)
    parts = [documents.rows(raw(some), SETTINGS, "", tally) for some, tally in ((rows[:cut], first), (rows[cut:], second)) if some]
    assert pa.concat_tables(parts).to_pylist() == expected.to_pylist()
    first.merge(second)
    assert {name: count for name, count in first.counts.items() if count} == {name: count for name, count in whole.counts.items() if count}
    for row in expected.to_pylist():
        assert row["hash"] == normalise.text_hash(row["text"]) and row["size"] == len(row["text"].encode()) and np.isfinite(row["quality"])
        assert row["id"] in ("a", "b", "c", row["hash"].hex()) and "x@example.org" not in row["text"]


def test_ties_tell_rows_of_one_text_apart_by_everything_but_their_place():
    table = documents.rows(raw([("a", "same", 1.0), ("b", "same", 1.0), ("a", "same", 1.0)]), SETTINGS, "", Tally())
    ties = table["tie"].to_pylist()
    assert ties[0] == ties[2] != ties[1]


def writer(tmp_path, size):
    return documents._Writer(str(tmp_path / "part"), 7 << documents.PART_BITS, size)


def table_of(texts):
    return documents.rows(raw([(None, text, 1.0) for text in texts]), SETTINGS, "", Tally())


def test_parts_hold_every_text_once_and_know_their_numbers(tmp_path):
    texts = [f"{i} {'x' * (1 + i * 37 % 400)}" for i in range(300)]
    into = writer(tmp_path, 4000)
    for begin in range(0, 300, 70):
        into.add(table_of(texts[begin : begin + 70]), input=begin)
    parts = into.close()
    assert len(parts) > 5 and [text for part in parts for text in part.texts().to_pylist()] == texts
    assert all(part.bytes == sum(len(text) for text in part.texts().to_pylist()) for part in parts)
    for place, part in enumerate(parts):
        uids = part.table(["uid"])["uid"].to_numpy()
        assert part.number == (7 << documents.PART_BITS) + place
        assert (uids == (part.number << documents.ROW_BITS) + np.arange(part.documents)).all()


def test_a_part_ends_before_its_rows_or_its_task_before_its_parts_run_out_of_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROW_BITS", 3)
    into = writer(tmp_path, 1 << 20)
    for i in range(20):
        into.add(table_of([f"text {i}"]), input=0)
    assert [part.documents for part in into.close()] == [8, 8, 4]
    monkeypatch.setattr(documents, "PART_BITS", 1)
    into = writer(tmp_path, 1 << 20)
    with pytest.raises(PrepareError, match="more than 2 parts.*split that file, or raise --memory"):
        for i in range(30):
            into.add(table_of([f"text {i}"]), input=0)
