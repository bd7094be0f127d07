"""Faults are drawn inside the run, and damage is damage."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax.experiments.chaos import arrangement, faults
from kaiyuan_jax.experiments.chaos.arrangement import STEPS

STRIKES = [name for name, kind in faults.KINDS.items() if kind.when == "strike"]


@given(st.integers(0, 2**32), st.sampled_from(STRIKES), st.integers(0, STEPS - 1), st.sampled_from([1, 2, 4]))
def test_a_strike_hits_processes_that_there_are_at_a_step_that_comes(seed, kind, saved_step, processes):
    strike = faults.strike(random.Random(seed), kind, saved_step, processes, start=8.0)
    assert set(strike.victims) <= set(range(processes))
    assert len(strike.victims) == (1 if "one" in kind else processes)
    if strike.moment.event == "batch":
        assert strike.moment.step < STEPS
    if "stop" in kind:
        assert strike.seconds > arrangement.TIMEOUT


def test_every_kind_that_is_promised_is_there():
    wanted = (
        "kill",
        "terminate",
        "stop",
        "full_disk",
        "truncated",
        "flipped",
        "deleted",
        "slow_read",
        "failing_read",
        "clock",
        "nan_batch",
    )
    assert all(any(kind.startswith(name) for kind in faults.KINDS) for name in (*wanted, "processes"))
    moments = {kind.rpartition("_")[2] for kind in faults.KINDS if kind.startswith("kill")}
    assert moments == {"start", "step", "write", "window", "evaluation"}


@pytest.fixture
def run(tmp_path):
    for step in (5, 10):
        folder = tmp_path / "run" / "checkpoints" / str(step)
        (folder / "parameters").mkdir(parents=True)
        (folder / "parameters" / "d").write_bytes(bytes(range(200)))
        (folder / "commit_success.txt").write_text("x")
    return tmp_path / "run"


def content(run):
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_damage_changes_one_file_and_says_which(run, kind):
    for seed in range(20):
        before = content(run)
        said = faults.damage(random.Random(seed), kind, run)
        changed = [path for path, bytes_ in content(run).items() if bytes_ != before[path]]
        assert len(changed) == 1 and str(changed[0]) in said
        (run / changed[0]).write_bytes(before[changed[0]])


def test_the_checkpoint_deleted_is_the_newest(run):
    assert "checkpoints/10 deleted" in faults.damage(random.Random(0), "deleted", run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["5"]


def test_where_there_is_no_checkpoint_nothing_is_damaged(tmp_path):
    assert faults.damage(random.Random(0), "flipped", tmp_path / "run") == ""
