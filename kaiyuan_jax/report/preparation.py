"""The report of a preparation: what came in, what each step and rule took away, and how good what stayed is, source by source."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from kaiyuan_jax import page
from kaiyuan_jax.config import UserError
from kaiyuan_jax.report import style

FLOW = (  # count in report.json -> what the table calls it
    ("documents read", "read"),
    ("empty", "empty"),
    ("documents cleaned", "after cleaning"),
    ("without quality", "without quality"),
    ("exact duplicates", "exact duplicates"),
    ("near duplicates", "near duplicates"),
)
RULES = ("rule ", "mask ", "contamination ")
STAGES = (  # title, then the counts of documents, bytes of text and tokens, of which several are added
    ("read", ["documents read"], ["bytes read"], []),
    ("cleaned", ["documents cleaned"], ["bytes cleaned"], []),
    ("in the stores", ["train documents", "heldout documents"], ["train bytes", "heldout bytes"], ["train tokens", "heldout tokens"]),
)


@dataclasses.dataclass(frozen=True)
class Source:
    """One prepared source: its name, and report.json as written by data/prepare/pipeline.py."""

    name: str
    report: dict

    @property
    def scored(self) -> bool:
        return not self.report["settings"]["unscored"]


def load(folders: list[str]) -> list[Source]:
    """Reads the reports of prepared sources; raises UserError for a folder without one."""
    found = []
    for folder in folders:
        path = Path(folder) / "report.json"
        if not path.is_file():
            raise UserError(f"{folder}: no report.json, so not a prepared source; prepare it with launch/prepare_data.py --output={folder}")
        found.append(Source(Path(folder).name, json.loads(path.read_text(encoding="utf-8"))))
    return found


def build(folders: list[str], output: str | Path) -> Path:
    """Writes one self-contained HTML page about prepared sources; returns its path."""
    sources, output = load(folders), Path(output)
    sections = (_flow, _quality, _removed, _languages, _lost, _steps)
    parts = ["<h1>Prepared text</h1>", *(part for section in sections for part in section(sources))]
    partial = output.with_name(output.name + ".partial")
    partial.write_text(page.page("Prepared text", parts), encoding="utf-8")
    partial.replace(output)
    return output


def _table(header: list[str], rows: list[list]) -> str:
    shown = [([(f"{cell:,}" if isinstance(cell, int) else str(cell), "") for cell in row], "", False) for row in rows]
    return page.table(header, shown, words=1)


def _flow(sources: list[Source]) -> list[str]:
    header = ["source", *(title for _, title in FLOW), "train", "held out", "tokens (train)", "bytes a token"]
    rows = []
    for source in sources:
        counts, stores = source.report["counts"], source.report["stores"]
        train = stores["train"]
        rows.append([source.name, *(counts.get(name, 0) for name, _ in FLOW), train["documents"], stores["heldout"]["documents"],
                     train["tokens"], f"{train['bytes'] / train['tokens']:.2f}"])  # fmt: skip
    stages = []
    for source in sources:
        counts = source.report["counts"]
        for title, *columns in STAGES:
            stages.append([f"{source.name}: {title}", *(sum(counts.get(name, 0) for name in names) if names else "" for names in columns)])
    return [page.section("Documents", _table(header, rows), _table(["after a stage", "documents", "bytes of text", "tokens"], stages))]


def _quality(sources: list[Source]) -> list[str]:
    scored = [source for source in sources if source.scored]
    if not scored:
        return []
    with style.settings():
        drawn, axes = style.figure(len(scored), 2, width=5.2, height=2.4)
        for (left, right), source in zip(axes, scored, strict=True):
            histogram = source.report["histograms"]["train"]
            edges, tokens = np.array(histogram["edges"]), np.array(histogram["tokens"], float)
            left.bar(edges[:-1], tokens / tokens.sum(), np.diff(edges), align="edge", color=style.SOURCE_COLOURS[0], edgecolor="white")
            left.set_title(source.name)
            left.set_xlabel(f"quality ({source.report['settings']['sort_by'] or 'sort key'})")
            left.set_ylabel("share of tokens")
            right.plot(np.linspace(0, 1, len(histogram["quantiles"])), histogram["quantiles"], color=style.RECIPE_COLOURS[0])
            right.set_xlabel("quantile of token mass")
            right.set_ylabel("quality")
        png = style.png(drawn)
    caption = "Left: tokens by quality. Right: quality at each quantile of token mass, which is how a recipe cuts a store."
    return [page.section("Quality", page.figure(page.Figure("quality", "Quality of the training text", caption, png)))]


def _removed(sources: list[Source]) -> list[str]:
    parts = []
    for source in sources:
        counts, examples = source.report["counts"], source.report["examples"]
        rules = {name: count for name, count in counts.items() if count and name.startswith(RULES)}
        if not rules:
            continue
        parts.append(f"<h3>{page.text(source.name)}</h3>")
        rows = [[name, count, counts.get(name.replace("rule ", "bytes ", 1), "") if name.startswith("rule ") else ""]
                for name, count in rules.items()]  # fmt: skip
        parts.append(_table(["what", "times", "bytes removed"], rows))
        parts += [_examples(name, examples[name]) for name in rules if examples.get(name)]
    return [page.section("What the rules removed", *parts)] if parts else []


def _examples(name: str, texts: list[str]) -> str:
    return page.details(f"{name}: {len(texts)} examples", *(page.sample("", text, "") for text in texts))


def _lost(sources: list[Source]) -> list[str]:
    lines = []
    for source in sources:
        counts, examples = source.report["counts"], source.report["examples"]
        lines += [f"{source.name}: {file} was left out: {reason}" for file, reason in source.report["quarantined"].items()]
        for file, reasons in source.report["lost"].items():
            lines.append(f"{source.name}: {file}: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()))
        for name, count in counts.items():
            if name.startswith("read: ") and examples.get(name):
                lines.append(f"{source.name}: {count:,} × {name.removeprefix('read: ')}, such as {', '.join(examples[name][:5])}")
    return [page.section("What could not be read", page.bullets(lines))] if lines else []


def _languages(sources: list[Source]) -> list[str]:
    rows = [[f"{source.name}: {name.removeprefix('language ')}", count] for source in sources
            for name, count in source.report["counts"].items() if name.startswith("language ")]  # fmt: skip
    return [page.section("Languages found", _table(["language", "documents"], rows))] if rows else []


def _steps(sources: list[Source]) -> list[str]:
    steps = [(source.name, step) for source in sources for step in source.report["steps"]]
    rows = [[f"{name}: {step['step']}", f"{step['seconds']:.1f}", step.get("tasks", 1)] for name, step in steps]
    engine = sources[0].report["engine"]
    about = f"Engine {engine['name']}, {engine['workers']} workers, {engine['memory'] / 2**30:.3g} GiB. Seconds of each step's last run."
    return [page.section("Steps", page.paragraph(about), _table(["step", "seconds", "tasks"], rows))]
