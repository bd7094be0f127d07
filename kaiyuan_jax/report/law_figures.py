"""Figures of a loss law: curves with the law's prediction and band, what is left over, the likelihood along each parameter, a forecast."""

from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.report import style
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

ACTUAL, PREDICTED, RATE = style.INK, style.RECIPE_COLOURS[1], style.SOURCE_COLOURS[0]
COLUMNS = 3


Forecast = tuple[np.ndarray, np.ndarray, np.ndarray]  # loss, low, high, float64[E] each


def curves(fit: Fit, shown: Sequence[Curve], predicted: Sequence[Forecast]) -> bytes:
    """One panel a curve: the losses, the prediction with its 90% band, the schedule faint behind."""
    with style.settings():
        drawn, axes = _grid(len(shown), height=2.5)
        for curve, (loss, low, high), axis in zip(shown, predicted, axes, strict=True):
            _schedule(axis, curve.steps, curve.rates)
            axis.fill_between(curve.steps, low, high, color=PREDICTED, alpha=0.2, linewidth=0)
            axis.plot(curve.steps, curve.losses, ".", color=ACTUAL, markersize=2.5)
            axis.plot(curve.steps, loss, color=PREDICTED, linewidth=1.3)
            late = curve.losses[len(curve.losses) // 12 :]  # the steep beginning would flatten what follows
            edge = 0.08 * np.ptp(late) or 0.01 * late[0]  # one point has no range
            axis.set_ylim(late.min() - edge, late.max() + edge)
            _titled(axis, fit, curve)
        style.legend(drawn, {"loss": ACTUAL, "prediction and 90% band": PREDICTED, "learning rate (no scale)": RATE}, columns=3)
        return style.png(drawn)


def residuals(fit: Fit, shown: Sequence[Curve], predicted: Sequence[Forecast]) -> bytes:
    """Prediction less loss over the steps, one panel a curve, with the band."""
    with style.settings():
        drawn, axes = _grid(len(shown), height=1.9, sharey=True)
        size = 0.0
        for curve, (loss, low, high), axis in zip(shown, predicted, axes, strict=True):
            axis.fill_between(curve.steps, low - loss, high - loss, color=PREDICTED, alpha=0.2, linewidth=0)
            axis.axhline(0, color=style.FAINT, linewidth=0.8)
            axis.plot(curve.steps, loss - curve.losses, color=ACTUAL, linewidth=1.0)
            size = max(size, np.quantile(np.abs(loss - curve.losses), 0.99), np.median(high - loss))
            _titled(axis, fit, curve)
        for axis in axes:
            axis.set_ylim(-1.15 * size, 1.15 * size)
        return style.png(drawn)


def profile(names: Sequence[str], grids: Sequence[np.ndarray], heights: Sequence[np.ndarray], fitted: Sequence[float], intervals) -> bytes:
    """By parameter: an objective (as a multiple of its least value) along its values, the interval shaded, the fitted value marked."""
    with style.settings():
        drawn, axes = _grid(len(names), height=2.0)
        for name, grid, height, value, ends, axis in zip(names, grids, heights, fitted, intervals, axes, strict=True):
            axis.axvspan(*ends, color=PREDICTED, alpha=0.13, linewidth=0)
            axis.axvline(value, color=ACTUAL, linewidth=0.8)
            axis.plot(grid, height, ".-", color=PREDICTED)
            axis.set_ylim(0.97, min(max(height), 3))
            if min(grid) > 0 and max(grid) > 50 * min(grid):
                axis.set_xscale("log")
                axis.xaxis.set_minor_formatter(style.matplotlib.ticker.NullFormatter())
            axis.set_xlim(min(grid), max(grid))
            if axis.get_xscale() == "linear":
                axis.xaxis.set_major_locator(style.matplotlib.ticker.MaxNLocator(4))
            axis.set_title(name)
        return style.png(drawn)


def forecast(name: str, steps: np.ndarray, rates: np.ndarray, predicted: Forecast) -> bytes:
    """The predicted loss and its band over a schedule, which is drawn below."""
    loss, low, high = predicted
    with style.settings():
        drawn, ((above,), (below,)) = style.figure(2, 1, width=8.2, height=2.4, sharex=True)
        above.fill_between(steps, low, high, color=PREDICTED, alpha=0.2, linewidth=0)
        above.plot(steps, loss, color=PREDICTED)
        late = slice(len(steps) // 20, None)
        above.set_ylim(low[late].min() - 0.04 * np.ptp(loss[late]), high[late].max())
        above.set_ylabel("loss")
        above.set_title(f"{name}: {loss[-1]:.4f} at the end, 90% {low[-1]:.4f} to {high[-1]:.4f}")
        every = np.unique(np.linspace(0, len(rates) - 1, 2000).round().astype(np.int64))
        below.plot(every, rates[every], color=RATE)
        below.set_ylabel("learning rate")
        below.set_xlabel("step")
        below.set_ylim(0, None)
        return style.png(drawn)


def _grid(count: int, height: float, **options):
    columns = min(COLUMNS, count)
    drawn, axes = style.figure(-(-count // columns), columns, width=9.6 / columns, height=height, **options)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return drawn, list(axes.flat[:count])


def _schedule(axis, steps, rates) -> None:
    behind = axis.twinx()
    behind.set_zorder(-1)
    behind.axis("off")
    axis.patch.set_visible(False)
    every = np.unique(np.linspace(0, steps[-1], 500).round().astype(np.int64))
    behind.fill_between(every, rates[every], color=RATE, alpha=0.13, linewidth=0)
    behind.set_ylim(0, 1.6 * rates.max())


def _titled(axis, fit: Fit, curve: Curve) -> None:
    axis.set_title(f"{curve.name} ({'train' if curve.name in fit.train else 'test'})", fontsize=9.5)
    axis.xaxis.set_major_locator(style.matplotlib.ticker.MaxNLocator(3))
