"""The report of the study of schedules, out of its results.json: a page, a document in Markdown with its figures, a table.

Every sentence is made from the numbers, and says no more than they do.
"""

import json
from pathlib import Path

from kaiyuan_jax import page
from kaiyuan_jax.report import schedule_figures

ROLES = {"train": "fitted", "test": "unseen", "baseline": "unseen", "designed": "designed"}


def build(folder: str | Path) -> str:
    """Writes report.html, schedules.md and schedule_study_*.png beside results.json; returns the table for the terminal."""
    folder = Path(folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    figures = draw(results)
    for figure in figures:
        (folder / f"{figure.name}.png").write_bytes(figure.png)
    finals, laws, differences = (text(*rows) for rows in (final_rows(results), law_rows(results), difference_rows(results)))
    parts = [
        f"<h1>{page.text(TITLE)}</h1>",
        page.paragraph(setting(results), "lead"),
        page.section("What came out", page.bullets(findings(results))),
        page.section("The designed schedule against tuned ones", page.figure(figures[2]), pre(differences)),
        page.section(
            "Predicted against actual", page.figure(figures[1]), page.paragraph(EXPLAINED, "small"), pre(finals), page.figure(figures[0])
        ),
        page.section("Other laws on the same curves", pre(laws)),
        page.section("What this does not show", page.bullets(limits(results))),
    ]
    (folder / "report.html").write_text(page.page(TITLE, parts), encoding="utf-8")
    (folder / "schedules.md").write_text(markdown(results, figures, finals, laws, differences), encoding="utf-8")
    return f"{finals}\n\n{laws}\n\n{differences}\n\n" + "\n".join(f"* {sentence}" for sentence in findings(results))


TITLE = "Loss laws on our own small models"
EXPLAINED = (
    "Nats per token. Errors are predicted less actual, gaps less that of the cosine to a tenth. `per seed` is the 95% interval over seeds "
    "of the error of laws fitted to each seed alone; `curve MAE` leaves out what a branch has from the constant run."
)


def draw(results: dict) -> list[page.Figure]:
    """The three figures: curves, final losses, the comparison."""
    table = results["schedules"]
    shown = [name for name, row in table.items() if row["role"] in ("test", "designed")]
    shown += [name for name in results["comparison"]["tuned"].values() if name not in shown]
    shown += [name for name, row in table.items() if row["role"] == "train" and name not in shown]
    return [
        page.Figure(
            "schedule_study_curves",
            "Curves",
            "Held-out loss, mean over seeds, and what the law says. Titles: predicted less actual loss at the end. Right of the dotted "
            "line a run no longer is the constant one.",
            schedule_figures.curves(results, shown[:6]),
        ),
        page.Figure(
            "schedule_study_finals",
            "Final losses",
            "Predicted (diamonds; the bar is the law's 90% band) and actual (dots; ticks are seeds), best first.",
            schedule_figures.finals(results),
        ),
        page.Figure(
            "schedule_study_comparison",
            "The designed schedule against the best cosine and the best WSD",
            "Thick bars: 95% intervals over documents. Thin bars: over seeds, whose differences are the ticks.",
            schedule_figures.comparison(results),
        ),
    ]


# Sentences


def setting(results: dict) -> str:
    size, names = results["size"], [row["label"] for row in results["schedules"].values() if row["role"] == "train"]
    tokens = size["steps"] * size["batch_size"] * size["sequence_length"]
    shared = 1 - results["updates"] / (results["runs"] * size["steps"])
    return (
        f"{results['parameters'] / 1e6:.2f}M parameters, {size['steps']} steps of {size['batch_size'] * size['sequence_length']:,} tokens "
        f"({tokens:,} in all), peak rate {size['peak']:g}, warm-up {size['warmup']} steps, {results['seeds']} seeds; the runs of a seed "
        f"differ in the schedule alone. {results['runs']} runs, {results['updates']:,} updates: the other {shared:.0%} were "
        "taken over from the constant runs. "
        f"The law ({results['law']['name']}, protocol {results['law']['protocol']}) is fitted to {', '.join(names)}."
    )


def findings(results: dict) -> list[str]:
    """What the numbers say, a sentence or two each."""
    unseen, rows = results["unseen"], results["schedules"]
    noise = f"; the seeds of one schedule scatter by {unseen['noise']:.3f}" if unseen["noise"] is not None else ""
    fitted = {name: row["errors"]["mae"] for name, row in rows.items() if row["role"] == "train"}
    worst = max(fitted, key=fitted.get)
    moved = results["law"]["moved"]
    stiff = (
        f" The curves moved no parameter that has a prior by more than {max(map(abs, moved.values())):.1f} of its deviations."
        if moved
        else ""
    )
    found = [
        f"The law misses its own training curves by {sum(fitted.values()) / len(fitted):.3f} nats per token on average, "
        f"{rows[worst]['label']} by {fitted[worst]:.3f}.{stiff}",
        f"On the {len(unseen['names'])} schedules that it was not fitted to, the law's final losses are off by {unseen['final']:.3f} nats "
        f"per token on average ({unseen['bias']:+.3f} with the sign kept, above 0 where it promises too little){noise}.",
        f"Their gaps to the cosine to a tenth, {unseen['gap_size']:.3f} on average, are off by {unseen['gap']:.3f}; the rank correlation "
        f"of predicted and actual final losses is {unseen['rank_correlation']:.2f}.",
        f"Its 90% band holds {unseen['coverage']:.0%} of the points after the branching points, and {unseen['final_coverage']:.0%} of the "
        "final losses (means over seeds).",
    ]
    best = min(results["laws"], key=lambda row: row["final"])
    found.append(
        f"Of the laws fitted by the minimum of the released objective the best on unseen final losses is {best['law']} "
        f"({best['final']:.3f}), a choice that only these test runs could have made."
    )
    found += [f"{one['verdict']} {difference(one)}" for one in results["comparison"]["differences"]]
    finals = {name: results["comparison"]["finals"][name]["mean"] for name in rows}
    order = sorted(finals, key=finals.get)
    found.append(
        f"By mean final loss on the large sample the designed schedule is number {order.index('designed') + 1} of {len(order)}; the lowest "
        f"is {rows[order[0]]['label']}, {finals[order[1]] - finals[order[0]]:.4f} below the next."
    )
    return found


def difference(one: dict) -> str:
    seeds = "unknown" if one["interval"] is None else "{:+.4f} to {:+.4f}".format(*one["interval"])
    documents = "unknown" if one["documents"] is None else "{:+.4f} to {:+.4f}".format(*one["documents"])
    return (
        f"Actual {one['mean']:+.4f} nats per token (95% over seeds {seeds}, over documents {documents}), predicted {one['predicted']:+.4f}."
    )


def limits(results: dict) -> list[str]:
    size = results["size"]
    return [
        f"One size, one peak rate, one batch. After {size['steps']} steps the loss is still falling fast, so a low rate costs much of what "
        "it gains: at other lengths the order of the schedules may be another.",
        f"{results['seeds']} seeds: intervals over seeds are wide, and differences below them are open.",
        "The best cosine and the best WSD were chosen by the runs that they are then judged by (on another sample of text); the designed "
        "schedule had one try.",
        f"Laws are fitted to updates from {size['first']} on. That was decided on a constant run, before any test run.",
    ]


# Tables


def final_rows(results: dict) -> tuple[list[str], list[list[str]]]:
    """By actual final loss: actual with its interval over seeds, predicted with its band, both gaps to the cosine to a tenth."""
    header = ["schedule", "", "actual", "95% over seeds", "predicted", "90% band", "error", "per seed", "gap", "predicted gap", "curve MAE"]
    rows = []
    for row in sorted(results["schedules"].values(), key=lambda row: row["final"]["mean"]):
        actual, predicted = row["final"], row["predicted_final"]
        rows.append([
            row["label"], ROLES[row["role"]], f"{actual['mean']:.4f}", interval(actual["interval"]), f"{predicted['value']:.4f}",
            interval(predicted["band"]), f"{row['errors']['final']:+.4f}", interval(row["seed_errors"]["interval"], "+.3f"),
            f"{row['gap']['actual']['mean']:+.4f}", f"{row['gap']['predicted']:+.4f}", f"{row['errors']['mae']:.4f}",
        ])  # fmt: skip
    return header, rows


def law_rows(results: dict) -> tuple[list[str], list[list[str]]]:
    header = ["law", "protocol", "curve MAE", "|final error|", "|gap error|"]
    ours = results["law"] | {key: results["unseen"][key] for key in ("mae", "final", "gap")}
    first = [ours["name"], ours["protocol"], *(f"{ours[key]:.4f}" for key in ("mae", "final", "gap"))]
    return header, [
        first,
        *([row["law"], row["protocol"], *(f"{row[key]:.4f}" for key in ("mae", "final", "gap"))] for row in results["laws"]),
    ]


def difference_rows(results: dict) -> tuple[list[str], list[list[str]]]:
    header = ["first minus second", "actual", "95% over seeds", "95% over documents", "each seed", "predicted"]
    labels = {name: row["label"] for name, row in results["schedules"].items()}
    rows = [
        [
            f"{labels[one['first']]} minus {labels[one['second']]}", f"{one['mean']:+.4f}", interval(one["interval"], "+.4f"),
            interval(one["documents"], "+.4f"), " ".join(f"{value:+.4f}" for value in one["seeds"]), f"{one['predicted']:+.4f}",
        ]
        for one in results["comparison"]["differences"]
    ]  # fmt: skip
    return header, rows


def interval(ends: list[float] | None, form: str = ".4f") -> str:
    return "" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


def text(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, words to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    words = [any(letter.isalpha() for row in rows for letter in row[i].replace(" to ", "")) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if word else cell.rjust(width) for cell, width, word in zip(row, widths, words, strict=True)).rstrip()
        for row in (header, *rows)
    )


def pre(table: str) -> str:
    return f'<div class="scroll"><pre>{page.text(table)}</pre></div>'


def markdown(results: dict, figures: list[page.Figure], finals: str, laws: str, differences: str) -> str:
    """The same as a document."""
    shown = [f"![{figure.title}. {figure.caption}]({figure.name}.png)" for figure in figures]
    lines = [f"# {TITLE}", "", setting(results), "", *(f"* {sentence}" for sentence in findings(results))]
    lines += ["", "## The designed schedule against tuned ones", "", shown[2], "", "```", differences, "```"]
    lines += ["", "## Predicted against actual", "", shown[1], "", EXPLAINED, "", "```", finals, "```", "", shown[0]]
    lines += ["", "## Other laws on the same curves", "", "Means over the unseen schedules.", "", "```", laws, "```"]
    lines += ["", "## What this does not show", "", *(f"* {sentence}" for sentence in limits(results)), ""]
    lines += [f"Command: `python launch/study_schedules.py --seeds={results['seeds']}`, every run on one CPU core.", ""]
    return "\n".join(lines)
