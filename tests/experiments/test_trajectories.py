"""Every checkpoint is measured once, from its own weights, and measured again where anything that decides the numbers is another."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.evaluation import heldout, suite, tasks, trajectory
from kaiyuan_jax.experiments import trajectories
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint
from tests.scripts import start

WORDS = "the sea and the shore while rain fell on a hill 学而时习之 x = f(y)".split()
STEPS = [10, 20, 30]


def save(folder, experiment, step, seed):
    random = np.random.default_rng([seed, step])
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    leaves = {
        "/".join(str(key.key) for key in path): random.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
        for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]
    }
    checkpoint.save_parameters(folder / "checkpoints" / str(step), leaves, {"step": step})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, a and b, of three checkpoints each."""
    folder, random = tmp_path_factory.mktemp("trajectories"), np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 60)) for _ in range(12)]
    trained = tokenizers.train(texts, 280)
    rows = [(f"d{i}", float(i), len(text.encode()), trained.encode(text).ids) for i, text in enumerate(texts)]
    size = tokenizers.vocabulary(trained)
    write_store(folder / "heldout", documents=rows, tokenizer_json=trained.to_str(), vocabulary=size, eod=0)
    for seed, name in enumerate("ab"):
        experiment = config.Experiment(
            name=name,
            model=config.Model(layers=1, width=8, feedforward=8, heads=1, kv_heads=1, head_size=8, vocabulary=size),
            data=config.Data(sources=[config.Source(name="text", heldout=str(folder / "heldout"))], sequence_length=16, batch_size=4),
            evaluation=config.Evaluation(
                rows=8, batch_size=8, quantiles=2, bootstrap=50, questions=6, choices=3, context=8, continuation=4, samples=0
            ),
        )
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(config.to_json(experiment))
        (folder / name / "tokenizer.json").write_text(trained.to_str())
        for step in STEPS:
            save(folder / name, experiment, step, seed)
    return folder


MEASURES = [trajectories.heldout_text(), trajectories.next_passage()]


def points(runs, name="a", loaded=None):
    """The points of a run; what is loaded is noted in `loaded`."""

    def noting(point):
        def load():
            loaded.append(point.step)
            return point.parameters()

        return dataclasses.replace(point, parameters=load)

    found = trajectories.of_run(name, runs / name, STEPS)
    return found if loaded is None else [noting(point) for point in found]


def test_every_row_is_what_the_evaluation_says_of_that_checkpoint(runs, tmp_path):
    rows = pq.read_table(trajectories.evaluate(points(runs), MEASURES, tmp_path)).to_pylist()
    found = {(row["step"], row["task"], row["level"], row["metric"]): row for row in rows}
    for point in points(runs):
        graphdef, _ = decoder.abstract(point.experiment.model, point.experiment.precision)
        whole = suite.evaluate(graphdef, point.parameters(), point.experiment, name="x", step=point.step).result
        said = whole["heldout"]["text"]
        row = found[point.step, "heldout/text", 0, "bits_per_byte"]
        assert (row["value"], [row["low"], row["high"]]) == (said["bits_per_byte"], said["bits_per_byte_interval"])
        assert row["tokens"] == 64 * point.step and row["loss"] == whole["mean"]["loss"] == said["loss"]
        levels = [found[point.step, "heldout/text", level, "bits_per_byte"]["value"] for level in (1, 2)]
        assert levels == [entry["bits_per_byte"] for entry in said["quantiles"]]
        row = found[point.step, "choice/text", 0, "accuracy"]
        assert (row["value"], [row["low"], row["high"]]) == (whole["choice"]["text"]["accuracy"], whole["choice"]["text"]["interval"])
    assert len({row["loss"] for row in rows}) == len(STEPS)


