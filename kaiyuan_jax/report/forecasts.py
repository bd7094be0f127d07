"""What a law said about a run before it ran, beside what the run then did."""

import dataclasses

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.report import curves as folders
from kaiyuan_jax.report import style
from kaiyuan_jax.report.load import Run
from kaiyuan_jax.schedules.laws import curves, forecast, named
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

ACTUAL, PREDICTED, RATE = style.INK, style.RECIPE_COLOURS[1], style.SOURCE_COLOURS[0]
COLUMNS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Forecast:
    """A run's curve and, at the same steps, the prediction with its band (float64[E]); at the plan's steps beyond the curve too."""

    run: str
    loss: str  # which loss: train, or a held-out one
    curve: Curve
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    line: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # steps over the whole schedule, prediction, low, high
    left: int | None  # the step at which the run left the band, None if it did not
    origin: str  # what the law was fitted to
    doubts: list[str]  # why not to believe it for this schedule


def of_runs(runs: list[Run]) -> tuple[list[Forecast], list[str]]:
    """The forecasts of the runs whose config names a law, and of those that cannot have one why not, a sentence each."""
    found, missing = [], []
    for run in runs:
        try:
            if (fit := named.law_of(run.experiment.schedule)) is not None:
                found.append(_of_run(run, fit))
        except UserError as error:  # a law that is gone or of another version, a loss that was not logged, a run that is too short
            missing.append(f"{run.name}: no forecast: {error}.")
    return found, missing


def _of_run(run: Run, fit: Fit) -> Forecast:
    loss = fit.details.get("loss", folders.TRAIN)
    samples, rates = folders.run(run.folder, loss)
    curve, _ = curves.assemble(samples, rates=rates)
    every = np.unique(np.linspace(curve.steps[0], rates.size - 1, 400).round().astype(np.int64))
    predicted, low, high = forecast.predict(fit, rates, curve.steps)
    line = (every, *forecast.predict(fit, rates, every))
    left = forecast.leaves(fit, curve)
    return Forecast(run.name, loss, curve, predicted, low, high, line, left, named.origin(fit), forecast.doubts(fit, "this run", rates))


def draw(found: list[Forecast]) -> bytes | None:
    """One panel a run; None without forecasts."""
    if not found:
        return None
    columns = min(COLUMNS, len(found))
    drawn, axes = style.figure(-(-len(found) // columns), columns, width=9.6 / columns if columns > 1 else 8.2, height=2.9)
    for one, axis in zip(found, axes.flat, strict=False):
        _panel(one, axis)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("nats per token")
    style.legend(drawn, {"loss": ACTUAL, "forecast and 90% band": PREDICTED, "learning rate (no scale)": RATE}, columns=3)
    return style.png(drawn)


def _panel(one: Forecast, axis) -> None:
    steps, predicted, low, high = one.line
    late = slice(steps.size // 12, None)  # the steep beginning would flatten what follows
    seen = one.curve.losses[one.curve.steps >= steps[late][0]]
    least, most = min([low[late].min(), *seen]), max([high[late].max(), *seen])
    least, most = least - 0.12 * (most - least), most + 0.05 * (most - least)
    rates = one.curve.rates[steps]
    axis.fill_between(steps, least, least + 0.6 * (most - least) * rates / rates.max(), color=RATE, alpha=0.13, linewidth=0)
    axis.fill_between(steps, low, high, color=PREDICTED, alpha=0.22, linewidth=0)
    axis.plot(one.curve.steps, one.curve.losses, ".", color=ACTUAL, markersize=3)
    axis.plot(steps, predicted, color=PREDICTED, linewidth=1.4)
    if one.left is not None:
        axis.axvline(one.left, color=ACTUAL, linewidth=1.0, linestyle="--")
        axis.text(one.left, most, f" leaves at {one.left:,}", va="top", fontsize=8.5)
    axis.set_ylim(least, most)
    axis.set_title(f"{one.run}{'' if one.loss == folders.TRAIN else f' ({one.loss})'}", fontsize=9.5)
    axis.xaxis.set_major_locator(style.matplotlib.ticker.MaxNLocator(4))
    axis.set_xlabel("step")
