"""The page of a fitted law and its text: every curve, both kinds of measures, every parameter; nothing fetched from elsewhere."""

import dataclasses
import re

import numpy as np
import pytest

from kaiyuan_jax.report import law as page
from kaiyuan_jax.report import law_figures, law_text
from kaiyuan_jax.schedules.laws import artefact, catalogue, huber, metrics, uncertainty
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

LAW = catalogue.LAWS["linear"]
STEPS = np.arange(100, 1000, 25)
DECAYING = np.concatenate([np.linspace(0, 3e-4, 101), np.full(400, 3e-4), np.linspace(3e-4, 3e-5, 500)])


@pytest.fixture(scope="module")
def fitted():
    random = np.random.default_rng(0)
    theta = np.array([3.0, -1.0, 0.5, np.log(300)]) if LAW.logged[3] else np.array([3.0, -1.0, 0.5, 300.0])
    train, test = (Curve(name, STEPS, np.ones(STEPS.size), rates, 100, f"in/{name}.csv", "0" * 64) for name, rates in
                   (("decaying", DECAYING), ("half", np.maximum(DECAYING, 1.5e-4))))  # fmt: skip
    train, test = (
        dataclasses.replace(curve, losses=LAW.evaluate(LAW.prepare([curve]), theta) + random.normal(0, 1e-3, STEPS.size))
        for curve in (train, test)
    )
    best = huber.minimise(LAW, LAW.prepare([train]), train.losses, theta)
    fit = uncertainty.attach(Fit(LAW, "converged", best.theta, best.objective, ("decaying",)), [train])
    measured = metrics.measure(LAW, fit.theta, [train], [test], metrics.same_end([train, test]))
    return fit, artefact.tree(fit, [train], [test], measured, ["mind the <gap>"]), [train], [test]


def test_the_page_holds_every_curve_parameter_and_warning_and_fetches_nothing(fitted, tmp_path):
    fit, contents, train, test = fitted
    path = page.build(tmp_path / "law.html", fit, contents, train, test)
    html = path.read_text(encoding="utf-8")
    for word in ("decaying", "half", *LAW.parameters, "mind the &lt;gap&gt;", "final_loss_error", "decaying-half", "0" * 16):
        assert word in html, word
    assert re.findall(r'<figure id="(\w+)"', html) == ["curves", "residuals", "profile"]
    assert not re.search(r'(src|href)="(?!data:)', html) and "<script" not in html
    assert [item.name for item in tmp_path.iterdir()] == ["law.html"]


def test_a_fit_without_uncertainty_or_test_curves_has_a_page_too(fitted, tmp_path):
    fit, _, train, _ = fitted
    fit = dataclasses.replace(fit, covariance=None, bands={})
    contents = artefact.tree(fit, train, [], metrics.measure(LAW, fit.theta, train, [], []))
    html = page.build(tmp_path / "law.html", fit, contents, train, []).read_text(encoding="utf-8")
    assert 'id="curves"' in html and 'id="profile"' not in html and "mean of the test curves" not in html


def test_the_text_shows_measures_parameters_and_gaps(fitted):
    _, contents, *_ = fitted
    text = law_text.describe(contents)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    mean = contents["metrics"]["mean"]
    assert (
        f"{mean['mae']:.5f}" in lines["mean of the test curves"] and f"{mean['final_loss_error']:+.5f}" in lines["mean of the test curves"]
    )
    assert " train " in lines["decaying"] and " test " in lines["half"]
    assert f"{contents['metrics']['pairs']['decaying-half']['gap_error']:+.4f}" in lines["decaying-half"]
    for name in LAW.parameters:
        low, high = contents["intervals"][name]
        assert low < contents["parameters"][name] < high
        assert f"{low:.4g} to {high:.4g}" in lines[name]


def test_the_picture_of_a_forecast_is_a_png():
    loss = np.linspace(4, 3, STEPS.size)
    assert law_figures.forecast("x", STEPS, DECAYING, (loss, loss - 0.1, loss + 0.1)).startswith(b"\x89PNG")


def test_many_pairs_are_cut_short_on_the_terminal(fitted):
    _, contents, *_ = fitted
    gap = contents["metrics"]["pairs"]["decaying-half"]
    pairs = {f"a{i}-b": gap for i in range(40)}
    text = law_text.describe(contents | {"metrics": contents["metrics"] | {"pairs": pairs}})
    assert text.splitlines()[-1] == "and 28 more pairs (law.json)" and "a11-b" in text and "a12-b" not in text
