"""Figures of the study of schedules: predicted curves beside actual ones, final losses, and the designed schedule against tuned ones."""

import numpy as np

from kaiyuan_jax.report import style

ACTUAL, PREDICTED, RATE = style.INK, style.RECIPE_COLOURS[1], style.SOURCE_COLOURS[0]
ROLES = {
    "train": "fitted",
    "test": "unseen: other shapes",
    "baseline": "unseen: other end rates and lengths",
    "designed": "designed with the law",
}
COLOURS = dict(zip(ROLES, (style.FAINT, *style.RECIPE_COLOURS[1:4]), strict=True))


def curves(results: dict, names: list[str]) -> bytes:
    """A panel a schedule: held-out losses (mean over seeds), the law's prediction with its band, the rate behind without a scale."""
    rows = [results["schedules"][name] for name in names]
    columns = min(3, len(rows))
    with style.settings():
        drawn, axes = style.figure(-(-len(rows) // columns), columns, width=3.4, height=2.6, sharex=True)
        for axis, row in zip(axes.flat, rows, strict=False):
            steps, losses = np.array(row["steps"]), np.array(row["losses"])
            rates = np.array(row["rates"])
            ends = [min(losses.min(), *row["predicted"]), max(losses.max(), *row["predicted"])]
            axis.set_ylim(ends[0] - 0.12 * np.ptp(ends), ends[1] + 0.06 * np.ptp(ends))
            low, high = axis.get_ylim()
            axis.fill_between(
                np.arange(rates.size), low, low + (high - low) * 0.9 * rates / rates.max(), color=RATE, alpha=0.15, linewidth=0
            )
            axis.fill_between(steps, row["low"], row["high"], color=PREDICTED, alpha=0.2, linewidth=0)
            axis.plot(steps, losses, "o", color=ACTUAL, markersize=2.8)
            axis.plot(steps, row["predicted"], color=PREDICTED)
            if row["own_from"] > steps[0]:
                axis.axvline(row["own_from"], color=style.FAINT, linewidth=0.8, linestyle=":")
            axis.set_title(f"{row['label']}: {row['errors']['final']:+.3f}")
        for axis in axes.flat[len(rows) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("held-out nats per token")
        for axis in axes[-1]:
            axis.set_xlabel("step")
        style.legend(drawn, {"actual": ACTUAL, "predicted, with its 90% band": PREDICTED, "learning rate (no scale)": RATE}, columns=3)
        return style.png(drawn)


def finals(results: dict) -> bytes:
    """A row a schedule, by actual final loss: actual mean and seeds, prediction and band; beside it the same as gaps to the baseline."""
    rows = sorted(results["schedules"].values(), key=lambda row: row["final"]["mean"])
    with style.settings():
        drawn, axes = style.figure(1, 2, width=5.0, height=1.1 + 0.34 * len(rows), sharey=True)
        left, right = axes[0]
        for place, row in enumerate(rows):
            colour = COLOURS[row["role"]]
            left.plot(row["predicted_final"]["band"], [place, place], color=colour, linewidth=6, alpha=0.25, solid_capstyle="butt")
            left.plot(row["final"]["seeds"], [place] * len(row["final"]["seeds"]), "|", color=style.INK, markersize=8)
            left.plot(row["final"]["mean"], place, "o", color=style.INK, markersize=5)
            left.plot(row["predicted_final"]["value"], place, "D", color=colour, markersize=6, zorder=4)
            gap = row["gap"]["actual"]
            right.plot(gap["seeds"], [place] * len(gap["seeds"]), "|", color=style.INK, markersize=8)
            right.plot(gap["mean"], place, "o", color=style.INK, markersize=5)
            right.plot(row["gap"]["predicted"], place, "D", color=colour, markersize=6, zorder=4)
        right.axvline(0, color=style.FAINT, linewidth=1)
        left.set_yticks(range(len(rows)), [row["label"] for row in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        left.set_xlabel("final held-out nats per token")
        right.set_xlabel("the same, less that of the cosine to 1/10")
        present = [role for role in ROLES if any(row["role"] == role for row in rows)]
        entries = {"actual: mean (dot), seeds (ticks)": style.INK} | {f"predicted, {ROLES[role]}": COLOURS[role] for role in present}
        style.legend(drawn, entries, columns=2)
        return style.png(drawn)


def comparison(results: dict) -> bytes:
    """Left: the designed schedule and the best of each family. Right: differences of final losses with both intervals, and as predicted."""
    found = results["comparison"]
    names = ["designed", *found["tuned"].values()]
    colours = style.colours(names, tuple(style.RECIPE_COLOURS[i] for i in (3, 0, 2)))
    with style.settings():
        drawn, axes = style.figure(1, 2, width=4.8, height=3.1)
        left, right = axes[0]
        for name in names:
            rates = results["schedules"][name]["rates"]
            left.plot(np.arange(len(rates)), rates, color=colours[name])
        left.set_xlabel("step")
        left.set_ylabel("learning rate")
        left.set_ylim(0, None)
        right.axvline(0, color=style.INK, linewidth=1)
        for place, one in enumerate(found["differences"]):
            for interval, shift, width in ((one["documents"], -0.12, 4), (one["interval"], 0.12, 1.4)):
                if interval:
                    right.plot(interval, [place + shift] * 2, color=style.INK, linewidth=width, alpha=0.8)
            right.plot(one["seeds"], [place + 0.12] * len(one["seeds"]), "|", color=style.INK, markersize=9)
            right.plot(one["mean"], place, "o", color=style.INK, markersize=6)
            right.plot(one["predicted"], place, "D", color=PREDICTED, markersize=7, zorder=4)
        labels = {name: results["schedules"][name]["label"] for name in names}
        ticks = [f"{labels[one['first']]}\nminus {labels[one['second']]}" for one in found["differences"]]
        right.set_yticks(range(len(ticks)), ticks)
        right.set_ylim(len(ticks) - 0.5, -0.5)
        right.set_xlabel("nats per token (below 0: the first is better)")
        style.legend(drawn, {labels[name]: colours[name] for name in names} | {"actual": style.INK, "predicted": PREDICTED}, columns=5)
        return style.png(drawn)
