"""Figures of what came out: held-out bits per byte by recipe, by quality, and what averaging gave at each ending learning rate."""

import numpy as np

from kaiyuan_jax.report import compare, style
from kaiyuan_jax.report.compare import Group
from kaiyuan_jax.report.load import FINAL, Run, number, order_label, recipes


def results(runs: list[Run], found: list[Group], baseline: Group) -> bytes:
    """Held-out bits per byte, mean over sources: a row a recipe, hollow the final checkpoint, filled its average, a small mark a run."""
    rows = list(dict.fromkeys(group.recipe for group in found))
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    noise = compare.seed_noise(found)
    drawn, axes = style.figure(1, 1, width=8.2, height=1.1 + 0.62 * len(rows))
    axis = axes[0, 0]
    if noise:
        axis.axvspan(baseline.bits - noise[0], baseline.bits + noise[0], color="#EFEFEF", zorder=0, linewidth=0)
    axis.axvline(baseline.bits, color=style.FAINT, linewidth=1, zorder=0)
    for place, recipe in enumerate(rows):
        groups = [group for group in found if group.recipe == recipe]
        colour = colours[recipe]
        for group in groups:
            hollow = group.kind == FINAL
            y = place - 0.13 if not hollow and len(groups) > 1 else place
            if len(group.models) > 1:
                axis.plot([m.bits for m in group.models], [y] * len(group.models), "|", color=colour, markersize=11, markeredgewidth=1.6)
            _, interval = compare.difference(group.models, baseline.models)
            if interval and group is not baseline:
                axis.plot([baseline.bits + end for end in interval], [y, y], color=colour, linewidth=1.4)
            style_of = dict(markerfacecolor="white" if hollow else colour, markeredgecolor=colour, markersize=8.5, markeredgewidth=1.8)
            axis.plot(group.bits, y, "o", **style_of, zorder=4)
            below = hollow or len(groups) == 1
            axis.annotate(
                f"{group.bits:.4f}", (group.bits, y), xytext=(0, -15 if below else 9), textcoords="offset points", ha="center",
                fontsize=9, color=colour,
            )  # fmt: skip
    axis.set_yticks(range(len(rows)), rows)
    for tick, recipe in zip(axis.get_yticklabels(), rows, strict=True):
        tick.set_color(colours[recipe])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    bits = [model.bits for group in found for model in group.models]
    margin = 0.12 * max(np.ptp(bits), noise[0] if noise else 0, 1e-4)
    axis.set_xlim(min(bits) - margin, max(bits) + margin)
    axis.set_xlabel("held-out bits per byte, mean over sources (lower is better)")
    return style.png(drawn)


def interaction(runs: list[Run], found: list[Group]) -> bytes | None:
    """Bits per byte and the gain from averaging over the ending learning rate; None where no average was evaluated.

    Left: hollow the final checkpoint, filled its average, lines join the recipes of one order. Right: final minus average with its paired
    interval over documents; above 0 averaging helped.
    """
    gains = compare.averaging_gains(runs)
    if not gains:
        return None
    by_name = {run.name: run for run in runs}
    rates = {recipe: repeats[0].end_rate for recipe, repeats in recipes(runs).items()}
    floor = min([rate for rate in rates.values() if rate > 0] or [1.0])
    place = {recipe: rate if rate > 0 else floor / 3 for recipe, rate in rates.items()}
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    drawn, axes = style.figure(1, 2, width=4.5, height=3.5)
    left, right = axes[0]

    order_of = {recipe: order_label(repeats[0].experiment) for recipe, repeats in recipes(runs).items()}
    marks = {recipe: style.ORDER_MARKERS.get(order, "s") for recipe, order in order_of.items()}
    span = max(place.values()) / min(place.values()) if len(set(place.values())) > 1 else 10.0
    x = {}  # beside each other where recipes end at one rate
    for recipe, at in place.items():
        level = [name for name in place if place[name] == at]
        x[recipe] = at * span ** (0.06 * (level.index(recipe) - (len(level) - 1) / 2))

    joined: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for recipe in dict.fromkeys(group.recipe for group in found):
        groups = [group for group in found if group.recipe == recipe]
        options = dict(color=colours[recipe], markersize=9, markeredgewidth=1.8)
        left.plot([x[recipe]] * len(groups), [group.bits for group in groups], color=colours[recipe], linewidth=1.4, alpha=0.6)
        for group in groups:
            final = group.kind == FINAL
            left.plot(x[recipe], group.bits, marks[recipe], markerfacecolor="white" if final else colours[recipe], zorder=4, **options)
            if by_name[group.models[0].run].experiment.schedule.kind != "cosine":
                joined.setdefault((order_of[recipe], final), []).append((x[recipe], group.bits))
    for (_, final), points in joined.items():
        left.plot(*zip(*sorted(points), strict=True), color=style.FAINT, linewidth=1, linestyle="--" if final else "-", zorder=1)
    right.axhline(0, color=style.INK, linewidth=1)
    for recipe, _, pairs in gains:
        averages, finals = zip(*pairs, strict=True)
        value, interval = compare.difference(finals, averages)
        if interval:
            right.plot([x[recipe]] * 2, interval, color=colours[recipe], linewidth=2)
        right.plot(x[recipe], value, marks[recipe], color=colours[recipe], markersize=9, zorder=4)
        if len(pairs) > 1:
            each = [final.bits - average.bits for average, final in pairs]
            right.plot([x[recipe]] * len(each), each, "_", color=colours[recipe], markersize=14, markeredgewidth=1.4)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xticks(sorted(set(place.values())), [number(rate) for rate in sorted(set(rates.values()))])
        axis.minorticks_off()
        axis.set_xlim(min(place.values()) / span**0.15, max(place.values()) * span**0.15)
        axis.set_xlabel("learning rate at the end of the run")
        axis.set_ylabel("bits per byte")
    left.set_title("held out (lower is better)")
    right.set_title("gained by averaging (above 0 it helped)")
    style.legend(drawn, {recipe: colours[recipe] for recipe in dict.fromkeys(group.recipe for group in found)}, columns=2)
    return style.png(drawn)