def test_tasks_of_a_suite_are_scored_with_their_levels(runs, tmp_path):
    items = [tasks.Item(f"i{n}", "the sea and", (" the shore", " a hill"), gold=n % 2, level=1 + n // 3) for n in range(6)]
    tasks.write_suite(tmp_path / "suite", [tasks.Task("pairs", tuple(items))], {})
    point = points(runs)[0]
    (measure,) = trajectories.suite("--tasks", str(tmp_path / "suite"))
    (fewer,) = trajectories.suite("--tasks", str(tmp_path / "suite"), items=2)
    assert measure.made_from(point) != fewer.made_from(point)
    graphdef, _ = decoder.abstract(point.experiment.model, point.experiment.precision)
    found = {(s.task, s.level, s.metric): s for s in measure.scores(point, heldout.token_losses(graphdef), point.parameters())}
    assert {level for _, level, _ in found} == {0, 1, 2} and {metric for _, _, metric in found} == set(tasks.METRICS)
    easy, hard, whole = (found["pairs", level, "accuracy"] for level in (1, 2, 0))
    assert {easy.value, hard.value} == {1 / 3, 2 / 3}  # one question, asked with either answer right
    assert whole.value == 0.5 and whole.low < 0.5 < whole.high and whole.error > 0


def test_members_of_a_population_are_runs_of_their_own(runs, tmp_path, monkeypatch):
    experiments = [config.read(runs / name / "config.json") for name in "ab"]
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "members.json").write_text(json.dumps([json.loads(config.to_json(one)) for one in experiments]))
    shutil.copy(runs / "a" / "tokenizer.json", tmp_path / "both")
    for step in STEPS:
        readers = [checkpoint.leaf_reader(runs / name / "checkpoints" / str(step)) for name in "ab"]
        stacked = {path: np.stack([read(path) for _, read in readers]) for path in readers[0][0]}
        facts = {"step": step, "diverged": [0, 15 if step > 15 else 0]}
        checkpoint.save_parameters(tmp_path / "both" / "checkpoints" / str(step), stacked, facts)
    assert start(monkeypatch, "evaluate_trajectory", [f"--runs={tmp_path}/both", f"--output={tmp_path}/t"], tmp_path) == 0
    alone = pq.read_table(trajectories.evaluate(points(runs), MEASURES[:1], tmp_path / "alone")).to_pylist()
    found = trajectory.read(tmp_path / "t" / "trajectory.parquet").to_pylist()
    assert [row | {"run": "a"} for row in found if row["run"] == "both/a"] == alone
    values = {row["step"]: row["value"] for row in found if (row["run"], row["task"], row["metric"]) == ("both/b", *trajectory.LOSS)}
    assert values[10] > 0 and values[20] is None and values[30] is None  # it had diverged


def test_a_stop_costs_the_checkpoint_at_hand_and_new_tasks_are_added(runs, tmp_path):
    first, second, third = points(runs)
    stopped = dataclasses.replace(second, parameters=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trajectories.evaluate([first, stopped, third], MEASURES[:1], tmp_path)
    assert not (tmp_path / "trajectory.parquet").exists()
    loaded = []
    whole = trajectories.evaluate(points(runs, loaded=loaded), MEASURES[:1], tmp_path).read_bytes()
    assert loaded == STEPS[1:]
    loaded.clear()
    assert trajectories.evaluate(points(runs, loaded=loaded), MEASURES[:1], tmp_path).read_bytes() == whole and not loaded
    part = trajectory.part(tmp_path, "a", 20, trajectory.HELDOUT)
    written = part.stat().st_mtime_ns
    trajectories.evaluate(points(runs, loaded=loaded), MEASURES, tmp_path)
    assert loaded == STEPS and part.stat().st_mtime_ns == written
    assert whole == trajectories.evaluate(points(runs), MEASURES[:1], tmp_path / "never stopped").read_bytes()


def test_other_weights_settings_or_text_are_measured_anew(runs, tmp_path):
    trajectories.evaluate(points(runs), MEASURES, tmp_path)
    loaded = []
    changed = points(runs, loaded=loaded)
    changed[1] = dataclasses.replace(changed[1], weights="of another training")
    trajectories.evaluate(changed, MEASURES, tmp_path)
    assert loaded == [20]
    for place, name, value in (
        ("evaluation", "rows", 4), ("evaluation", "bootstrap", 40), ("data", "mask_documents", True), ("data", "sequence_length", 8),
        ("precision", "compute", "bfloat16"), ("model", "logit_softcap", 5.0),
    ):  # fmt: skip
        experiment = config.read(runs / "a" / "config.json")
        setattr(getattr(experiment, place), name, value)
        other = dataclasses.replace(points(runs)[0], experiment=experiment, parameters=lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trajectories.evaluate([other], MEASURES[:1], tmp_path)


def test_the_command_writes_the_table_and_the_page_and_the_second_time_adds_a_run(runs, tmp_path, monkeypatch, capsys):
    flags = [f"--runs={runs}/a", f"--output={tmp_path}/t"]
    assert start(monkeypatch, "evaluate_trajectory", flags, tmp_path) == 0
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "t" / "parts").rglob("*.parquet")}
    assert len(parts) == 3
    assert start(monkeypatch, "evaluate_trajectory", [f"--runs={runs}/b,{runs}/a", *flags[1:]], tmp_path) == 0
    table = trajectory.read(tmp_path / "t" / "trajectory.parquet").to_pylist()
    assert [(run, step) for run in "ba" for step in STEPS] == list(dict.fromkeys((row["run"], row["step"]) for row in table))
    assert all(path.stat().st_mtime_ns == written for path, written in parts.items())
    assert f"written: {tmp_path}/t/report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--runs=a,{runs}/none/../a", "found two runs named a"),
        ("--runs=none", "--runs=none: holds no config.json"),
        ("--runs=bare", "--runs=bare: holds no complete checkpoint"),
        ("--runs=a --tasks=poems", "--tasks=poems: holds no suite.json"),
        ("--runs=a --tasks=choice,choice", "--tasks: choice stands for two tasks"),
        ("--runs=silent --tasks=choice", "config.evaluation.questions of silent is 0"),
        ("--runs=unread", "no source of its config has a held-out store"),
        ("--runs=a --output=s3://bucket/x", "--output=s3://bucket/x: must be a folder of this machine"),
    ],
)
def test_mistakes_end_in_one_line_before_any_work(flags, says, runs, tmp_path, monkeypatch, capsys):
    for name in ("a", "bare", "silent", "unread"):
        (tmp_path / name).mkdir()
        for file in ("tokenizer.json", "config.json"):
            (tmp_path / name / file).write_bytes((runs / "a" / file).read_bytes())
        if name != "bare":
            (tmp_path / name / "checkpoints").symlink_to(runs / "a" / "checkpoints")
    for name, path in (("silent", "evaluation.questions"), ("unread", "data.sources")):
        experiment = config.read(tmp_path / name / "config.json")
        owner, field = path.split(".")
        setattr(getattr(experiment, owner), field, 0 if field == "questions" else [])
        (tmp_path / name / "config.json").write_text(config.to_json(experiment))
    given = flags.replace("{runs}", str(tmp_path)).split()
    given += [] if "--output" in flags else ["--output=t"]
    assert start(monkeypatch, "evaluate_trajectory", given, tmp_path) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "t").exists()
