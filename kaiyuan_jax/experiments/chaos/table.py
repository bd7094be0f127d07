"""The results of a campaign as a page: by kind what was brought about and survived, what it cost."""

import json
import statistics
from pathlib import Path

from kaiyuan_jax.experiments.chaos.faults import KINDS


def write(results: list[dict], output: Path, mounted: bool) -> str:
    """Writes chaos.json and chaos.md; returns the table as Markdown."""
    rows = [_row(kind, [result for result in results if result["kind"] == kind]) for kind in KINDS]
    rows = [row for row in rows if row["injected"]]
    total = {"kind": "all", "what": "all of them", **_sums(results)}
    facts = {"disk": "a small one, filled" if mounted else "limit on the size of files", "kinds": rows, "all": total, "faults": results}
    (output / "chaos.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text = "\n".join([*_markdown([*rows, total]), "", *_by_arrangement(results), ""])
    (output / "chaos.md").write_text(text, encoding="utf-8")
    return text


def _row(kind: str, results: list[dict]) -> dict:
    return {"kind": kind, "what": KINDS[kind].what, **_sums(results)}


def _sums(results: list[dict]) -> dict:
    repeated, seconds = [result["repeated"] for result in results], [result["seconds"] for result in results]
    return {
        "injected": len(results),
        "survived": sum(result["survived"] for result in results),
        "repeated": [statistics.median(repeated), max(repeated)] if results else [],
        "seconds": [statistics.median(seconds), max(seconds)] if results else [],
    }


def _markdown(rows: list[dict]) -> list[str]:
    lines = ["| fault | injected | survived | steps repeated, median / most | seconds to recover, median / most |", "|---|---|---|---|---|"]
    for row in rows:
        (middle, most), (usual, longest) = row["repeated"], row["seconds"]
        lines.append(f"| {row['what']} | {row['injected']} | {row['survived']} | {middle:g} / {most} | {usual:.1f} / {longest:.1f} |")
    return lines


def _by_arrangement(results: list[dict]) -> list[str]:
    lines = ["| arrangement | runs | injected | survived |", "|---|---|---|---|"]
    for name in dict.fromkeys(result["arrangement"] for result in results):
        of = [result for result in results if result["arrangement"] == name]
        lines.append(f"| {name} | {len({result['run'] for result in of})} | {len(of)} | {sum(result['survived'] for result in of)} |")
    return lines
