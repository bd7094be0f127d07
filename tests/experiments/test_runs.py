"""Where a run branches off, and what it can share."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.experiments import runs


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20), st.integers(0, 20))
def test_schedules_share_what_comes_before_the_first_difference(rates, place):
    first = np.array(rates)
    second = first.copy()
    second[place:] *= 1.1
    assert runs.shared_updates(first, second) == min(place, first.size)
    assert runs.shared_updates(first, first.astype(np.float32)) == first.size


@pytest.fixture
def trunk(study):
    """The constant run of seed 0 as a folder with checkpoints that look complete."""
    run = next(run for run in study.runs() if run.name == "constant")
    for step in (8, 16, 24, 32, 40):
        folder = run.folder / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        (folder / "commit_success.txt").touch()
    (run.folder / "config.json").write_text(config.to_json(run.experiment))
    return run


@pytest.mark.parametrize("name, step", [("wsd20_to_10", 32), ("two_stage", 16), ("cosine_to_10", 0), ("wsd_s", 16)])
def test_a_branch_begins_at_the_newest_checkpoint_before_it_differs(study, trunk, name, step):
    run = next(run for run in study.runs() if run.name == name)
    assert runs.branching_point(run) == step


def test_a_schedule_that_never_differs_still_trains_its_last_updates(study, trunk):
    same = study.run("again", trunk.experiment.schedule, 0)
    assert runs.branching_point(same) == 32


def test_every_run_knows_the_trunk_of_its_seed(study):
    for run in study.runs():
        assert run.trunk == ("" if run.name == "constant" else f"{study.output}/runs/constant_seed{run.seed}")


def test_rates_are_those_that_training_logs(study):
    for run in study.runs():
        found = runs.rates(run.experiment)
        assert found.size == study.size.steps and found[0] == 0 and json.dumps(found.tolist())
