"""The report of the study of curriculum x decay x averaging, out of its results.json: a page, a document with its figures, tables.

Every sentence is made from the numbers, and says no more than they do.
"""

import json
from pathlib import Path

from kaiyuan_jax import page, storage
from kaiyuan_jax.report import curriculum_figures as figures
from kaiyuan_jax.report.schedule_study import interval, text

TITLE = "Curriculum x decay x averaging"
ORDERS = figures.ORDERS
PHASES = ("U,U", "U,A", "A,A", "A-T")
SCHEDULES = {"constant": "constant", "cosine": "cosine to 1/300"} | {f"wsd_{end}": f"WSD to 1/{end}" for end in (3, 10, 30, 100, 300)}
AVERAGES = {
    "none": "last", "sma": "SMA", "ema": "EMA", "ema_seeded": "EMA seeded", "ema_powers": "EMA powers", "wma": "WMA",
}  # fmt: skip
WORDS = {"yes": "reproduces", "no": "the opposite", "not seen": "not seen"}


def build(folder: str | Path) -> str:
    """Writes report.html, curriculum.md and curriculum_*.png beside results.json; returns the tables for the terminal."""
    folder = Path(folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    drawn = draw(results)
    for picture in drawn:
        storage.replace(folder / f"{picture.name}.png", picture.png)
    parts = [f"<h1>{page.text(TITLE)}</h1>", page.paragraph(setting(results), "lead"), page.figure(drawn[0]), page.figure(drawn[1])]
    for name, corpus in results["corpora"].items():
        parts.append(page.section(f"{name}: which findings reproduce", page.bullets(findings(corpus))))
        parts += [page.section(f"{name}: {title}", page.preformatted(words)) for title, words in tables(corpus).items()]
    parts += [page.section("The quadratic model", page.bullets(quadratic(results)), page.figure(drawn[2]))]
    parts += [page.section("What this does not show", page.bullets(limits(results)))]
    storage.replace(folder / "report.html", page.page(TITLE, parts))
    storage.replace(folder / "curriculum.md", markdown(results, drawn))
    said = []
    for name, corpus in results["corpora"].items():
        said += [f"\n{name}", *(f"* {line}" for line in findings(corpus)), *(words for words in list(tables(corpus).values())[:2])]
    return "\n".join(said)


def draw(results: dict) -> list[page.Figure]:
    """The three figures."""
    return [
        page.Figure(
            "curriculum_gaps",
            "The gap by end rate",
            "Held-out loss of uniform order less that of ascending order: above 0 ascending is better. Bars: 95% over seeds.",
            figures.gaps(results),
        ),
        page.Figure(
            "curriculum_losses",
            "Every order and schedule",
            "Means over seeds; one column an average of the last checkpoints, on the right of each panel the cosine.",
            figures.losses(results),
        ),
        page.Figure(
            "curriculum_quadratic",
            "The quadratic model",
            "Exact expected losses by number of samples; exponents are fitted from 1,000 samples on.",
            figures.quadratic(results),
        ),
    ]


# Sentences


def setting(results: dict) -> str:
    size, control = results["size"], results["control"]
    tokens = size["steps"] * size["batch_size"] * size["sequence_length"]
    said = (
        f"{results['parameters'] / 1e6:.2f}M parameters, {size['steps']} steps of {size['batch_size'] * size['sequence_length']:,} tokens "
        f"({tokens:,} a run), peak rate {size['peak']:g}, warm-up {size['warmup']} steps, decay over the last {size['decay']:.0%}, "
        f"averages of the last {size['last']} checkpoints {size['every']} steps apart, {results['seeds']} seeds. 28 recipes in one phase "
        f"and 8 in two, every one under {len(AVERAGES)} averages; {results['tokens']:,} tokens trained on in all."
    )
    if "stores" in results["corpora"]:
        said += " Stores: judged by the best third of the held-out text of each source, plain mean over sources."
    if "control" in results["corpora"]:
        said += (
            f" Control: in the worst text {control['rate']:.0%} of the tokens are random ones, falling evenly to none at quantile "
            f"{control['share']:g}; it is judged by clean text."
        )
    return said


def findings(corpus: dict) -> list[str]:
    """A line a finding: what came of it, and its tests."""
    lines, number = [], 0
    for one in corpus["findings"]:
        number += not one["extra"]
        head = "Beside the six" if one["extra"] else f"{number}"
        tests = "; ".join(f"{test['claim']}: {numbers(test)}, {WORDS[test['outcome']]}" for test in one["tests"])
        lines.append(f"{head}. {one['title']}: {WORDS[one['outcome']].upper()}. {tests}.")
    if corpus["diverged"]:
        lines.append(f"Diverged in some seed, and without a number: {'; '.join(corpus['diverged'])}.")
    return lines


def numbers(contrast: dict) -> str:
    """A contrast with its intervals."""
    return (
        f"{contrast['mean']:+.4f} (seeds {interval(contrast['interval'], '+.4f') or 'unknown'}, documents "
        f"{interval(contrast['documents'], '+.4f') or 'unknown'})"
    )


def quadratic(results: dict) -> list[str]:
    found = results["quadratic"]
    sizes = found["sizes"]
    lines = [
        f"{name}: {values[0]:.4f} at {sizes[0]:,} samples, {values[-1]:.5f} at {sizes[-1]:,}; falls as M^{found['exponents'][name]:.3f}."
        for name, values in found["losses"].items()
    ]
    first, last = found["gaps"]["last"][0], found["gaps"]["last"][-1]
    return [
        *lines,
        f"Its gap between the orders does not vanish under a decay ({first:.3f} at a constant rate, {last:.3f} at 1/300, over "
        f"{results['size']['steps']} samples): uniform order keeps a bias that no schedule removes. What a decay costs there is the rate.",
    ]


def limits(results: dict) -> list[str]:
    size = results["size"]
    tokens = size["steps"] * size["batch_size"] * size["sequence_length"]
    return [
        f"A run sees {tokens:,} tokens, the paper's 30B: the shorter a run, the more progress a low rate costs for the noise it removes.",
        f"{results['seeds']} seeds: an interval over seeds is wide, and `not seen` is no `no`.",
        "The paper compares accuracies on eight tasks, points up; ours are held-out nats per token, down. Their sizes do not compare.",
        f"There are {sum(len(one['tests']) for corpus in results['corpora'].values() for one in corpus['findings'])} tests at 95%, not "
        "corrected for being many.",
        "One peak rate, one decay length, one distance between checkpoints.",
    ]


# Tables


def tables(corpus: dict) -> dict[str, str]:
    """Title -> columns of text."""
    found = {}
    for name, rows in corpus["tables"].items():
        found[f"the paper's table, {name}"] = text(*paper_rows(rows))
    found["the gap, uniform less ascending"] = text(*gap_rows(corpus))
    found["every recipe, less WSD + uniform"] = text(*loss_rows(corpus))
    return found


def words(kept: str) -> list[str]:
    """[average, order, schedule] of a key of the results."""
    order, schedule, average = kept.split(" ")
    return [AVERAGES[average] if average != "none" else "-", order, SCHEDULES[schedule]]


def paper_rows(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    header = ["average", "order", "schedule", "loss", "difference", "95% over seeds", "95% over documents", "paper, points"]
    shown = []
    for row in rows:
        paper = "" if row["paper"] is None else f"{row['paper']:+.2f}"
        cells = [*words(row["kept"]), f"{row['loss']['mean']:.4f}"]
        if row["difference"] is None:
            shown.append([*cells, "", "", "", paper])
            continue
        one = row["difference"]
        shown.append([*cells, f"{one['mean']:+.4f}", interval(one["interval"], "+.4f"), interval(one["documents"], "+.4f"), paper])
    return header, shown


def gap_rows(corpus: dict) -> tuple[list[str], list[list[str]]]:
    ends = [row["end"] for row in corpus["gaps"]["none"]]
    header = ["average", *("constant" if end == 1 else f"1/{round(1 / end)}" for end in ends)]
    rows = []
    for average, name in AVERAGES.items():
        rows.append([name, *(f"{row['mean']:+.4f}" for row in corpus["gaps"][average])])
        rows.append(["", *(interval(row["interval"], "+.3f") for row in corpus["gaps"][average])])
    return header, rows


def loss_rows(corpus: dict) -> tuple[list[str], list[list[str]]]:
    base = corpus["losses"][corpus["baseline"]]["mean"]
    header = ["order", "schedule", *AVERAGES.values()]
    rows = []
    for order in (*ORDERS, *PHASES):
        for schedule, label in SCHEDULES.items():
            found = [corpus["losses"].get(f"{order} {schedule} {average}") for average in AVERAGES]
            if found[0]:
                rows.append([order, label, *(f"{one['mean'] - base:+.4f}" for one in found)])
    return header, rows


def markdown(results: dict, drawn: list[page.Figure]) -> str:
    """The same as a document."""
    shown = [f"![{picture.title}. {picture.caption}](../images/{picture.name}.png)" for picture in drawn]
    lines = [f"# {TITLE}", "", setting(results), "", shown[0], "", shown[1], ""]
    for name, corpus in results["corpora"].items():
        documents = f"{corpus['targets']:,} held-out tokens of {corpus['documents']} documents"
        lines += [f"## {name}: which findings reproduce", "", f"Judged by {documents}.", ""]
        lines += [f"* {line}" for line in findings(corpus)] + [""]
        for title, columns in tables(corpus).items():
            lines += [f"### {name}: {title}", "", "```", columns, "```", ""]
    lines += ["## The quadratic model", "", *(f"* {line}" for line in quadratic(results)), "", shown[2], ""]
    lines += ["## What this does not show", "", *(f"* {line}" for line in limits(results)), ""]
    return "\n".join(lines)
