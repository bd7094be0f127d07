"""A plan with a law, and one whose schedule is a file: the loss that it forecasts, in words and drawn."""

import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax import plan as planning
from kaiyuan_jax.plan import text
from tests.plan.test_plan import ROOT, B, L, experiment, phase, warned


def a_law(folder, **details):
    from kaiyuan_jax.schedules.laws import artefact, catalogue
    from kaiyuan_jax.schedules.laws.curves import Curve
    from kaiyuan_jax.schedules.laws.fit import Fit

    law = catalogue.LAWS["multi_power_after_warmup"]
    theta = law.theta(dict(L0=3.0, A=0.5, alpha=0.5, B=40.0, C=2.0, beta=0.6, gamma=0.6))
    details = {"reach": {"updates": 500, "summed_rate": 1.4, "peaks": [3e-3, 3e-3]}, **details}
    fit = Fit(law, "robust", theta, 1e-4, ("cosine", "constant"), None, details, {"residual": 2e-3, "model": {"scale": 1e-3}})
    tree = artefact.tree(fit, [Curve("cosine", np.array([10, 20]), np.ones(2), np.full(500, 3e-3), 0)])
    artefact.write(folder / "law.json", tree)
    return fit, tree


def forecast_of(page):
    return page.split("Forecast of the loss\n")[1].split("\n\nCheckpoints")[0]


def test_a_plan_with_a_law_forecasts_the_loss_with_its_band_and_says_what_was_fitted(tmp_path):
    from kaiyuan_jax.schedules import build
    from kaiyuan_jax.schedules.laws import forecast

    fit, _ = a_law(tmp_path, loss="heldout/mean")
    tree = experiment([phase(passes=2.0)])
    assert "Forecast" not in planning.describe(tree)
    tree.schedule.law = str(tmp_path / "law.json")
    text = forecast_of(planning.describe(tree))
    rates = build.rates(tree.schedule, 500, batch_size=B, sequence_length=L)
    loss, low, high = (ends[0] for ends in forecast.predict(fit, rates, np.array([499])))
    assert f"499      0.001  {loss:>7.4f}  {low:.4f} to {high:.4f}" in text
    words = " ".join(text.split())
    assert "robust fit to the heldout/mean losses of cosine, constant (up to 500 updates, peak rate 0.003)" in words
    assert "A law holds for the model, batch size, optimizer and text of the runs it was fitted to" in words
    tree.schedule.peak = 1e-2
    assert "this run: its peak rate is 0.01, that of the training curves 0.003" in " ".join(planning.describe(tree).split())


def test_the_html_of_a_plan_with_a_law_draws_its_forecast_and_the_band_around_it(tmp_path):
    from kaiyuan_jax.plan import document
    from kaiyuan_jax.sharding import topology

    a_law(tmp_path, loss="heldout/mean")
    tree = experiment([phase(passes=2.0)])
    tree.schedule.law = str(tmp_path / "law.json")
    text = document.describe(tree, topology.target("v5e:2x2")).html()
    assert text.count("<svg") == 2 and text.count("<polygon") == 1 and "A law holds for the model" in text


def test_a_plan_draws_a_schedule_in_a_file_and_forecasts_with_the_law_inside(tmp_path):
    from kaiyuan_jax.schedules import file

    knots = {0: 0.0, 10: 3e-3, 399: 3e-3, 450: 1e-3, 499: 1e-5}
    file.write(tmp_path / "s.json", knots.keys(), knots.values(), law=a_law(tmp_path)[1])
    tree = experiment([phase(passes=2.0)], schedule=c.Schedule(kind="file", path=str(tmp_path / "s.json")))
    page = planning.describe(tree)
    for line in (
        "Learning rate (file)",
        "first update; rise from 0 to 0.003 by step 10 begins",
        "10  0.003  constant at 0.003",
        "399  0.003  fall from 0.003 to 1e-05 by step 499 in 2 lines begins",
        "499  1e-05  last update",
    ):
        assert line in page
    assert forecast_of(page).startswith("  step")
    assert warned(tree) and "ascending order while the rate falls" in " ".join(warned(tree))


def test_a_table_with_a_rate_a_step_costs_the_page_no_work_a_row(tmp_path, monkeypatch):
    from kaiyuan_jax.schedules import build

    rates = np.random.default_rng(0).uniform(1e-4, 3e-3, 20_000)
    (tmp_path / "s.csv").write_text("step,lr\n" + "\n".join(f"{step},{rate!r}" for step, rate in enumerate(rates.tolist())))
    schedule = c.Schedule(kind="file", path=str(tmp_path / "s.csv"))
    tree = experiment([phase(tokens=20_000 * B * L, passes=20.0)], schedule=schedule, sizes={"prose": 25_600_001, "code": 25_600_001})
    asked, learning_rate = [], text.learning_rate
    monkeypatch.setattr(build, "Segment", lambda *_: pytest.fail("a segment for a row"))
    monkeypatch.setattr(text, "learning_rate", lambda *given: lambda step: asked.append(step) or learning_rate(*given)(step))
    page = planning.describe(tree)
    assert len(asked) == text.WIDTH + text.SHOWN
    turns = 1 + np.flatnonzero(np.diff(np.sign(np.diff(rates))))  # every row of the page is one, but the first and the last update
    assert f"{turns.size + 2 - text.SHOWN:,} more" in page
    rows = [line.split()[:2] for line in page.splitlines()]
    assert all([f"{step:,}", f"{rates[step]:.3g}"] in rows for step in (0, turns[0], turns[-1], 19_999))


def test_a_file_of_another_length_and_a_law_that_is_none_are_problems(tmp_path):
    from kaiyuan_jax.schedules import file

    file.write(tmp_path / "s.json", [0, 399], [1e-3, 1e-4])
    tree = experiment([phase(passes=2.0)], schedule=c.Schedule(kind="file", path=str(tmp_path / "s.json")))
    with pytest.raises(c.ConfigError, match="is a schedule of 400 steps, the run has 500; design it again with --steps=500"):
        planning.describe(tree)
    (tmp_path / "law.json").write_text("{}")
    with pytest.raises(c.ConfigError, match="config.schedule.law: .*law.json: has no schema, must be a law.json"):
        planning.describe(experiment([phase(passes=2.0)], schedule=c.Schedule(law=str(tmp_path / "law.json"))))


def test_a_forecast_leaves_jax_alone_and_comes_within_a_second(tmp_path):
    a_law(tmp_path)
    script = tmp_path / "config.py"
    tree = experiment([phase(passes=2.0)], schedule=c.Schedule(law=str(tmp_path / "law.json")))
    (tmp_path / "saved.json").write_text(c.to_json(tree))
    script.write_text(
        "import sys, time\nfrom kaiyuan_jax import config, plan\n"
        f"tree = config.read({str(tmp_path / 'saved.json')!r})\n"
        "page = plan.describe(tree)\nassert 'Forecast of the loss' in page\nprint(time.process_time(), 'jax' in sys.modules)\n"
    )
    seconds, has_jax = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert float(seconds) < 2 and has_jax == "False"
