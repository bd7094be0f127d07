"""Results as Markdown: a table for every section, and the goals that they reach or miss."""

from collections.abc import Iterable

LOG = 8  # lines of a failed section's output that are shown


def page(results: dict, goals: Iterable[dict]) -> str:
    """The whole of the JSON for readers: goals first, then every section, command and versions last."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    facts = f"Command: `{results['command']}`. {results['when']}. Python {machine['python']}, {versions}; {machine['cores']} cores."
    warning = ["**Tiny shapes: these figures mean nothing.**", ""] if results["tiny"] else []
    parts = ["# One accelerator", "", *warning, "## Goals", "", *table(list(goals)), "", *map(section, results["sections"]), facts, ""]
    return "\n".join(parts)


def section(result: dict) -> str:
    """One section: its status, a table for every kind of row (rows of one kind have the same columns), the end of its log if it failed."""
    lines = [f"## {result['name']}: {result['status']} ({result['seconds']:.0f} s)", ""]
    kinds = {}
    for row in result["rows"]:
        kinds.setdefault(frozenset(row), []).append(row)
    for rows in kinds.values():
        lines += [*table(rows), ""]
    if result.get("log"):
        lines += ["```", *result["log"].strip().splitlines()[-LOG:], "```", ""]
    return "\n".join(lines)


def table(rows: list[dict]) -> list[str]:
    """Markdown lines of rows with the same keys; a column without any value is left out."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + " --- |" * len(names)]
    return lines + ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")
