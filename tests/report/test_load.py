import json

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.report.load import load, number, recipe_labels, recipes


def test_runs_that_differ_in_seeds_alone_are_one_recipe(quickstart):
    grouped = {label: [run.name for run in runs] for label, runs in recipes(load(quickstart)).items()}
    assert grouped == {
        "uniform, cosine to 1e-5": ["uniform_cosine"],
        "uniform, WSD to 1e-5": ["uniform_wsd", "uniform_wsd_seed1"],
        "ascending, WSD to 1e-5": ["ascending_wsd"],
        "ascending, WSD to 1e-3": ["ascending_moderate", "ascending_moderate_seed1"],
    }


def test_a_field_that_the_label_does_not_show_is_added_where_it_differs(quickstart):
    first, second = (run.experiment for run in load(quickstart[:2]))
    second.schedule = first.schedule
    assert len(set(recipe_labels([first, second]))) == 1
    second.optimizer.weight_decay = 0.3
    labels = recipe_labels([first, second])
    assert labels == ["uniform, cosine to 1e-5, optimizer.weight_decay=0.1", "uniform, cosine to 1e-5, optimizer.weight_decay=0.3"]


def test_lines_repeated_after_a_resume_count_once_and_a_line_cut_short_not_at_all(make_run):
    folder = make_run("resumed", 0.0)
    before = load([folder])[0].training
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(before[-1] | {"loss": 1.25}) + '\n{"step": 310, "lo')
    after = load([folder])[0].training
    assert len(after) == len(before) and after[-1]["loss"] == 1.25


def test_the_averaged_steps_and_the_chosen_model_are_found(quickstart):
    runs = {run.name: run for run in load(quickstart)}
    assert runs["ascending_moderate"].averages == {"average": [250, 260, 270, 280, 290, 300]}
    assert runs["ascending_moderate"].chosen.label == "EMA of 6 checkpoints"
    assert runs["uniform_wsd"].chosen.label == "final checkpoint"  # its config asks for no average
    assert (runs["uniform_wsd"].end_rate, runs["ascending_moderate"].end_rate) == pytest.approx((1e-5, 1e-3))
    assert runs["uniform_wsd"].tokens == 300 * 16 * 128


def test_a_folder_that_is_no_run_and_two_runs_of_one_name_are_refused(tmp_path, quickstart):
    with pytest.raises(UserError, match="holds no config.json"):
        load([tmp_path])
    with pytest.raises(UserError, match="two runs of one name"):
        load([quickstart[0], quickstart[0]])


def test_rates_are_written_as_people_write_them():
    assert [number(value) for value in (0, 1e-5, 3e-3, 1.2e-4, 0.003)] == ["0", "1e-5", "3e-3", "1.2e-4", "3e-3"]
