"""The table says what the evaluation says, row for row, and its parts are whole, named by what they were made from."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation import choice, heldout, trajectory


def sums(seed: int, documents: int = 12) -> heldout.DocumentSums:
    random = np.random.default_rng(seed)
    tokens, size = random.integers(5, 50, (2, documents))
    nats = tokens * random.normal(4, 0.3, documents)
    quantile = (np.arange(documents) + 0.5) / documents
    return heldout.DocumentSums(np.arange(documents), quantile, nats, tokens, nats / np.log(2), 4 * size)


def by_name(scores):
    return {(score.task, score.level, score.metric): score for score in scores}


def test_heldout_scores_are_those_of_the_evaluation_and_their_interval_is_its_interval():
    tables = {"code": sums(0), "prose": sums(1)}
    scores = by_name(trajectory.heldout_scores(tables, ["code"], quantiles=3, resamples=200))
    for source, table in tables.items():
        said = heldout.summary(table, quantiles=3, scored=source == "code", resamples=200, source=source)
        for metric, name in (("nats_per_token", "loss"), ("bits_per_byte", "bits_per_byte")):
            score = scores.pop((f"heldout/{source}", 0, metric))
            assert score.value == said[name] and [score.low, score.high] == said[f"{name}_interval"]
        for number, entry in enumerate(said["quantiles"], 1):
            score = scores.pop((f"heldout/{source}", number, "bits_per_byte"))
            assert score.value == entry["bits_per_byte"] and [score.low, score.high] == entry["interval"]
    mean = heldout.mean_summary(tables, resamples=200)
    for metric, name in (("nats_per_token", "loss"), ("bits_per_byte", "bits_per_byte")):
        score = scores.pop(("heldout/mean", 0, metric))
        assert score.value == mean[name] and [score.low, score.high] == mean[f"{name}_interval"]
    assert not scores


def test_the_error_is_the_standard_deviation_of_the_mean_over_documents():
    right = np.random.default_rng(0).integers(0, 2, 400).astype(float)
    answers = choice.Answers(np.arange(400), right, np.full(400, 8.0), np.full(400, 4))
    accuracy, gold = trajectory.choice_scores({"code": answers}, resamples=2000)
    assert accuracy.value == right.mean()
    assert accuracy.error == pytest.approx(right.std() / 20, rel=0.1)  # of a mean of 400 independent answers
    assert accuracy.low == pytest.approx(right.mean() - 1.96 * accuracy.error, abs=0.01)
    assert gold.value == gold.low == gold.high == 2.0 and gold.error == 0.0


def test_what_is_not_known_is_null():
    one = trajectory.heldout_scores({"code": sums(0, 1)}, [], quantiles=3, resamples=20)[0]
    assert one.value is not None and (one.error, one.low, one.high) == (None, None, None)
    assert trajectory.measured("t", 0, "m", float("nan")).value is None
    nothing = choice.Answers(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0, int))
    assert trajectory.choice_scores({"code": nothing}, resamples=20) == []


def write(folder, run, step, loss, made_from="a"):
    task, metric = trajectory.LOSS
    scores = [trajectory.Score(task, 0, metric, loss, 0.1, loss - 0.2, loss + 0.2)]
    trajectory.write(trajectory.part(folder, run, step, trajectory.HELDOUT), scores, made_from)
    other = [trajectory.Score("poems", level, "accuracy", 0.25 * level) for level in (0, 1)]
    trajectory.write(trajectory.part(folder, run, step, "poems"), other, made_from)


def test_a_part_is_made_where_it_was_made_from_the_same_and_is_whole(tmp_path):
    path = trajectory.part(tmp_path, "a", 5, "x")
    assert not trajectory.is_made(path, "key")
    trajectory.write(path, [trajectory.Score("x", 0, "accuracy", 1.0)], "key")
    assert trajectory.is_made(path, "key") and not trajectory.is_made(path, "another")
    assert [file.name for file in path.parent.iterdir()] == ["5.x.parquet"]
    path.write_bytes(path.read_bytes()[:40])
    assert not trajectory.is_made(path, "key")


def test_a_key_is_that_of_its_facts():
    assert trajectory.key({"a": 1, "b": [2]}, "x") == trajectory.key({"b": [2], "a": 1}, "x")
    assert len({trajectory.key(*facts) for facts in ((1,), (2,), (1, 2), ([1, 2],), ())}) == 5


def test_every_row_carries_the_held_out_loss_of_its_own_checkpoint(tmp_path):
    for run, step, loss in (("a", 5, 4.0), ("a", 10, 3.0), ("b", 5, 4.5)):
        write(tmp_path, run, step, loss)
    path = trajectory.collect(tmp_path, [("a", 5, 50), ("a", 10, 100), ("b", 5, 50)], [trajectory.HELDOUT, "poems"])
    table = trajectory.read(path)
    assert table.schema == trajectory.SCHEMA and table.num_rows == 9
    found = {(row["run"], row["step"]): (row["tokens"], row["loss"]) for row in table.to_pylist() if row["task"] == "poems"}
    assert found == {("a", 5): (50, 4.0), ("a", 10): (100, 3.0), ("b", 5): (50, 4.5)}
    assert [row["value"] for row in table.to_pylist()][:3] == [4.0, 0.0, 0.25]


def test_a_part_that_is_missing_or_another_file_ends_in_one_line(tmp_path):
    write(tmp_path, "a", 5, 4.0)
    with pytest.raises(UserError, match="a part of a, step 10 cannot be read"):
        trajectory.collect(tmp_path, [("a", 5, 50), ("a", 10, 100)], [trajectory.HELDOUT])
    part = trajectory.part(tmp_path, "a", 5, "poems")
    with pytest.raises(UserError, match="has columns task, level"):
        trajectory.read(part)
    with pytest.raises(UserError, match="cannot be read"):
        trajectory.read(tmp_path / "none.parquet")
    pq.write_table(pq.read_table(part), tmp_path / "t.parquet")  # the parts' own schema is no table of a trajectory
    with pytest.raises(UserError, match="must have run, step"):
        trajectory.read(tmp_path / "t.parquet")