def quality(runs: list[Run], baseline: Group) -> bytes | None:
    """Bits per byte by held-out quality: above, every recipe; below, its difference to the baseline with the paired interval.

    One panel a scored source. Shows of each recipe the model it would ship (its average where it has one). None without scored sources.
    """
    groups = chosen_groups(runs)
    names = [name for name, entry in baseline.models[0].result["heldout"].items() if entry["quantiles"]]
    if not groups or not names:
        return None
    colours = style.colours(recipes(runs), style.RECIPE_COLOURS)
    others = [group for group in groups if (group.recipe, group.kind) != (baseline.recipe, baseline.kind)]
    drawn, axes = style.figure(2 if others else 1, len(names), width=max(2.5, 8.6 / len(names)), height=2.5, sharex=True)
    for name, top in zip(names, axes[0], strict=True):
        bins = _bins(baseline.models[0], name)
        middles = np.array([(low + high) / 2 for low, high in bins])
        for group in groups:
            if all(_bins(model, name) == bins for model in group.models):
                values = [np.mean([compare.bits(model, name, low, high) for model in group.models]) for low, high in bins]
                top.plot(middles, values, color=colours[group.recipe])
        top.set_title(name)
        top.set_xlim(0, 1)
        top.set_xticks([0, 0.5, 1])
    for name, bottom in zip(names, axes[1] if others else (), strict=bool(others)):
        bins = _bins(baseline.models[0], name)
        bottom.sharey(axes[1, 0])
        bottom.axhline(0, color=style.INK, linewidth=1)
        for place, group in enumerate(others):
            if any(_bins(model, name) != bins for model in group.models):
                continue
            for low, high in bins:
                value, interval = compare.difference(group.models, baseline.models, name, low, high)
                x = (low + high) / 2 + (place - (len(others) - 1) / 2) * 0.12 / len(others)
                if interval:
                    bottom.plot([x, x], interval, color=colours[group.recipe], linewidth=1.6)
                bottom.plot(x, value, "o", color=colours[group.recipe], markersize=4)
    for axis in axes[-1]:
        axis.set_xlabel("quality quantile")
    if others:
        axes[1, 0].set_ylabel("bits per byte\nminus baseline")
    axes[0, 0].set_ylabel("bits per byte")
    style.legend(drawn, {group.label: colours[group.recipe] for group in groups}, columns=2)
    return style.png(drawn)


def _bins(model, source: str) -> list[tuple[float, float]]:
    return [(entry["low"], entry["high"]) for entry in model.result["heldout"].get(source, {"quantiles": []})["quantiles"]]


def chosen_groups(runs: list[Run]) -> list[Group]:
    """One group a recipe: the kind of model it would ship."""
    groups = []
    for recipe, repeats in recipes(runs).items():
        kinds = [run.chosen.kind for run in repeats if run.chosen]
        if kinds:
            groups.append(Group(recipe, kinds[0], tuple(model for run in repeats if (model := run.model(kinds[0])))))
    return groups
