"""The page of a trajectory shows the numbers of its table and no others."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.evaluation.trajectory import SCHEMA
from kaiyuan_jax.report import trajectory


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rows = []
    for run, loss in (("a", 4.0), ("b", 4.5)):
        for step in (20, 10):  # in any order
            known = dict(run=run, step=step, tokens=100 * step, loss=loss - step / 10)
            rows.append(known | dict(task="heldout/mean", level=0, metric="nats_per_token", value=loss - step / 10, error=None))
            for level in (0, 1):
                value = (step + level) / 100
                scores = dict(task="poems", level=level, metric="accuracy", value=value, error=0.01, low=value - 0.02, high=value + 0.02)
                rows.append(known | scores)
    path = tmp_path_factory.mktemp("page") / "trajectory.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def test_lines_go_by_step(path):
    found = {(line.run, line.task, line.level): line for line in trajectory.lines(pq.read_table(path))}
    assert len(found) == 6
    line = found["b", "poems", 1]
    assert line.rows["step"].tolist() == [10, 20] and line.rows["loss"].tolist() == [3.5, 2.5]
    assert line.rows["value"].tolist() == [0.11, 0.21] and line.last["high"] == pytest.approx(0.23)


def test_the_page_has_a_figure_a_metric_and_the_last_numbers_of_every_run(path):
    said = trajectory.build(path, "Two <runs>")
    assert [line.split() for line in said.splitlines()] == [
        ["a", "b"],
        ["heldout/mean", "nats_per_token", "2.0000", "2.5000"],
        ["poems", "accuracy", "0.2000", "0.2000"],
    ]
    html = path.with_name("report.html").read_text()
    assert "Two &lt;runs&gt;" in html and "2 runs, 4 checkpoints" in html and html.count("<figure") == 2
    assert "<small>0.1900 0.2300</small>" in html  # of level 1 at the last checkpoint
    assert all(path.with_name(f"trajectory_{metric}.png").read_bytes() for metric in ("nats_per_token", "accuracy"))


def test_the_same_table_gives_the_same_bytes(path):
    trajectory.build(path, "again")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    trajectory.build(path, "again")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_table_without_rows_gives_a_page_without_figures(tmp_path):
    pq.write_table(SCHEMA.empty_table(), tmp_path / "trajectory.parquet")
    trajectory.build(tmp_path / "trajectory.parquet", "nothing")
    assert "0 runs, 0 checkpoints" in (tmp_path / "report.html").read_text()
