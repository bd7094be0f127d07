"""The page of a fitted law: how well it predicts curves that it has not seen, its parameters, and how sure both are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import files, page
from kaiyuan_jax.report import law_figures, law_text
from kaiyuan_jax.schedules.laws import forecast, huber
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

BAND = (
    "Dots: the losses of the curve. Line and band: the law's prediction with 90% of the losses that such runs should show. Behind: the "
    "learning rate. The first twelfth of the points may lie above the panel."
)
LEFT = "Prediction less loss, in the unit of the losses; above 0 the law promises too little. The band is the same as above."
PROFILE = (
    "Huber loss of the training curves, as a multiple of its least value here, when one parameter is held at a value and all others are "
    "fitted again to that loss alone. A flat line is a parameter that these curves do not tell; shaded is the 90% interval, vertical the "
    "fitted value, which lies off the lowest point where the protocol knows more than the training loss."
)
HELD = 1e9  # precision of the prior that holds a parameter: the Huber losses are of order 1e-4
PROFILED = 9  # values of each parameter


def build(output: str | Path, fit: Fit, contents: dict, train: Sequence[Curve], test: Sequence[Curve]) -> Path:
    """Writes one self-contained HTML page about a fit; `contents` is its law.json. Returns the page's path."""
    shown = [*test, *train]
    title = f"{contents['law']} ({contents['protocol']})"
    mean = contents["metrics"]["mean"]
    parts = [f"<h1>Loss law {page.text(title)}</h1>", page.paragraph(law_text.headline(contents).replace("\n", "; "), "small")]
    if mean:
        words = f"On {len(test)} curves that it has not seen the law is wrong by {mean['mae']:.4f} on average and by at most "
        words += f"{mean['worste']:.2%} of the loss (mean over curves), and by {mean['final_loss_error']:+.4f} at their ends."
        parts.append(page.paragraph(words, "lead"))
    parts += [page.paragraph(f"Note: {warning}", "notice") for warning in contents["warnings"]]
    parts.append(page.section("Test", _table(*law_text.measures(contents), 2), _gaps(contents)))
    predicted = [forecast.predict(fit, curve.rates, curve.steps) for curve in shown]
    curves = page.Figure("curves", "Curves and predictions", BAND, law_figures.curves(fit, shown, predicted))
    left = page.Figure("residuals", "What the law leaves over", LEFT, law_figures.residuals(fit, shown, predicted))
    parts.append(page.section("Curves", page.figure(curves), page.figure(left)))
    parts.append(
        page.section(
            "Parameters", _table(*law_text.parameters(contents), 1), *(_profile(fit, contents, train) if fit.covariance is not None else [])
        )
    )
    parts.append(page.section("Inputs", _inputs(contents)))
    files.replace(output, page.page(f"Loss law {title}", parts))
    return Path(output)


def _table(header: list[str], rows: list[list[str]], words: int) -> str:
    return page.table(header, [([(cell, "") for cell in row], "", False) for row in rows], words)


def _gaps(contents: dict) -> str:
    if not contents["metrics"]["pairs"]:
        return ""
    about = "Pairs that end at the same step: final loss of a less that of b (means of the last 5 points), predicted and actual."
    return page.paragraph(about, "small") + _table(*law_text.gaps(contents), 2)


def _inputs(contents: dict) -> str:
    keys = ("name", "role", "path", "points", "first_step", "last_step", "steps_total", "warmup", "peak", "sha256")
    rows = [
        [f"{item[key]:,}" if isinstance(item[key], int) else f"{item[key]:.4g}" if key == "peak" else str(item[key])[:16] for key in keys]
        for item in contents["inputs"]
    ]
    return _table([key.replace("_", " ") for key in keys], rows, 3) + page.paragraph(f"Made by {contents['created_by']}.", "small")


def _profile(fit: Fit, contents: dict, train: Sequence[Curve]) -> list[str]:
    names = list(fit.law.parameters)
    prepared, losses = fit.law.prepare(train), np.concatenate([curve.losses for curve in train])
    intervals = [contents["intervals"][name] for name in names]
    grids, heights = [], []
    for number, (name, ends) in enumerate(zip(names, intervals, strict=True)):
        value = fit.theta[number]
        bounds = fit.law.theta(fit.values | {name: ends[0]})[number], fit.law.theta(fit.values | {name: ends[1]})[number]
        reach = 1.4 * max(value - bounds[0], bounds[1] - value, 1e-6)
        grid = np.linspace(value - reach, value + reach, PROFILED)
        found = np.full(PROFILED, np.nan)
        for order in (range(PROFILED // 2, PROFILED), range(PROFILED // 2 - 1, -1, -1)):  # outwards, each from its neighbour
            start = fit.theta
            for i in order:
                start = start.copy()
                start[number] = grid[i]
                prior = np.zeros((len(names), len(names)))
                prior[number, number] = HELD
                start = huber.minimise(fit.law, prepared, losses, start, prior=(start, prior), most=40).theta
                found[i] = huber.huber(huber.residuals(losses, fit.law.evaluate(prepared, start))).sum()
        grids.append(np.exp(grid) if fit.law.logged[number] else grid)
        heights.append(found)
    least = min(np.nanmin(found) for found in heights)
    png = law_figures.profile(names, grids, [found / least for found in heights], list(fit.values.values()), intervals)
    return [page.figure(page.Figure("profile", "Profile of each parameter", PROFILE, png))]
