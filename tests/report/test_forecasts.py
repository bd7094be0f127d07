"""The report holds a run against what the law of its config said before."""

import html
import json

import numpy as np
import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax.report import build, forecasts
from kaiyuan_jax.report.load import load, peak_rate, recipe_labels, short_label
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.schedules import file
from kaiyuan_jax.schedules.laws import artefact, catalogue, forecast
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

LAW = catalogue.LAWS["multi_power_after_warmup"]
THETA = LAW.theta(dict(L0=2.0, A=0.8, alpha=0.4, B=60.0, C=2.0, beta=0.6, gamma=0.6))
STEPS, B, L = 400, 8, 64
KNOTS = {0: 0.0, 20: 3e-3, 300: 3e-3, 399: 3e-5}


def a_fit(**details):
    details = {"reach": {"updates": 400, "summed_rate": 1.2, "peaks": [3e-3, 3e-3]}} | details
    return Fit(LAW, "robust", THETA, 1e-4, ("cosine", "constant"), None, details, {"residual": 2e-3, "model": {"scale": 1e-3}})


def law_tree(fit):
    return artefact.tree(fit, [Curve("cosine", np.array([10, 20]), np.ones(2), np.full(400, 3e-3), 0)])


def write_run(folder, schedule, shift=None, heldout=False):
    """A run whose losses are the law's, and from step 240 on `shift` nats above."""
    folder.mkdir(parents=True)
    data = c.Data(
        sources=[c.Source(name="a", planned_tokens=10**6)],
        phases=[c.Phase(uses=[c.Use(source="a")], tokens=STEPS * B * L)], sequence_length=L, batch_size=B,
    )  # fmt: skip
    (folder / "config.json").write_text(c.to_json(c.Experiment(name=folder.name, data=data, schedule=schedule)))
    rates = schedules.rates(schedule, STEPS, batch_size=B, sequence_length=L)
    lines, previous = [], 0
    for step in range(8, STEPS + 1, 8):
        at = step - 1 if heldout else (previous + step - 3) // 2
        loss = float(forecast.predict(a_fit(), rates, np.array([max(at, 21)]))[0][0]) + (shift or 0.0) * (step >= 240)
        line = {"step": step, "loss": 9.0 if heldout else loss, "learning_rate": float(np.float32(rates[step - 1])), "mixture/a": 1.0}
        lines += [line | {"quantile/a": 0.5, "loss/a": loss}] + [{"step": step, "heldout/a": loss, "heldout/mean": loss}] * heldout
        previous = step
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def law(tmp_path):
    artefact.write(tmp_path / "some_law.json", law_tree(a_fit()))
    return c.Schedule(kind="wsd", warmup=20, law=str(tmp_path / "some_law.json"))


def test_a_run_that_follows_its_law_stays_inside_and_one_that_does_not_is_marked_where_it_leaves(tmp_path, law):
    runs = load([write_run(tmp_path / "follows", law), write_run(tmp_path / "leaves", law, shift=0.05)])
    (follows, leaves), missing = forecasts.of_runs(runs)
    assert not missing and follows.left is None and leaves.left == pytest.approx(235, abs=1)
    np.testing.assert_allclose(follows.predicted, follows.curve.losses, rtol=1e-6)
    assert follows.line[0][-1] == STEPS - 1
    path, _ = build.build([run.folder for run in runs], tmp_path / "report")
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert "follows: predicted" in page and "It never left the band for long." in page and "100% of its points lie in the band" in page
    assert f"It left the band at step {leaves.left}, above it. The law: multi_power_after_warmup, robust fit to the curves of" in page
    assert "(up to 400 updates, peak rate 0.003)" in page and "nothing here checks that they are yours" in page
    assert (tmp_path / "report/forecast.png").stat().st_size > 10_000


def test_a_run_that_has_only_begun_is_drawn(tmp_path, law):
    young = write_run(tmp_path / "young", law)
    lines = (young / "metrics.jsonl").read_text().splitlines(keepends=True)
    (young / "metrics.jsonl").write_text("".join(lines[:4]))  # all inside the first twelfth of the run
    path, _ = build.build([young], tmp_path / "report")
    assert "young: predicted" in html.unescape(path.read_text(encoding="utf-8"))


def test_a_law_of_held_out_losses_is_held_against_held_out_losses(tmp_path):
    artefact.write(tmp_path / "law.json", law_tree(a_fit(loss="heldout/mean")))
    schedule = c.Schedule(kind="wsd", warmup=20, law=str(tmp_path / "law.json"))
    (one,), _ = forecasts.of_runs(load([write_run(tmp_path / "run", schedule, heldout=True)]))
    assert one.loss == "heldout/mean" and one.left is None and one.curve.losses.max() < 9


def test_the_law_inside_a_designed_schedule_forecasts_from_the_run_folders_own_copy(tmp_path):
    file.write(tmp_path / "s.json", KNOTS.keys(), KNOTS.values(), law=law_tree(a_fit()))
    run = write_run(tmp_path / "run", c.Schedule(kind="file", path=str(tmp_path / "s.json")))
    (tmp_path / "s.json").rename(run / "schedule.json")
    (one,), missing = forecasts.of_runs(load([run]))
    assert one.run == "run" and one.left is None and not missing


def test_a_run_without_a_law_has_no_forecast_and_one_whose_law_is_gone_says_so(tmp_path, law):
    plain, gone = write_run(tmp_path / "plain", c.Schedule(kind="wsd", warmup=20)), write_run(tmp_path / "gone", law)
    (tmp_path / "some_law.json").unlink()
    found, (sentence,) = forecasts.of_runs(load([plain, gone]))
    assert found == [] and sentence.startswith("gone: no forecast: config.schedule.law:")
    path, _ = build.build([plain, gone], tmp_path / "report")
    assert sentence in html.unescape(path.read_text(encoding="utf-8")) and not (tmp_path / "report/forecast.png").exists()


def test_a_law_that_was_fitted_to_another_peak_is_doubted(tmp_path, law):
    law.peak = 1e-2
    (one,), _ = forecasts.of_runs(load([write_run(tmp_path / "run", law)]))
    assert any("its peak rate is 0.01" in doubt for doubt in one.doubts)


def test_runs_with_one_schedule_in_their_own_files_are_one_recipe_and_other_rates_another(tmp_path):
    def experiment(name, **knots):
        file.write(tmp_path / f"{name}.json", KNOTS.keys(), (KNOTS | knots).values())
        return c.Experiment(name=name, branch=f"runs/{name}", schedule=c.Schedule(kind="file", path=str(tmp_path / f"{name}.json")))

    one, same = experiment("one"), experiment("same")
    assert recipe_labels([one, same])[0] == recipe_labels([one, same])[1] == "no data, file to 3e-5"
    file.write(tmp_path / "other.json", KNOTS.keys(), [0.0, 3e-3, 2e-3, 3e-5])
    other = c.Experiment(name="other", schedule=c.Schedule(kind="file", path=str(tmp_path / "other.json")))
    labels = recipe_labels([one, same, other])
    assert labels[0] == labels[1] != labels[2] and all("schedule.path=" in label for label in labels)
    assert peak_rate(one.schedule) == 3e-3 and short_label(c.Experiment(schedule=c.Schedule(kind="file", path="gone"))) == "no data, file"
