"""The report of the study of reuse, out of its simulations.json and reuse.json: a page, a document in Markdown with its figures, tables.

Every sentence is made from the numbers, and says no more than they do.
"""

import json
from pathlib import Path

from kaiyuan_jax import files, page
from kaiyuan_jax.report import reuse_figures

TITLE = "What reading text again is worth"
DEFINED = (
    "E(K, N): one pass over E times N fresh tokens reaches the loss that K passes over N tokens reach (2511.13421). E = K: repeated "
    "text is "
    "as good as fresh. The one-pass curve begins at the least N: an E that comes to no more tokens than that stands for that or less. In "
    "tables a dash is a loss lower than the end of the one-pass run, or no crossing within the passes made."
)


def build(folder: str | Path) -> str:
    """Writes report.html, reuse.md and reuse_*.png beside the results; returns the tables and findings for the terminal."""
    folder = Path(folder)
    simulated, found = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("simulations.json", "reuse.json"))
    figures = draw(simulated, found)
    for figure in figures:
        files.replace(folder / f"{figure.name}.png", figure.png)
    theory, real, summary = simulation_table(simulated), reuse_table(found), summary_table(found)
    sections = [
        ("Real runs", [setting(found), DEFINED], [figures[3], figures[2]], [summary, real], findings(found)),
        ("Simulations", [simulation_setting(simulated)], figures[:2], [theory], simulation_findings(simulated)),
        ("What this does not show", [], [], [], limits(found)),
    ]
    parts = [f"<h1>{page.text(TITLE)}</h1>"]
    lines = [f"# {TITLE}", ""]
    for title, words, shown, tables, sentences in sections:
        inner = [page.paragraph(one) for one in words] + [page.bullets(sentences)]
        inner += [page.figure(figure) for figure in shown] + [page.preformatted(table) for table in tables]
        parts.append(page.section(title, *inner))
        lines += [f"## {title}", "", *(line for one in words for line in (one, "")), *(f"* {sentence}" for sentence in sentences), ""]
        lines += [line for table in tables for line in ("```", table, "```", "")]
        lines += [line for figure in shown for line in (f"![{figure.title}. {figure.caption}]({figure.name}.png)", "")]
    files.replace(folder / "report.html", page.page(TITLE, parts))
    files.replace(folder / "reuse.md", "\n".join(lines))
    said = "\n".join(f"* {line}" for line in simulation_findings(simulated) + findings(found))
    return "\n\n".join([theory, summary, real, said])


def draw(simulated: dict, found: dict) -> list[page.Figure]:
    """Both simulations, the loss curves, E(K, N)."""
    return [
        page.Figure("reuse_convex", "Strongly convex", "E over K and its plateau over N, computed exactly.",
                    reuse_figures.convex(simulated["strongly_convex"])),
        page.Figure("reuse_zipf", "Zipf", "E over K and its plateau over N, computed exactly; both scales logarithmic.",
                    reuse_figures.zipf(simulated["zipf"])),
        page.Figure("reuse_curves", "Losses", "Held-out loss over tokens read, after every evaluated step.", reuse_figures.curves(found)),
        page.Figure("reuse_rates", "Effective reuse", "Bands: 95%, documents and seeds drawn again together. Points: seeds alone.",
                    reuse_figures.reuse(found)),
    ]  # fmt: skip


# Sentences


def setting(found: dict) -> str:
    size = found["size"]
    return (
        f"{found['parameters'] / 1e6:.2f}M parameters, runs of {size['tokens']:,} tokens in steps of "
        f"{size['batch_size'] * size['sequence_length']:,}, constant rate {size['peak']:g} after {size['warmup']} steps, "
        f"{found['seeds']} seeds "
        f"(text, weights and order of their own), text of {', '.join(found['sources'])} in equal parts; held-out loss over "
        f"{sum(found['documents'].values()):,} documents, mean over sources."
    )


def findings(found: dict) -> list[str]:
    sizes, share, sentences = found["sizes"], found["share"], []
    for size in sizes:
        most, last = size["most"], max(size["epochs"])
        at = size["epochs"][_largest(size["reuse"])]
        fell = "" if at == last else f", reached after {at} of {last} epochs"
        sentences.append(
            f"{size['fresh']:,} fresh tokens: the most they are worth is {_value(most)} times as many{fell}. An epoch is worth "
            f"{share:.0%} of a fresh one or more on average {_until(size)}; by 2305.16264 that is so up to {found['law_saturation']:.1f}."
        )
    trend = found["trend"]
    if trend["value"] is not None and trend["band"][0] is not None:
        grows = "grows with N here" if trend["band"][0] > 0 else "falls with N here" if trend["band"][1] < 0 else "has no trend in N here"
        sentences.append(
            f"After {trend['epochs']} epochs, which all sizes have, E {grows}: as N to the power {trend['value']:.2f} (95%: "
            f"{_band(trend['band'])}). 2305.16264 has the same E for every N; 2511.13421 says that it rises with N."
        )
    return sentences


