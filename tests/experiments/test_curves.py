"""Curves of runs follow the convention of the laws, and go through a CSV unchanged."""

import json

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments import curves
from kaiyuan_jax.schedules.laws import curves as laws

RATES = np.array([0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])


@pytest.fixture
def run(tmp_path):
    lines = [{"step": n, "loss": 9.0} for n in (2, 4, 6, 8)] + [{"step": n, "heldout/mean": 4 - n / 8} for n in (2, 4, 6, 8)]
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path.parent


def test_the_loss_after_n_updates_is_that_of_step_n_minus_1(run):
    curve = curves.read(run, RATES, warmup=1, first=4)
    assert curve.steps.tolist() == [3, 5, 7] and curve.losses.tolist() == [3.5, 3.25, 3.0]
    assert curve.rates is RATES and curve.warmup == 1


def test_a_run_that_has_not_come_to_its_end_is_refused(run):
    with pytest.raises(UserError, match="reach step 8 of 9; run --stage=train first"):
        curves.read(run, np.ones(9), warmup=1, first=4)
    with pytest.raises(UserError, match="reach step 0 of 9"):
        curves.read(run / "nothing", np.ones(9), warmup=1, first=4)


def test_a_line_that_is_being_written_is_not_read(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "heldo')
    assert len(curves.lines(run)) == 8


def test_a_mean_is_over_losses(run):
    first = curves.read(run, RATES, warmup=1, first=2)
    second = curves.Curve("b", first.steps, first.losses + 1, RATES, 1)
    assert curves.mean("m", [first, second]).losses == pytest.approx(first.losses + 0.5)


def test_the_csv_is_one_that_the_laws_read(run, tmp_path):
    curve = curves.read(run, RATES, warmup=1, first=2)
    path = tmp_path / "folder" / "c.csv"
    curves.write(path, curve)
    samples = laws.read(path)
    assert samples.steps.tolist() == curve.steps.tolist() and samples.losses == pytest.approx(curve.losses, abs=1e-6)
    assert samples.rates == pytest.approx(RATES[curve.steps]) and samples.checksum == curves.checksum(path)
