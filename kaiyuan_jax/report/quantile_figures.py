"""Figures of a quantile benchmark: what is measured against quality, a panel a task and a line a source, and the recipe that follows."""

import numpy as np

from kaiyuan_jax.report import style

FLAG = style.INK
UNITS = {"bits_per_byte": "bits per byte", "gold_bits_per_byte": "bits per byte", "accuracy": "accuracy"}


def levels(results: dict, entries: list[dict]) -> bytes:
    """A panel a task: means over seeds with 95% intervals and the seeds themselves, sources by colour."""
    quantiles, colours = _quantiles(results), _colours(results)
    with style.settings():
        drawn, axes = _panels(len(entries))
        for axis, entry in zip(axes.flat, entries, strict=False):
            for i, (name, colour) in enumerate(colours.items()):
                low, high = np.array(entry["interval"][i]).T
                at = quantiles + _shift(i, len(colours), quantiles)
                axis.vlines(at, low, high, color=colour, alpha=0.6, linewidth=2)
                axis.plot(at, entry["mean"][i], color=colour, marker="o", markersize=4, label=name)
                axis.plot(at, np.array(entry["seeds"][i]), "_", color=colour, alpha=0.6, markersize=5)
            _title(axis, entry, "")
        _finish(drawn, axes, len(entries), colours)
        return style.png(drawn)


def changes(results: dict, entries: list[dict]) -> bytes:
    """The same as differences to each source's top window, with paired intervals; flagged spots are ringed."""
    quantiles, colours = _quantiles(results), _colours(results)
    with style.settings():
        drawn, axes = _panels(len(entries))
        for axis, entry in zip(axes.flat, entries, strict=False):
            axis.axhline(0, color=style.FAINT, linewidth=1)
            for i, (name, colour) in enumerate(colours.items()):
                low, high = np.array(entry["change_interval"][i]).T
                at = quantiles + _shift(i, len(colours), quantiles)
                axis.vlines(at, low, high, color=colour, alpha=0.6, linewidth=2)
                axis.plot(at, entry["change"][i], color=colour, marker="o", markersize=4, label=name)
                spots = sorted({one["better"] for one in entry["shapes"][i]["inversions"] if one["flagged"]})
                axis.plot(at[spots], np.array(entry["change"][i])[spots], "o", mfc="none", mec=FLAG, mew=1.8, markersize=11)
            _title(axis, entry, " lost" if entry["metric"] == "accuracy" else ", less the top's")
        _finish(drawn, axes, len(entries), colours | {"ringed: worse than text of lower quality": FLAG})
        return style.png(drawn)


def recipe(results: dict) -> bytes:
    """Left: what text is worth, with intervals. Right: how often it is read, phase upon phase."""
    quantiles, colours = _quantiles(results), _colours(results)
    with style.settings():
        drawn, axes = style.figure(1, 2, width=4.8, height=3.2)
        left, right = axes[0]
        for i, (entry, colour, width) in enumerate(zip(results["worth"], colours.values(), style.widths(len(colours)), strict=True)):
            at = quantiles + _shift(i, len(colours), quantiles)
            low, high = np.array(entry["interval"]).T
            left.vlines(at, low, high, color=colour, alpha=0.6, linewidth=2)
            left.plot(at, entry["worth"], "o", color=colour, markersize=4)
            left.plot(quantiles, entry["falling"], color=colour, linewidth=width)
            steps = sorted((kept["ratio"], kept["passes"]) for phase in results["recipe"]["phases"] for kept in [phase[i]])
            edges = [0.0, *(ratio for ratio, _ in steps), 1.0]
            passes = [sum(each for ratio, each in steps if ratio >= high and ratio > 0) for high in edges[1:]]
            right.stairs(passes, 100 * np.array(edges), baseline=None, color=colour, linewidth=width)
        left.set_ylim(0, None)
        left.set_ylabel("worth of a token of the best text")
        right.set_ylabel("times read in all phases")
        for axis in (left, right):
            axis.set_xlabel("% of the source, from the best")
            axis.set_xlim(-2, 102)
        style.legend(drawn, colours, columns=6)
        return style.png(drawn)


def _quantiles(results: dict) -> np.ndarray:
    setting = results["setting"]
    return 100 * (np.array(setting["quantiles"]) + setting["window"] / 2)


def _colours(results: dict) -> dict[str, str]:
    return style.colours([text["name"] for text in results["texts"]], style.RECIPE_COLOURS)


def _shift(i: int, count: int, quantiles: np.ndarray) -> float:
    """Beside one another, so that intervals do not hide one another."""
    return (i - (count - 1) / 2) * 0.08 * float(np.diff(quantiles).min())


def _panels(count: int):
    columns = min(3, count)
    return style.figure(-(-count // columns), columns, width=3.6, height=2.7)


def _title(axis, entry: dict, what: str) -> None:
    axis.set_title(entry["task"] if entry["metric"] in ("bits_per_byte", "gold_bits_per_byte") else f"{entry['task']}, {entry['metric']}")
    axis.set_ylabel(f"{UNITS[entry['metric']]}{what}")


def _finish(drawn, axes, count: int, entries: dict[str, str]) -> None:
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, count - axes.shape[1]) : count]:
        axis.set_xlabel("% of the source, from the best")
    style.legend(drawn, entries, columns=6)
