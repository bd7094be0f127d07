"""Runs that follow a law exactly are predicted exactly; the law never sees what it is tested on."""

import dataclasses
import json

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.experiments import results, runs, schedules
from kaiyuan_jax.schedules import file
from kaiyuan_jax.schedules.laws import fading, minimize, robust
from kaiyuan_jax.schedules.laws.curves import Curve

LAW = fading.LAW
THETA = np.array([3.0, np.log(0.3), 0.5, np.log(150.0), *robust.RELEASED.mean])  # a kernel of the shape that the protocol expects
OFFSETS = (0.0, 0.02)  # of the seeds


def follow_the_law(study, shift=lambda name: 0.0):
    """Writes what every run would have left behind had it followed the law, a seed's runs `OFFSETS` higher."""
    knots, rates = file.lines(np.append(minimize.warmed_up(3e-3, 4), np.linspace(3e-3, 3e-4, 35)))
    study.folder.mkdir(exist_ok=True)
    file.write(study.folder / "schedule.json", knots, rates)
    steps = np.arange(study.size.every, study.size.steps + 1, study.size.every) - 1
    for run in study.runs() + study.designed():
        curve = Curve(run.name, steps, np.ones(steps.size), runs.rates(run.experiment), study.size.warmup)
        losses = LAW.evaluate(LAW.prepare([curve]), THETA) + OFFSETS[run.seed] + shift(run.name)
        run.folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"step": int(s) + 1, "heldout/mean": float(v)}) for s, v in zip(steps, losses, strict=True)]
        (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        branch = f"{run.trunk}/checkpoints/8" if run.trunk else ""
        (run.folder / "config.json").write_text(config.to_json(dataclasses.replace(run.experiment, branch=branch)))
        (run.folder / "evaluation").mkdir(exist_ok=True)
        tokens = np.arange(20, 40)
        arrays = dict(document=np.arange(20), tokens=tokens, nats=tokens * losses[-1])
        path = run.folder / "evaluation" / f"heldout_{study.size.final_rows}_rows.npz"
        np.savez(path, **{f"{source}/{field}": values for source in schedules.SOURCES for field, values in arrays.items()})


@pytest.fixture
def collected(study):
    follow_the_law(study)
    results.fit_law(study)
    return results.collect(study)


def test_a_law_is_predicted_on_schedules_that_it_was_not_fitted_to(collected):
    assert collected["unseen"]["names"] == ["wsd_s", "wsd20_to_10", "designed"]
    for name, row in collected["schedules"].items():
        assert abs(row["errors"]["final"]) < 0.01, name  # of the 0.1 that a decay gains
    assert collected["unseen"]["rank_correlation"] == pytest.approx(1.0)
    assert collected["unseen"]["noise"] == pytest.approx(np.std(OFFSETS, ddof=1))


def test_updates_that_a_branch_took_over_are_not_counted_as_trained(collected):
    assert collected["runs"] == 12 and collected["updates"] == 2 * (40 + 5 * 32)


def test_gaps_leave_out_what_a_seed_adds_to_all_its_runs(collected):
    for row in collected["schedules"].values():
        assert np.ptp(row["gap"]["actual"]["seeds"]) == pytest.approx(0, abs=1e-12)
        assert np.ptp(row["final"]["seeds"]) == pytest.approx(0.02)
    assert collected["schedules"]["cosine_to_10"]["gap"]["actual"]["mean"] == 0


def test_the_comparison_is_of_the_larger_sample_against_the_tuned(collected):
    found = collected["comparison"]
    assert found["tuned"] == {"cosine": "cosine_to_10", "WSD": "wsd20_to_10"}
    assert [(one["first"], one["second"]) for one in found["differences"]] == [
        ("designed", "cosine_to_10"), ("designed", "wsd20_to_10"), ("wsd20_to_10", "cosine_to_10"),
    ]  # fmt: skip
    for one in found["differences"]:
        finals = [collected["schedules"][name]["final"]["mean"] for name in (one["first"], one["second"])]
        assert one["mean"] == pytest.approx(finals[0] - finals[1]) and one["documents"] == pytest.approx([one["mean"]] * 2)


def test_the_law_sees_nothing_of_the_test_runs(study):
    follow_the_law(study)
    before = results.fit_law(study)
    follow_the_law(study, shift=lambda name: 0.0 if name in schedules.TRAIN else 5.0)
    after = results.fit_law(study)
    assert np.array_equal(before.theta, after.theta) and set(after.train) == set(schedules.TRAIN)


def test_law_json_names_the_curves_that_it_was_fitted_to(study):
    follow_the_law(study)
    results.fit_law(study)
    inputs = json.loads((study.folder / "law.json").read_text())["inputs"]
    assert {item["name"] for item in inputs} == set(schedules.TRAIN) and all(len(item["sha256"]) == 64 for item in inputs)


def test_what_a_branch_has_from_the_constant_run_is_no_prediction(collected):
    row = collected["schedules"]["wsd20_to_10"]
    assert row["own_from"] >= 32  # the decay is of the last 8 of 40 updates
    assert collected["schedules"]["constant"]["own_from"] == row["steps"][0]
