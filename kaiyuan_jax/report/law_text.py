"""A fitted law as text for the terminal: how well it predicts, its parameters with intervals, the gaps between pairs of curves."""

from kaiyuan_jax.schedules.laws.metrics import KEYS

SIGNED = ("final_loss_error",)
MOST_PAIRS = 12  # on the terminal


def describe(contents: dict) -> str:
    """The text of the contents of a law.json (schedules/laws/artefact.py)."""
    parts = [headline(contents), "\n".join(_columns(*measures(contents))), "\n".join(_columns(*parameters(contents)))]
    header, rows = gaps(contents)
    if rows:
        more = [f"and {len(rows) - MOST_PAIRS} more pairs (law.json)"] if len(rows) > MOST_PAIRS else []
        parts.append("\n".join(_columns(header, rows[:MOST_PAIRS]) + more))
    return "\n\n".join(parts)


def headline(contents: dict) -> str:
    objective = contents["objective"]
    points = sum(item["points"] for item in contents["inputs"] if item["role"] == "train")
    lines = [
        f"{contents['law']} ({contents['protocol']}): {contents['formula']}",
        f"fitted to {points} points of {', '.join(contents['train'])}; Huber loss of the log residuals {objective['value']:.4g}",
    ]
    if prior := contents["details"].get("prior"):
        name, moved = max(contents["details"]["moved"].items(), key=lambda item: abs(item[1]))
        lines.append(
            f"prior of {', '.join(prior['parameters'])}: {prior['source']} (on these the fit is no test); the curves moved {name} most, "
            f"by {moved:+.1f} deviations"
        )
    return "\n".join(lines)


def measures(contents: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every training curve, every test curve, and the mean over the test curves."""
    metrics = contents["metrics"]
    rows = [[name, "train", *_six(row)] for name, row in metrics["train"].items()]
    rows += [[name, "test", *_six(row)] for name, row in metrics["curves"].items()]
    if metrics["mean"]:
        rows.append(["mean of the test curves", "", *_six(metrics["mean"])])
    return ["curve", "", *KEYS], rows


def parameters(contents: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: value and 90% interval; the interval is empty where the fit gave none."""
    rows = []
    for name, value in contents["parameters"].items():
        ends = (contents["intervals"] or {}).get(name)
        rows.append([name, f"{value:.6g}", f"{ends[0]:.4g} to {ends[1]:.4g}" if ends else ""])
    return ["parameter", "value", "90% interval"], rows


def gaps(contents: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each pair's predicted and actual difference of final losses."""
    trained = set(contents["train"])
    rows = []
    for name, gap in contents["metrics"]["pairs"].items():
        kind = "train" if any(f"{a}-{b}" == name for a in trained for b in trained) else "test"
        rows.append([name, kind, *(f"{gap[key]:+.4f}" for key in ("predicted_gap", "actual_gap", "gap_error"))])
    return ["pair a-b", "", "predicted gap", "actual gap", "gap error"], rows


def _six(row: dict) -> list[str]:
    return ["" if row[key] is None else f"{row[key]:+.5f}" if key in SIGNED else f"{row[key]:.5f}" for key in KEYS]


def _columns(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    left = [not any(row[i][:1].isdigit() or row[i][:1] in "+-" for row in rows) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in [header, *rows]
    ]
