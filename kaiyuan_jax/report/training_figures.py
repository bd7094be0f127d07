"""Figures of what happened during training: the data that was seen, the learning rate, the losses."""

import dataclasses
import json

import numpy as np

from kaiyuan_jax.report import style
from kaiyuan_jax.report.load import Run, number, order_label, recipes


def column(lines: list[dict], key: str) -> np.ndarray:
    """One value of each metrics line, NaN where a line has none."""
    return np.array([line.get(key, np.nan) for line in lines], np.float64)


def tokens(run: Run, lines: list[dict]) -> np.ndarray:
    return column(lines, "step") * run.tokens_per_step


def sources(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(source.name for run in runs for source in run.experiment.data.sources))


def data_orders(runs: list[Run]) -> list[tuple[Run, list[str]]]:
    """One run for each distinct plan of the data (seeds apart), with the recipes that share it."""
    found: dict[str, tuple[Run, list[str]]] = {}
    for run in runs:
        if run.training:
            data = dataclasses.asdict(run.experiment.data) | {"seed": 0, "prefetch": 0}
            found.setdefault(json.dumps(data), (run, []))[1].append(run.recipe)
    return [(run, list(dict.fromkeys(names))) for run, names in found.values()]


def data_seen(runs: list[Run]) -> bytes | None:
    """Mixture (stacked shares) and mean quality quantile by source over the tokens of each distinct data order, as the runs recorded it."""
    orders, names = data_orders(runs), sources(runs)
    if not orders:
        return None
    colours = style.colours(names, style.SOURCE_COLOURS)
    drawn, axes = style.figure(2, len(orders), width=max(3.4, 7.5 / len(orders)), height=2.3, sharey="row", sharex="col")
    for (run, recipe_names), (top, bottom) in zip(orders, axes.T, strict=True):
        x = tokens(run, run.training)
        present = [name for name in names if np.isfinite(column(run.training, f"mixture/{name}")).any()]
        shares = np.nan_to_num([column(run.training, f"mixture/{name}") for name in present])
        # Each line of the metrics speaks of the stretch since the line before it: steps, not slopes.
        edges = np.concatenate([[0], x])
        top.stackplot(edges, np.concatenate([shares[:, :1], shares], axis=1), step="pre", colors=[colours[n] for n in present], linewidth=0)
        middles = (np.cumsum(shares, axis=0) - shares / 2)[:, -1]
        for name, middle, share in zip(present, middles, shares.mean(axis=1), strict=True):
            if share > 0.05:
                top.text(x[-1] * 0.98, middle, f"{name} {share:.0%}", ha="right", va="center", fontsize=9, color="white", fontweight="bold")
        for name, width in zip(present, style.widths(len(present)), strict=True):
            bottom.plot(x, column(run.training, f"quantile/{name}"), color=colours[name], linewidth=width)
        top.set_ylim(0, 1)
        bottom.set_ylim(0, 1)
        top.grid(False)
        top.set_title(order_label(run.experiment) if len(recipe_names) > 1 else recipe_names[0])
        style.tokens_axis(bottom, x[-1])
    axes[0, 0].set_ylabel("share of tokens")
    axes[1, 0].set_ylabel("quality quantile\n0 worst, 1 best")
    style.legend(drawn, {name: colours[name] for name in names}, columns=min(6, len(names)))
    return style.png(drawn)


def learning_rates(runs: list[Run]) -> bytes | None:
    """Learning rate over tokens, one line for each recipe, with the stretch and the checkpoints that an average was made of."""
    shown = [repeats[0] for repeats in recipes(runs).values() if repeats[0].training]
    if not shown:
        return None
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    drawn, axes = style.figure(1, 1, width=8.2, height=3.3)
    axis, ends = axes[0, 0], []
    for run, width in zip(shown, style.widths(len(shown)), strict=True):
        x, rate = tokens(run, run.training), column(run.training, "learning_rate")
        axis.plot(x, rate, color=colours[run.recipe], linewidth=width)
        for steps in run.averages.values():
            window = np.array(steps) * run.tokens_per_step
            inside = np.unique(np.concatenate([window, x[(x >= window[0]) & (x <= window[-1])]]))
            axis.fill_between(inside, 0, np.interp(inside, x, rate), color=colours[run.recipe], alpha=0.13, linewidth=0)
            axis.plot(window, np.interp(window, x, rate), "o", color=colours[run.recipe], markersize=4.5, markeredgecolor="white")
        ends.append((rate[-1], f"{run.recipe}", colours[run.recipe]))
    top = max(column(run.training, "learning_rate").max() for run in shown)
    axis.set_ylim(0, top * 1.06)
    axis.set_ylabel("learning rate")
    axis.yaxis.set_major_formatter(lambda value, _: number(value))
    style.tokens_axis(axis, max(tokens(run, run.training)[-1] for run in shown))
    style.label_ends(axis, ends)
    return style.png(drawn)


