"""The page of a trajectory.parquet: every task along the training of each run, against tokens and against held-out loss.

Against tokens runs are compared by what they cost, against loss by what a model of that loss can do: lines of two runs that lie on one
another there differ only in how soon they come to a loss. Every number is one of the table's.
"""

import dataclasses
from pathlib import Path

import numpy as np

from kaiyuan_jax import files, page
from kaiyuan_jax.evaluation import trajectory
from kaiyuan_jax.report import style

WORDS = {  # metric -> its axis
    "bits_per_byte": "bits per byte",
    "nats_per_token": "nats per token",
    "gold_bits_per_byte": "bits per byte of the right answer",
    "gold_log_probability": "log-probability of the right answer (nats)",
    "choice_probability": "probability of the right answer among the choices",
    "accuracy": "accuracy",
    "accuracy_per_byte": "accuracy, by log-probability per byte",
    "margin": "margin of the right answer",
}
CAPTION = (
    "Each dot is a checkpoint; shading is the 95% interval over documents or items, which are the same at every checkpoint. Left against "
    "the tokens a run had read, right against its held-out loss (nats per token, mean over sources), which falls to the right."
)
NOTE = (
    "Level 0 is the whole task; other levels are those of a task's difficulty, or of held-out text equal bins of quality from the worst. "
    "The small figures are 95% intervals."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One metric of one task and level along one run, by step."""

    run: str
    task: str
    level: int
    metric: str
    rows: dict[str, np.ndarray]  # the table's columns, NaN for null

    @property
    def last(self) -> dict:
        return {name: column[-1] for name, column in self.rows.items()}


def build(path: str | Path, title: str) -> str:
    """Writes report.html and the figures beside a trajectory.parquet; returns a table of the last checkpoints as text.

    Raises UserError for a file that is none.
    """
    path = Path(path)
    found = lines(trajectory.read(path))
    with style.settings():
        figures = [page.Figure(f"trajectory_{name}", words, CAPTION, png) for name, words, png in draw(found)]
    for figure in figures:
        files.replace(path.with_name(f"{figure.name}.png"), figure.png)
    runs = list(dict.fromkeys(line.run for line in found))
    checkpoints = sum(line.rows["step"].size for line in found if line.level == 0 and (line.task, line.metric) == trajectory.LOSS)
    parts = [f"<h1>{page.text(title)}</h1>", page.paragraph(f"{len(runs)} runs, {checkpoints} checkpoints.", "small")]
    parts += [page.section(figure.title.capitalize(), page.figure(figure)) for figure in figures]
    parts.append(page.section("The last checkpoint of each run", page.paragraph(NOTE, "small"), _table(found, runs)))
    files.replace(path.with_name("report.html"), page.page(title, parts))
    return text(found, runs)


def lines(table) -> list[Line]:
    """Every (run, task, level, metric) of a table of trajectory.SCHEMA, in its order, each by step."""
    columns = table.to_pydict()
    grouped: dict[tuple, list[int]] = {}
    for place, names in enumerate(zip(*(columns[name] for name in ("run", "task", "level", "metric")), strict=True)):
        grouped.setdefault(names, []).append(place)
    numbers = {name: np.array(columns[name], np.float64) for name in ("step", "tokens", "loss", "value", "error", "low", "high")}
    return [
        Line(*names, {name: column[sorted(places, key=lambda place: columns["step"][place])] for name, column in numbers.items()})
        for names, places in grouped.items()
    ]


def draw(found: list[Line]) -> list[tuple[str, str, bytes]]:
    """(metric, its words, PNG): a row a task at level 0, against tokens and against loss, a line a run."""
    colours = style.colours(dict.fromkeys(line.run for line in found), style.RECIPE_COLOURS)
    drawn = []
    for metric in dict.fromkeys(line.metric for line in found):
        shown = [line for line in found if line.metric == metric and line.level == 0]
        tasks = list(dict.fromkeys(line.task for line in shown))
        figure, axes = style.figure(len(tasks), 2, width=4.6, height=2.7)
        for row, task in zip(axes, tasks, strict=True):
            for line in (line for line in shown if line.task == task):
                for axis, across in zip(row, ("tokens", "loss"), strict=True):
                    x, colour = line.rows[across], colours[line.run]
                    axis.fill_between(x, line.rows["low"], line.rows["high"], color=colour, alpha=0.12, linewidth=0)
                    axis.plot(x, line.rows["value"], "o-", color=colour, markersize=3)
            row[0].set_title(task)
            row[0].set_ylabel(WORDS.get(metric, metric))
            style.tokens_axis(row[0], max(line.rows["tokens"].max() for line in shown))
            row[1].set_xlabel("held-out loss (nats per token)")
            row[1].invert_xaxis()
        style.legend(figure, colours, columns=4)
        drawn.append((metric, WORDS.get(metric, metric), style.png(figure)))
    return drawn


def text(found: list[Line], runs: list[str]) -> str:
    """The last checkpoint of each run as columns of text, level 0 alone."""
    whole = [line for line in found if line.level == 0]
    names = list(dict.fromkeys((line.task, line.metric) for line in whole))
    width = max([len(f"{task} {metric}") for task, metric in names], default=0)
    said = ["  ".join(["".ljust(width), *runs])]
    for task, metric in names:
        by_run = {line.run: f"{line.last['value']:.4f}" for line in whole if (line.task, line.metric) == (task, metric)}
        said.append("  ".join([f"{task} {metric}".ljust(width), *(by_run.get(run, "").rjust(len(run)) for run in runs)]))
    return "\n".join(said)


def _table(found: list[Line], runs: list[str]) -> str:
    header, body = ["task", "metric", "level", *runs], []
    by_run = {(line.task, line.metric, line.level, line.run): line.last for line in found}
    for task, metric, level in dict.fromkeys((line.task, line.metric, line.level) for line in found):
        cells = [(task, ""), (metric, ""), (str(level), "")]
        for run in runs:
            last = by_run.get((task, metric, level, run))
            known = last is not None and np.isfinite(last["low"])
            below = f"{last['low']:.4f} {last['high']:.4f}" if known else ""
            cells.append((f"{last['value']:.4f}" if last else "", below))
        body.append((cells, "", not body or body[-1][0][0] != cells[0]))
    return page.table(header, body, 2)
