"""The study of float16: largest values, losses and skipped updates of runs with and without the recipe's three measures.

Reads results.json (experiments/fp16.py) and writes curves_<rate>.png and layers_<rate>.png for every rate, and table.md, beside it.
"""

import json
from pathlib import Path

import numpy as np

from kaiyuan_jax import files
from kaiyuan_jax.report import style

LARGEST = float(np.finfo(np.float16).max)
LABELS = {
    "recipe": "recipe",
    "no_qk_norm": "without QK-norm",
    "no_sandwich_norm": "without sandwich norm",
    "no_softcap": "without soft-cap",
    "none": "without all three",
    "recipe_float32": "recipe, float32",
    "none_float32": "without all three, float32",
}
COLOURS = style.colours(LABELS, style.RECIPE_COLOURS)
# what exists in float16, and what a backend that keeps scores and logits in float16 would have to hold too
PANELS = {
    "largest/residual": "residual stream",
    "largest/attention": "attention branch, before its post-norm",
    "largest/gated": "silu(x gate) * (x up)",
    "largest/feedforward": "feed-forward branch, before its post-norm",
    "largest/scores": "bound on attention scores (float32)",
    "largest/logits": "bound on raw logits (float32)",
}


def build(path: str | Path) -> str:
    """Writes the figures and the table beside results.json; returns the table."""
    path = Path(path)
    results = json.loads(path.read_text(encoding="utf-8"))
    written = ""
    for peak in dict.fromkeys(run["peak"] for run in results["runs"]):
        runs = [run for run in results["runs"] if run["peak"] == peak]
        files.replace(path.parent / f"curves_{peak:g}.png", curves(runs))
        files.replace(path.parent / f"layers_{peak:g}.png", layers(runs))
        minutes, slowest = sum(run["seconds"] for run in runs) / 60, max(run["seconds"] for run in runs) / 60
        cost = f"{len(runs)} runs, {minutes:.0f} minutes of training by their own clocks, without compilation; the longest {slowest:.1f}"
        written += f"Learning rate {peak:g} ({cost}):\n\n{table(runs)}\n"
    files.replace(path.parent / "table.md", written)
    return written


def curves(runs: list[dict]) -> bytes:
    """Panels over steps, a line a run: largest values on a log axis with float16's largest number, loss, loss scale, skipped updates."""
    panels = {**PANELS, "loss": "training loss (nats per token)", "loss_scale": "loss scale", "skipped": "updates skipped"}
    with style.settings():
        drawn, axes = style.figure(3, 3, width=4.0, height=2.5, sharex=True)
        for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
            for run in runs:
                steps, values = _column(run, "step"), _column(run, name)
                if np.isfinite(values).any():
                    dashed = "--" if run["variant"].endswith("float32") else "-"
                    axis.plot(steps, values, color=COLOURS[run["variant"]], linestyle=dashed, linewidth=1.1)
                if run["stopped"] and np.isfinite(values).any():
                    last = np.flatnonzero(np.isfinite(values))[-1]
                    axis.plot(steps[last], values[last], "x", color=COLOURS[run["variant"]], markersize=7)
            if name.startswith("largest/"):
                axis.axhline(LARGEST, color=style.INK, linewidth=0.9, linestyle=":")
            if name.startswith("largest/") or name == "loss_scale":
                axis.set_yscale("log")
            axis.set_title(title)
        for axis in axes[-1]:
            axis.set_xlabel("step")
        shown = {run["variant"] for run in runs}
        entries = {label: COLOURS[name] for name, label in LABELS.items() if name in shown}
        style.legend(drawn, {**entries, "float16's largest (dotted); x: stopped": style.INK}, columns=4)
        return style.png(drawn)


def layers(runs: list[dict]) -> bytes:
    """The largest values of the last line by layer, a line a run."""
    names = [name for name in PANELS if name not in ("largest/logits", "largest/scores")]
    with style.settings():
        drawn, axes = style.figure(1, len(names), width=3.6, height=2.9)
        for axis, name in zip(axes[0], names, strict=True):
            for run in runs:
                values = run["by_layer"].get(name.removeprefix("largest/"))
                if values:
                    dashed = "--" if run["variant"].endswith("float32") else "-"
                    axis.plot(np.array(values, np.float64), color=COLOURS[run["variant"]], linestyle=dashed, linewidth=1.1)
            axis.axhline(LARGEST, color=style.INK, linewidth=0.9, linestyle=":")
            axis.set_yscale("log")
            axis.set_xlabel("layer")
            axis.set_title(PANELS[name])
        style.legend(drawn, {label: COLOURS[name] for name, label in LABELS.items()}, columns=4)
        return style.png(drawn)


def table(runs: list[dict]) -> str:
    """Markdown: one row a variant, seeds apart in a cell by ` / `."""
    header = ["variant", "skipped", "of them in the forward pass", "stopped at", "first to overflow", "least headroom (bits)"]
    header += ["largest finite residual", "gated", "feed-forward", "attention", "scores <=", "logits <=", "final loss"]
    lines = [header, ["---"] * len(header)]
    for name, label in LABELS.items():
        repeats = [run for run in runs if run["variant"] == name]
        if not repeats:
            continue
        cells = [label, *(_cell(run[key] for run in repeats) for key in ("skipped", "nonfinite_loss"))]
        cells += [_cell((run["stopped"] for run in repeats), "no"), _cell(run["overflowed"] for run in repeats)]
        cells.append(_cell(f"{run['headroom']:.1f}" for run in repeats))
        for tensor in ("residual", "gated", "feedforward", "attention", "scores", "logits"):
            cells.append(_cell(_short(run["largest"][tensor]) for run in repeats))
        cells.append(_cell(("-" if run["final_loss"] is None else _final(run)) for run in repeats))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _final(run: dict) -> str:
    return f"{run['final_loss']:.2f}" + (" (diverged)" if run["diverged"] else "")


def _short(value: float | None) -> str | None:
    """Three digits below 100; None, where no line was without an overflow, stays."""
    if value is None:
        return None
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(values, absent: str = "-") -> str:
    return " / ".join(absent if value is None else str(value) for value in values)


def _column(run: dict, name: str) -> np.ndarray:
    """A curve as float64, NaN where a line has no value."""
    return np.array([np.nan if value is None else value for value in run["curves"].get(name, [])], np.float64)