def training_loss(runs: list[Run]) -> bytes | None:
    """Training loss by source over tokens, one panel a source, one line a recipe (thin lines are repeats with another seed)."""
    return _losses(runs, "loss", [run.training for run in runs], smoothing=0.05)


def heldout_loss(runs: list[Run]) -> bytes | None:
    """Held-out loss by source over tokens as recorded during training; None where no run recorded it."""
    return _losses(runs, "heldout", [run.heldout for run in runs], smoothing=0.0)


def precision(runs: list[Run]) -> bytes | None:
    """Headroom below float16's largest number, loss scale and skipped updates over tokens, a line a run; None where no run measured any."""
    panels = {"headroom": "headroom (bits)", "loss_scale": "loss scale", "skipped": "updates skipped"}
    shown = {key: title for key, title in panels.items() if any(np.isfinite(column(run.training, key)).any() for run in runs)}
    if not shown:
        return None
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    drawn, axes = style.figure(1, len(shown), width=max(2.9, 8.4 / len(shown)), height=2.5)
    for axis, (key, title) in zip(axes[0], shown.items(), strict=True):
        for run in runs:
            x, y = tokens(run, run.training), column(run.training, key)
            axis.plot(x[np.isfinite(y)], y[np.isfinite(y)], color=colours[run.recipe], linewidth=1.2)
        if key == "loss_scale":
            axis.set_yscale("log", base=2)
        else:
            axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_title(title)
        style.tokens_axis(axis, max(run.tokens for run in runs))
    style.legend(drawn, colours, columns=2)
    return style.png(drawn)


def _losses(runs, prefix: str, lines: list[list[dict]], smoothing: float) -> bytes | None:
    keys = [f"{prefix}/{name}" for name in sources(runs)]
    keys = [key for key in keys if any(key in line for table in lines for line in table)]
    keys += [f"{prefix}/mean"] if any(f"{prefix}/mean" in line for table in lines for line in table) else []
    keys = [key for key in keys if any(np.isfinite(column(table, key)).any() for table in lines)]
    if not keys:
        return None
    colours, seen = style.colours(recipes(runs), style.RECIPE_COLOURS), set()
    columns = len(keys) if len(keys) <= 3 else -(-len(keys) // 2) if len(keys) <= 8 else 4
    rows = -(-len(keys) // columns)
    drawn, axes = style.figure(rows, columns, width=max(2.9, 8.4 / columns), height=2.5)
    spans = {key: [] for key in keys}
    for run, table in zip(runs, lines, strict=True):
        first = run.recipe not in seen
        seen.add(run.recipe)
        for key, axis in zip(keys, axes.flat, strict=False):
            x, y = tokens(run, table), column(table, key)
            x, y = x[np.isfinite(y)], y[np.isfinite(y)]
            if len(x):
                y = style.smooth(y, smoothing)
                look = dict(linewidth=1.7 if first else 0.9, alpha=1 if first else 0.75, marker="o" if len(x) < 13 else "", markersize=3)
                axis.plot(x, y, color=colours[run.recipe], **look)
                spans[key].append(y)
    last = max(run.tokens for run in runs)
    for number_of, (key, axis) in enumerate(zip(keys, axes.flat, strict=False)):
        axis.set_title("mean of sources" if key.endswith("/mean") else key.split("/", 1)[1])
        values = np.concatenate(spans[key])
        late = np.concatenate([y[len(y) // 6 :] for y in spans[key]])  # the first drop from ln V would flatten everything else
        axis.set_ylim(values.min() - 0.04 * np.ptp(late), late.max() + 0.06 * max(np.ptp(late), 1e-3))
        style.tokens_axis(axis, last)
        if number_of + columns < len(keys):
            axis.set_xlabel("")
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("nats per token")
    style.legend(drawn, colours, columns=2)
    return style.png(drawn)
