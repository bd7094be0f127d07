"""The report of a quantile benchmark, out of its results.json: a page, a document in Markdown with its figures, tables for the terminal.

Every sentence is made from the numbers, and says no more than they do.
"""

import json
from pathlib import Path

from kaiyuan_jax import page, storage
from kaiyuan_jax.report import quantile_figures
from kaiyuan_jax.report.schedule_study import text as text_table

TITLE = "What text of each quality is worth"


def build(folder: str | Path) -> str:
    """Writes report.html, quantiles.md and quantiles_*.png beside results.json; returns tables and findings for the terminal."""
    folder = Path(folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    figures = draw(results)
    for figure in figures:
        storage.replace(folder / f"{figure.name}.png", figure.png)
    parts = sections(results)
    storage.replace(folder / "report.html", _html(results, figures, parts))
    storage.replace(folder / "quantiles.md", _markdown(results, figures, parts))
    tables = "\n\n".join(f"{title}\n{table}" for title, _, table in parts)
    return f"{tables}\n\n" + "\n".join(f"* {sentence}" for sentence in findings(results))


def draw(results: dict) -> list[page.Figure]:
    """Changes with quality, levels, and the recipe."""
    entries = [entry | {"task": short(entry["task"])} for entry in shown(results)]
    return [
        page.Figure(
            "quantiles_changes",
            "Performance against quality",
            "Bits per byte less those of the source's own top window: above 0 worse. Bars are 95% intervals of that difference over seeds "
            "and documents. Rings: windows that do worse than one of lower quality, beyond what the largest of all pairs gives by chance.",
            quantile_figures.changes(results, entries),
        ),
        page.Figure(
            "quantiles_levels",
            "Sources beside one another",
            "Means over seeds with 95% intervals over seeds and documents, dashes are seeds. Documents are the same for all, so "
            "differences between lines are surer than the bars show; the rankings count that.",
            quantile_figures.levels(results, entries),
        ),
        page.Figure(
            "quantiles_recipe",
            "Worth and the proposed exposures",
            "Left: tokens of the best text of the domain that a token is worth (dots, with 95% intervals), and what the recipe takes: "
            "drawn to the mean as far as noise explains the differences, and falling with quality. Right: how often the recipe reads it.",
            quantile_figures.recipe(results),
        ),
    ]


# Sentences


def setting(results: dict) -> str:
    one, texts = results["setting"], results["texts"]
    slices = f"Each seed reads one of {one['slices']} slices of a window" if one["slices"] > 1 else "All seeds read the whole window"
    names, quantiles = ", ".join(text["name"] for text in texts), ", ".join(f"{t:.0%}" for t in one["quantiles"])
    rows = f", on {one['rows']} sequences of every held-out store" if any(name.startswith("heldout") for name in one["tasks"]) else ""
    return (
        f"{one['cells']} models of {one['parameters'] / 1e6:.2f}M parameters: {len(texts)} sources ({names}), windows of "
        f"{one['window']:.0%} of token mass at {quantiles} from the top, {one['seeds']} seeds; {one['steps']} steps of "
        f"{one['batch_size'] * one['sequence_length']:,} tokens ({one['tokens']:,} in all), {one['schedule']} schedule, peak rate "
        f"{one['peak']:g}. {slices}, {_span([text['passes'] for text in texts])} times. Tasks: {', '.join(map(short, one['tasks']))}{rows}."
    )


def findings(results: dict) -> list[str]:
    """What the numbers say, a sentence or two each."""
    names, quantiles = [text["name"] for text in results["texts"]], results["setting"]["quantiles"]
    found = []
    for i, name in enumerate(names):
        shape = results["mean"]["shapes"][i]
        found.append(
            f"{name}: over the mean of the targets the lowest window is {_signed(shape['gain'])} against the top one "
            f"({_interval(shape['gain_interval'])}), {verdict(shape['gain_interval'])}. Rank correlation of quality and performance "
            f"{shape['correlation']:.2f} ({shape['correlation_interval'][0]:.2f} to {shape['correlation_interval'][1]:.2f})."
        )
    curves = [(entry, i) for entry in results["measures"] for i in range(len(names))]
    flagged = [(entry, i) for entry, i in curves if any(one["flagged"] for one in entry["shapes"][i]["inversions"])]
    found.append(
        f"Non-monotonic: {len(flagged)} of {len(curves)} curves have a window that does worse than one of lower quality beyond chance; "
        f"about {0.05 * len(curves):.1f} would by chance alone."
    )
    for entry, i in flagged:
        spots = [one for one in entry["shapes"][i]["inversions"] if one["flagged"]]
        worst = spots[0]
        found.append(
            f"{names[i]} on {short(entry['task'])} ({entry['metric']}): the window at {quantiles[worst['better']]:.0%} is "
            f"{worst['difference']:.4f} worse than the one at {quantiles[worst['worse']]:.0%} ({_interval(worst['interval'])}; "
            f"p {_p(entry['shapes'][i]['p'])}; {len(spots)} pair{'s' * (len(spots) > 1)} in all)."
        )
    top = results["ranks"][0]
    if len(names) > 1:
        order = ", ".join(f"{one['source']} {one['value']:.2f} ({one['rank'][0]:.0f} to {one['rank'][1]:.0f})" for one in top)
        found.append(f"Sources by mean rank over the targets at the top window, with the 95% interval of their place: {order}.")
    for p, phase in enumerate(results["recipe"]["phases"], 1):
        kept = ", ".join(f"{one['source']} {one['ratio']:.0%}" for one in phase if one["ratio"] > 0)
        if kept:
            found.append(f"Recipe, phase {p}: keep the best {kept}, {phase[0]['passes']:g} pass{'es' * (phase[0]['passes'] != 1)} each.")
    found.append(
        f"Text below {results['recipe']['upto']:.0%} from the top was not measured and is in no phase; add a quantile to measure it."
        if results["recipe"]["upto"] < 1
        else "The windows reach to the end of every source."
    )
    return found


def verdict(interval: list[float]) -> str:
    """What an interval of (lowest - top) allows to say."""
    low, high = interval
    return "so quality pays" if low > 0 else "so the score is upside down here" if high < 0 else "which may be chance"


def limits(results: dict) -> list[str]:
    one = results["setting"]
    unscored = [text["name"] for text in results["texts"] if not text["scored"]]
    found = [
        f"One model size and one budget, {one['tokens']:,} tokens: which text is best can change with both.",
        f"{one['seeds']} seeds: noise is pooled over the windows of a source, which supposes that it is about the same in all of them.",
        "What text of low quality adds to a mixture is not seen: every model read one window alone.",
    ]
    if any(text["passes"] > 1.5 for text in results["texts"]):
        found.append("Windows are smaller than the budget, so differences between windows contain how well they bear repetition.")
    if one["slices"] == 1:
        found.append("All seeds read the same text, so a flag can be due to the documents that happen to lie in a window.")
    if one["schedule"] != "constant":
        found.append(f"Worth counts what the {one['schedule']} schedule brings in its second half as if tokens had, so it is too near 1.")
    if unscored:
        found.append(f"No quality is known of {', '.join(unscored)}: their windows are random samples.")
    return found


# Tables


def sections(results: dict) -> list[tuple[str, str, str]]:
    """(title, what it is, table as text)."""
    quantiles = [f"{t:.0%}" for t in results["setting"]["quantiles"]]
    names = [text["name"] for text in results["texts"]]
    entries = shown(results)
    values = [
        [
            short(entry["task"]),
            entry["metric"],
            name,
            *(f"{x:.4f}" for x in entry["mean"][i]),
            f"{entry['noise'][i]:.4f}",
            spots(entry, i, quantiles),
        ]
        for entry in entries
        for i, name in enumerate(names)
    ]
    ranked = [
        [short(entry["task"]), entry["metric"], quantile, *(_place(one) for one in places)]
        for entry in entries
        for quantile, places in zip(quantiles, entry["ranking"], strict=True)
    ]
    kept = [
        [
            name,
            entry["domain"],
            *(f"{x:.2f}" for x in entry["worth"]),
            *(f"{phase[i]['ratio']:.1%}" for phase in results["recipe"]["phases"]),
        ]
        for i, (name, entry) in enumerate(zip(names, results["worth"], strict=True))
    ]
    phases = [f"keep, phase {p}" for p in range(1, len(results["recipe"]["phases"]) + 1)]
    first = ["task", "metric", "source", *quantiles, "noise", "worse than lower quality"]
    return [
        (
            "By quality",
            "Means over seeds; noise is the deviation of one cell, pooled over the windows of a source.",
            text_table(first, values),
        ),
        (
            "Sources at equal quantiles",
            "Best first, with the lead of the best over each and its 95% interval; = where that holds 0.",
            text_table(["task", "metric", "quantile", *(f"{i}." for i in range(1, len(names) + 1))], ranked),
        ),
        (
            "Recipe",
            f"Worth of a token by quantile, in tokens of the domain's best text, and what each phase keeps "
            f"({results['recipe']['tokens']:,} tokens in all, at most {results['recipe']['limit']:g} passes).",
            text_table(["source", "domain", *quantiles, *phases], kept),
        ),
    ]


def shown(results: dict) -> list[dict]:
    """All measures, and the mean of the targets where there are several."""
    return [*results["measures"], *([results["mean"]] if len(results["mean"]["targets"]) > 1 else [])]


def spots(entry: dict, i: int, quantiles: list[str]) -> str:
    """The windows of a source that do worse than one of lower quality."""
    flagged = [one for one in entry["shapes"][i]["inversions"] if one["flagged"]]
    return ", ".join(dict.fromkeys(quantiles[one["better"]] for one in sorted(flagged, key=lambda one: one["better"])))


def short(task: str) -> str:
    return "mean of targets" if task.startswith("mean of ") else task.replace("heldout_", "held-out ")


def _place(one: dict) -> str:
    low, high = one["behind_interval"]
    tied = "=" if one["behind"] == 0 or low <= 0 <= high else ""
    return f"{one['source']} {one['value']:.3f}" + (f" {tied}+{one['behind']:.3f} ({low:.3f} to {high:.3f})" if one["behind"] else "")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _signed(value: float) -> str:
    return f"{value:+.4f} bits per byte"


def _interval(ends: list[float]) -> str:
    return f"95% {ends[0]:+.4f} to {ends[1]:+.4f}"


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _html(results: dict, figures: list[page.Figure], parts: list[tuple[str, str, str]]) -> str:
    body = [f"<h1>{page.text(TITLE)}</h1>", page.paragraph(setting(results), "lead")]
    body.append(page.section("What came out", page.bullets(findings(results))))
    body += [page.section(figure.title, page.figure(figure)) for figure in figures]
    body += [page.section(title, page.paragraph(words, "small"), page.preformatted(table)) for title, words, table in parts]
    body.append(page.section("What this does not show", page.bullets(limits(results))))
    return page.page(TITLE, body)


def _markdown(results: dict, figures: list[page.Figure], parts: list[tuple[str, str, str]]) -> str:
    lines = [f"# {TITLE}", "", setting(results), "", *(f"* {sentence}" for sentence in findings(results)), ""]
    for figure in figures:
        lines += [f"![{figure.title}. {figure.caption}](../images/{figure.name}.png)", ""]
    for title, words, table in parts:
        lines += [f"## {title}", "", words, "", "```", table, "```", ""]
    lines += ["## What this does not show", "", *(f"* {sentence}" for sentence in limits(results)), ""]
    return "\n".join(lines)