def limits(found: dict) -> list[str]:
    size, once = found["size"], [one["reuse"][0] for one in found["sizes"]]
    return [
        f"One model of {found['parameters'] / 1e6:.2f}M parameters and at most {max(one['fresh'] for one in found['sizes']):,} fresh "
        "tokens. Published studies repeat hundreds of millions; how E changes over that distance cannot be read off here.",
        f"One constant rate ({size['peak']:g}) for all; E is defined with the best rate for each K and N, so a rate that suits few epochs "
        "counts against many. No decay: after one, both sides would be lower, not by the same amount.",
        "A run with few fresh tokens holds whole documents, the one-pass run reads rows from all over its stretch and so from more "
        "documents: "
        f"E(1, N), which should be 1, comes out at {', '.join(f'{one:.2f}' for one in once)} for the sizes above, and larger E may be "
        "low by as "
        "much.",
        f"{found['seeds']} seeds. Bands draw them again, which understates how seeds differ; the points show each.",
    ]


def simulation_setting(simulated: dict) -> str:
    convex, zipf = simulated["strongly_convex"]["design"], simulated["zipf"]["design"]
    return (
        f"Linear regression by multi-epoch SGD of batch 1, best constant rate. Strongly convex: {convex['dimension']} one-hot features, "
        f"condition number {convex['condition']:g}, noise {convex['noise']:g}. Zipf: {zipf['dimension']:,} features, a = {zipf['a']:g}, "
        f"b = {zipf['b']:g}, no noise. Both exactly (no sampling); `gaussian` runs SGD over dense features, "
        f"{simulated['gaussian']['repeats']} data sets for each N: its numbers scatter by about a tenth."
    )


def simulation_findings(simulated: dict) -> list[str]:
    convex, zipf = simulated["strongly_convex"], simulated["zipf"]
    first, last = convex["rows"][0], convex["rows"][-1]
    two, four = (convex["epochs"].index(k) for k in (2, 4))
    exponents = ", ".join(f"{name} {one['found']:.3f} ({one['theory']:.3f})" for name, one in zipf["exponents"].items())
    return [
        f"Strongly convex, few epochs: E(2) is {first['reuse'][two]:.2f} and E(4) {first['reuse'][four]:.2f} at N = {first['samples']:,}, "
        f"{last['reuse'][two]:.2f} and {last['reuse'][four]:.2f} at N = {last['samples']:,}: E approaches K as N grows.",
        f"Many epochs: the plateau is {last['saturated']:.2f} at N = {last['samples']:,} and grows by {convex['slope']:.3f} with ln "
        f"N; theory, to leading order, {convex['slope_theory']:.3f}. The risk there is "
        f"{last['plateau'] / last['plateau_theory']:.4f} of s^2 d / (2 N).",
        f"Zipf, exponents in N, found (theory): {exponents}.",
    ]


# Tables


def simulation_table(simulated: dict) -> str:
    shown = [1, 2, 4, 8, 16, 32, 64]
    header = ["simulation", "N", *(f"E({k})" for k in shown), "plateau", "theory"]
    rows = []
    for name in ("strongly_convex", "gaussian", "zipf"):
        part = simulated[name]
        saturated = {n: value for n, value in zip(part.get("samples", []), part.get("saturated", []), strict=True)}
        for row in part["rows"]:
            of = dict(zip(part["epochs"], row["reuse"], strict=True))
            plateau = row.get("saturated", saturated.get(row["samples"]))
            theory = f"{row['theory']:.2f}" if "theory" in row else ""
            rows.append([name, f"{row['samples']:,}", *(_number(of.get(k), 2) for k in shown), _number(plateau, 2), theory])
    return _text(header, rows)


def summary_table(found: dict) -> str:
    share = f"{found['share']:.2f}"
    header = ["fresh tokens", "largest E", "95%", f"K({share}, N)", "95%", "fitted R", "95%"]
    rows = []
    for size in found["sizes"]:
        numbers = [(size[key]["value"], size[key]["band"]) for key in ("most", "saturation", "decay")]
        rows.append([f"{size['fresh']:,}", *(cell for value, band in numbers for cell in (_number(value, 2), _band(band)))])
    return _text(header, rows)


def reuse_table(found: dict) -> str:
    header = ["fresh tokens", "epochs", "E", "95%", "seeds", "2305.16264", *found["sources"]]
    rows = []
    for number, size in enumerate(found["sizes"]):
        for place, epochs in enumerate(size["epochs"]):
            rows.append([
                f"{size['fresh']:,}", str(epochs), _number(size["reuse"][place], 2), _band(size["bands"][place]),
                " ".join(_number(seed[place], 2) for seed in size["seeds"]), f"{size['law'][place]:.2f}",
                *(_number(found["by_source"][source][number][place], 2) for source in found["sources"]),
            ])  # fmt: skip
    return _text(header, rows)


def _largest(values: list[float | None]) -> int:
    """Where E is largest; beyond the one-pass curve it is larger than anywhere on it."""
    return max(range(len(values)), key=lambda place: float("inf") if values[place] is None else values[place])


def _until(size: dict) -> str:
    """How long reuse pays, in words."""
    value, band = size["saturation"]["value"], size["saturation"]["band"]
    return f"for all {max(size['epochs'])} made" if value is None else f"up to {value:.1f} (95%: {_band(band)})"


def _value(one: dict) -> str:
    return "more than could be measured" if one["value"] is None else f"{one['value']:.1f} (95%: {_band(one['band'])})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _band(ends: list[float | None]) -> str:
    return f"{_number(ends[0], 2)} to {_number(ends[1], 2)}"


def _text(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in (header, *rows)
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)
