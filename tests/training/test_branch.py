"""A run that takes its first steps from another is, bit for bit, the run that computes them itself."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

from kaiyuan_jax import config, plan
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.data import recipe
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.schedules import file
from kaiyuan_jax.training import branch, checkpoint, loop, metrics, resume

FIELDS = dict(averaging__online_decay=0.9, evaluation__every=30, checkpoint__keep=10)


def train(experiment):
    return loop.train(experiment, jax.devices()[:1])


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def branched(tiny_in, folder, parent, step=40, **fields):
    fields = dict(schedule=dataclasses.replace(parent.schedule)) | fields
    return tiny_in(folder, branch=f"{parent.folder}/checkpoints/{step}", **FIELDS, **fields)


def wsd(path, facts=None, **fields):
    """The rates of a WSD schedule over the 100 steps, in a file."""
    rates = schedules.rates(config.Schedule(kind="wsd", warmup=5, **fields), 100, batch_size=1, sequence_length=1)
    file.write(path, *file.lines(rates), **(facts or {}))
    return config.Schedule(kind="file", path=str(path))


@pytest.fixture(scope="module")
def parent(tiny_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("branch")
    experiment = tiny_in(folder / "parent", **FIELDS, schedule=wsd(folder / "given.json"))
    train(experiment)
    return experiment


def test_with_the_same_schedule_the_branch_is_the_parent(tiny_in, tmp_path, parent, lines, parameters, capsys):
    child = branched(tiny_in, tmp_path / "child", parent)
    assert train(child).finished
    assert f"the first 40 steps are those of {parent.folder}" in capsys.readouterr().out
    assert lines(child) == lines(parent)
    assert_same(parameters(child, 100), parameters(parent, 100))
    assert checkpoint.steps(f"{child.folder}/checkpoints") == [20, 40, 60, 80, 100]
    grandchild = branched(tiny_in, tmp_path / "grandchild", child, step=80)
    train(grandchild)
    assert lines(grandchild) == lines(parent)


def test_with_another_end_the_branch_is_the_run_that_was_never_shared_and_a_formula_is_a_file_of_its_rates(
    tiny_in, tmp_path, parent, lines, parameters
):
    other = wsd(tmp_path / "other.json", decay=0.4, end=1e-4)  # leaves the peak after step 59
    whole = tiny_in(tmp_path / "whole", **FIELDS, schedule=config.Schedule(kind="wsd", warmup=5, decay=0.4, end=1e-4))
    child = branched(tiny_in, tmp_path / "child", parent, schedule=other)
    train(whole), train(child)
    assert lines(child) == lines(whole) and lines(child) != lines(parent)
    assert_same(parameters(child, 100), parameters(whole, 100))


def test_a_branch_that_was_killed_goes_on_without_its_parent(tiny_in, tmp_path, parent, lines, parameters):
    copy = tiny_in(tmp_path / "copy", **FIELDS, schedule=parent.schedule)
    shutil.copytree(parent.folder, copy.folder)
    child = branched(tiny_in, tmp_path / "child", copy)
    train(child)
    shutil.rmtree(copy.folder)
    for step in (60, 80, 100):
        shutil.rmtree(f"{child.folder}/checkpoints/{step}")
    assert train(child).finished
    assert lines(child) == lines(parent)
    assert_same(parameters(child, 100), parameters(parent, 100))


def test_once_it_has_begun_the_same_command_resumes_it_without_its_parent(tiny_in, tmp_path, parent, lines, capsys):
    def command(experiment):  # what launch/train.py does
        page = plan.describe(experiment)
        plan.warnings(experiment, recipe.resolve(experiment.data, *recipe.facts_of(experiment.data)))
        return loop.train(experiment, jax.devices()[:1], page=page)

    copy = tiny_in(tmp_path / "copy", **FIELDS, schedule=parent.schedule)
    shutil.copytree(parent.folder, copy.folder)
    child = branched(tiny_in, tmp_path / "child", copy)
    assert "the first 40 steps are taken from" in plan.describe(child)
    train(child)
    shutil.rmtree(f"{child.folder}/checkpoints/100")
    shutil.rmtree(f"{copy.folder}/checkpoints/40")  # as a parent does that goes on and keeps its newest
    assert command(child).finished and "resuming from step 80 of 100" in capsys.readouterr().out
    assert [line["step"] for line in lines(child)] == [line["step"] for line in lines(parent)]
    shutil.rmtree(copy.folder)
    assert command(child).finished and "finished before, at step 100" in capsys.readouterr().out
    assert f"the first 40 steps were taken from {copy.folder}" in (tmp_path / "child/plan.txt").read_text()
    for said in ("", f"{tmp_path}/elsewhere/checkpoints/7"):  # what the run came from is what happened, not what is said later
        assert train(dataclasses.replace(child, branch=said)).finished
        assert config.read(tmp_path / "child/config.json").branch == child.branch


def test_a_branch_that_was_killed_while_it_began_goes_on_from_what_is_there(tiny_in, tmp_path, parent, lines):
    child = branched(tiny_in, tmp_path / "child", parent, step=80)
    os.makedirs(f"{child.folder}/checkpoints")
    metrics.copy(branch.Path(parent.folder, "metrics.jsonl"), branch.Path(child.folder, "metrics.jsonl"), 80)
    shutil.copytree(f"{parent.folder}/checkpoints/20", f"{child.folder}/checkpoints/20")
    shutil.copytree(f"{parent.folder}/checkpoints/40", f"{child.folder}/checkpoints/40{checkpoint.UNFINISHED}-branch")
    assert train(child).finished
    assert lines(child) == lines(parent)


def test_checkpoints_taken_over_are_links_and_no_more_than_are_kept(tiny_in, tmp_path, parent):
    child = branched(tiny_in, tmp_path / "child", parent, step=60)
    child.checkpoint = config.Checkpoint(every=1000, keep=2)
    train(child)
    assert checkpoint.steps(f"{child.folder}/checkpoints") == [60, 100]
    one, other = (f"{run.folder}/checkpoints/60/commit_success.txt" for run in (parent, child))
    assert os.path.samefile(one, other)


def begin_while_the_parent_deletes(step, tiny_in, tmp_path, parent, monkeypatch):
    copy, child = tmp_path / "copy", tmp_path / "child"
    shutil.copytree(parent.folder, copy)
    (child / "checkpoints").mkdir(parents=True)
    order, copytree = checkpoint.progress(copy / "checkpoints/60")["order"], shutil.copytree

    def slow(source, target, *given, **options):
        copytree(source, target, *given, **options)
        if os.path.basename(source) == str(step):
            shutil.rmtree(source), shutil.rmtree(target / "rest")
            raise shutil.Error([("a file", "its copy", "no such file")])

    monkeypatch.setattr(shutil, "copytree", slow)
    branch.begin(child, branch.Parent(copy, 60), 20, 10, order)


def test_an_older_checkpoint_that_the_parent_deletes_meanwhile_is_left_out(tiny_in, tmp_path, parent, monkeypatch):
    begin_while_the_parent_deletes(40, tiny_in, tmp_path, parent, monkeypatch)
    assert sorted(os.listdir(tmp_path / "child/checkpoints")) == ["20", "60"]


def test_a_branching_point_that_the_parent_deletes_meanwhile_is_one_line(tiny_in, tmp_path, parent, monkeypatch):
    with pytest.raises(ConfigError, match="checkpoints/60 was deleted while this run took it over; branch off one that is kept"):
        begin_while_the_parent_deletes(60, tiny_in, tmp_path, parent, monkeypatch)
    assert sorted(os.listdir(tmp_path / "child/checkpoints")) == ["20", "40"]


def test_a_schedule_that_the_weights_have_not_felt_is_refused_with_the_first_step_that_differs(tiny_in, tmp_path, parent):
    early = wsd(tmp_path / "early.json", decay=0.8)  # leaves the peak after step 19
    child = branched(tiny_in, tmp_path / "child", parent, schedule=early)
    with pytest.raises(ConfigError, match=r"have felt another schedule: at step 20 the rate was 0.003, this run plans .*--from_step=40"):
        train(child)
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model__layers=3), "config.model.layers: was 2, now 3"),
        (dict(optimizer__beta2=0.99), "config.optimizer.beta2: was 0.95, now 0.99"),
        (dict(seed=1), "config.seed: was 0, now 1"),
        (dict(data__seed=1), "config.data.seed: was 0, now 1"),
        (dict(averaging__online_decay=0.0), "config.averaging.online_decay: was 0.9, now 0.0"),
    ],
)
def test_whatever_decides_the_weights_must_be_equal(tiny_in, tmp_path, parent, fields, message):
    child = tiny_in(tmp_path / "child", **(FIELDS | dict(branch=f"{parent.folder}/checkpoints/40") | fields))
    with pytest.raises(ConfigError, match="is another experiment") as error:
        train(child)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["runs/x", "checkpoints/last", "40"])
def test_what_is_no_checkpoint_is_refused(tiny, name):
    with pytest.raises(ConfigError, match="config.branch: found .*, must be a checkpoint such as runs/x/checkpoints/400"):
        train(tiny(branch=name))


def test_a_missing_checkpoint_is_refused_with_those_there_are(tiny_in, tmp_path, parent):
    with pytest.raises(ConfigError, match="has 20, 40, 60, 80, 100. Leave it empty"):
        train(branched(tiny_in, tmp_path / "child", parent, step=50))


def test_an_end_is_no_place_to_branch_off(tiny_in, tmp_path, parent):
    with pytest.raises(ConfigError, match="found step 100, must be below the 100 steps"):
        train(branched(tiny_in, tmp_path / "child", parent, step=100))


def test_other_text_under_the_same_names_is_refused(tiny_in, tmp_path, parent, stores):
    child = branched(tiny_in, tmp_path / "child", parent)
    shutil.copytree(stores, tmp_path / "stores")
    for source in child.data.sources:
        source.path = source.path.replace(str(stores), str(tmp_path / "stores"))
    shutil.rmtree(tmp_path / "stores/prose/train")
    shutil.copytree(stores / "code/train", tmp_path / "stores/prose/train")
    with pytest.raises(ConfigError, match="not the data that the run began with; branch off a run over the same stores"):
        train(child)


def test_the_plan_refuses_what_training_would(tiny_in, tmp_path, parent):
    child = branched(tiny_in, tmp_path / "child", parent, schedule=wsd(tmp_path / "early.json", decay=0.8))
    with pytest.raises(ConfigError, match="have felt another schedule"):
        plan.describe(child)
    child.schedule = parent.schedule
    assert f"the first 40 steps are taken from {parent.folder}" in plan.describe(child)


def test_a_formula_and_a_file_of_its_rates_may_follow_each_other(tiny_in, tmp_path, parent):
    child = branched(tiny_in, tmp_path / "child", parent, schedule=config.Schedule(kind="wsd", warmup=5, decay=0.4))
    made = recipe.resolve(child.data, *recipe.facts_of(child.data))
    assert branch.problems(child, made) == []
    child.schedule.decay = 0.8
    assert "have felt another schedule: at step 20" in branch.problems(child, made)[0]


def test_rates_that_differ_in_the_last_bits_are_another_schedule(tiny_in, tmp_path, parent):
    rates = schedules.rates(config.Schedule(kind="wsd", warmup=5), 100, batch_size=1, sequence_length=1)
    rates[30:] *= 1 + 2e-7
    file.write(tmp_path / "near.json", range(100), rates)
    child = branched(tiny_in, tmp_path / "child", parent, schedule=config.Schedule(kind="file", path=str(tmp_path / "near.json")))
    made = recipe.resolve(child.data, *recipe.facts_of(child.data))
    (line,) = branch.problems(child, made)
    assert "at step 30 the rate was 0.003, this run plans 0.0030000005. The first 40 rates" in line


def test_an_average_over_checkpoints_that_the_parent_does_not_have_is_refused(tiny_in, tmp_path, parent):
    copy = tiny_in(tmp_path / "copy", **FIELDS, schedule=parent.schedule)
    shutil.copytree(parent.folder, copy.folder)
    child = branched(tiny_in, tmp_path / "child", copy, averaging__kind="sma", averaging__last=5)
    assert "average: sma of the last 5, after steps 20, 40, 60, 80, 100" in plan.describe(child)
    shutil.rmtree(f"{copy.folder}/checkpoints/20")
    with pytest.raises(ConfigError, match="found 5, which means checkpoints 20, .* they would be 40, 60, 80, 100. Lower last to 3"):
        plan.describe(child)
    child.checkpoint.every = 30  # the checkpoint that it branches off is none of its own
    child.averaging.last = 4
    with pytest.raises(ConfigError, match="means checkpoints 30, 60, 90, 100; .* they would be 40, 60, 90, 100. Lower last to 3"):
        plan.describe(child)
    child.averaging.last = 3
    assert "after steps 60, 90, 100" in plan.describe(child)


# --- the files of a run folder ---


def test_fields_that_a_schedule_in_a_file_does_not_read_are_free(tiny, tmp_path):
    one, other = (tiny(schedule=wsd(tmp_path / "s.json")) for _ in range(2))
    other.schedule.peak, other.schedule.warmup = 1.0, 7
    assert resume.changes(one, other, resume.FREE) == []
    one.schedule = config.Schedule()
    assert any("schedule.kind" in line for line in resume.changes(one, other, resume.FREE))


def test_the_run_folder_keeps_schedule_and_law_and_runs_again_from_them(tiny_in, tmp_path, parent, lines):
    (tmp_path / "some_law.json").write_text('{"law": "multi_power"}')
    child = branched(tiny_in, tmp_path / "child", parent, step=80)
    child.schedule = wsd(tmp_path / "own.json")
    child.schedule.law = str(tmp_path / "some_law.json")
    train(child)
    os.remove(tmp_path / "own.json"), os.remove(tmp_path / "some_law.json")
    shutil.move(tmp_path / "child", tmp_path / "moved")
    again = config.read(tmp_path / "moved/config.json")
    assert again.schedule.path == str(tmp_path / "moved/schedule.json") and again.schedule.law == str(tmp_path / "moved/law.json")
    again.output = str(tmp_path / "again")
    train(again)
    assert lines(again) == lines(parent)
    again.output = str(tmp_path / "moved")
    assert train(again).finished  # it resumes from its own copy


def test_a_file_written_over_is_refused_when_the_run_resumes(tiny_in, tmp_path, parent):
    shutil.copytree(parent.folder, tmp_path / "child")
    child = tiny_in(tmp_path / "child", **FIELDS, schedule=wsd(tmp_path / "s.json", dict(predicted_final_loss=1.0)))
    assert train(child).finished  # the same rates with other facts are the same schedule
    wsd(tmp_path / "s.json", decay=0.25)
    with pytest.raises(ConfigError, match=r"not the schedule that the run in .* began with: at step 75 the rate was 0.003, now 0.0024"):
        train(child)


def test_a_missing_law_is_refused_before_any_work(tiny, tmp_path):
    experiment = tiny(schedule__law=str(tmp_path / "absent.json"))
    with pytest.raises(ConfigError, match="config.schedule.law: no file"):
        train(experiment)
    assert not os.path.exists(experiment.folder)
