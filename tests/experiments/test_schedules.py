"""The runs of the study differ in the schedule alone, and branch off where a checkpoint lies."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax import config, config_check
from kaiyuan_jax.experiments import runs, schedules
from kaiyuan_jax.schedules import build


def rates(schedule, size):
    return build.rates(schedule, size.steps, batch_size=size.batch_size, sequence_length=size.sequence_length)


def test_runs_of_one_seed_differ_in_the_schedule_alone(study):
    for seed in range(study.seeds):
        same = [dataclasses.replace(run.experiment, name="", output="", schedule=None) for run in study.runs() if run.seed == seed]
        for one in same:
            one.checkpoint.keep = 1
        assert all(one == same[0] for one in same) and len(same) > 4


def test_every_experiment_passes_the_check_that_training_makes(study):
    for run in study.runs():
        config_check.check(run.experiment)


def test_every_schedule_reaches_the_peak_and_none_passes_it():
    size = schedules.Size()
    for name, schedule in schedules.schedules(size).items():
        found = rates(schedule, size)
        assert found[size.warmup] == found.max() == size.peak, name
        assert np.all(found[: size.warmup] < size.peak), name


@pytest.mark.parametrize(
    "name, updates", [("two_stage", 240), ("wsd_s", 192), ("wsd20_to_10", 384), ("wsd10_to_3", 432), ("cosine_to_10", 25)]
)
def test_branches_share_the_constant_run_up_to_a_checkpoint(name, updates):
    size = schedules.Size()
    found = schedules.schedules(size)
    shared = runs.shared_updates(rates(found["constant"], size), rates(found[name], size))
    assert shared == updates
    assert name == "cosine_to_10" or shared % size.save == 0  # nothing is trained twice


def test_the_second_stage_is_the_second_half():
    size = schedules.Size()
    found = rates(schedules.schedules(size)["two_stage"], size)
    assert np.all(found[24:240] == 3e-3) and found[240:] == pytest.approx(0.3 * 3e-3)


def test_end_rates_and_decays_are_what_the_names_say():
    size = schedules.Size()
    for name, schedule in schedules.schedules(size).items():
        shape, _, end = name.partition("_to_")
        if end:
            found = rates(schedule, size)
            assert found[-1] == pytest.approx(size.peak / int(end))
            if shape.startswith("wsd"):
                assert np.sum(found[size.warmup :] < size.peak) == size.steps * int(shape[3:]) // 100


def test_each_family_is_tuned_over_all_its_runs():
    size = schedules.Size()
    found = schedules.families(size)
    assert len(found["cosine"]) == 3 and len(found["WSD"]) == 6
    assert {name for names in found.values() for name in names} == set(schedules.schedules(size)) - {"constant", "two_stage", "wsd_s"}


def test_roles_name_schedules_that_exist():
    found = schedules.schedules(schedules.Size())
    assert set(schedules.TRAIN) | set(schedules.TEST) | {schedules.TRUNK, schedules.BASELINE} <= set(found)
    assert set(schedules.TRAIN) | set(schedules.TEST) | {schedules.BASELINE} <= set(schedules.schedules(schedules.QUICK))


def test_training_curves_come_first():
    names = [run.name for run in schedules.Study(schedules.Size(), 3, "stores", "runs").runs()]
    assert set(names[:9]) == set(schedules.TRAIN) and not set(names[9:]) & set(schedules.TRAIN)


def test_other_steps_keep_the_shares():
    size = schedules.sized(schedules.Size(), 960)
    assert (size.steps, size.warmup, size.every, size.first, size.save) == (960, 48, 32, 256, 96)
    assert schedules.sized(size, 0) is size


def test_steps_that_do_not_divide_are_refused_with_the_unit():
    with pytest.raises(config.UserError, match="--steps: found 500, must be a multiple of 60"):
        schedules.sized(schedules.Size(), 500)
    assert schedules.sized(schedules.Size(), 60).every == 2


@pytest.mark.parametrize("name, words", [("cosine_to_10", "cosine to 1/10"), ("wsd20_to_3", "WSD 20% to 1/3"), ("two_stage", "two stages")])
def test_names_in_words(name, words):
    assert schedules.label(name) == words
