"""The comparison table: one row for each evaluated model of each run, as cells for the page and as text for the terminal."""

import dataclasses

from kaiyuan_jax.report import compare
from kaiyuan_jax.report.compare import Group
from kaiyuan_jax.report.load import Model, Run, number, order_label


@dataclasses.dataclass(frozen=True)
class Row:
    run: Run
    model: Model
    difference: float | None  # bits per byte, to the baseline run with the same seeds, or else the first; None for that run itself
    interval: list[float] | None  # paired, over documents


def rows(runs: list[Run], baseline: Group) -> list[Row]:
    """Rows in the order of the runs, the final checkpoint of each first."""
    references = {run.seeds: run.model(baseline.kind) for run in runs if run.recipe == baseline.recipe and run.model(baseline.kind)}
    found = []
    for run in runs:
        for model in run.models:
            reference = references.get(run.seeds, baseline.models[0])
            if model is reference:
                found.append(Row(run, model, None, None))
            else:
                found.append(Row(run, model, *compare.difference((model,), (reference,))))
    return found


def header(sources: list[str]) -> list[str]:
    return ["run", "order", "schedule", "end rate", "model", "seeds", *sources, "mean", "choice", "to baseline"]


def cells(row: Row, sources: list[str]) -> list[tuple[str, str]]:
    """(value, interval) of each column of `header`; empty strings where there is none."""
    run, result = row.run, row.model.result
    mean, asked = result["mean"], result.get("choice", {}).get("mean")
    found = [(run.name, ""), (order_label(run.experiment), ""), (run.experiment.schedule.kind, ""), (number(run.end_rate), "")]
    found += [(row.model.label, f"step {row.model.step}"), ("/".join(map(str, run.seeds)), "")]
    for source in sources:
        entry = result["heldout"].get(source)
        found.append((f"{entry['bits_per_byte']:.4f}", interval(entry["bits_per_byte_interval"])) if entry else ("", ""))
    found.append((f"{mean['bits_per_byte']:.4f}", interval(mean["bits_per_byte_interval"])))
    has_choice = asked is not None and asked["accuracy"] is not None
    found.append((f"{asked['accuracy']:.3f}", interval(asked["interval"], 3)) if has_choice else ("", ""))
    if row.difference is None:
        return [*found, ("baseline", "")]
    return [*found, (f"{row.difference:+.4f}", interval(row.interval, 4, "+"))]


def interval(ends: list[float] | None, digits: int = 4, sign: str = "") -> str:
    return f"{ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f}" if ends else ""


def text(found: list[Row], sources: list[str]) -> str:
    """The table for a terminal: values, with the interval of the mean and of the difference."""
    shown = header(sources)
    body = []
    for row in found:
        line = cells(row, sources)
        wide = {shown.index("mean"), shown.index("choice"), shown.index("to baseline")}
        body.append([f"{value} ({ends})" if i in wide and ends else value for i, (value, ends) in enumerate(line)])
    widths = [max(len(line[i]) for line in [shown, *body]) for i in range(len(shown))]
    left = shown.index("seeds")
    return "\n".join(
        "  ".join(cell.ljust(width) if i <= left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in [shown, *body]
    )
