"""The tables of the study of task metrics, as Markdown: one over all tasks, one with the best metric of every task and level."""


def text(result: dict) -> str:
    """result: what launch/study_task_metrics.py writes."""
    doublings = result["measured"][0]["doublings"]
    heads = [f"{_count(doubling['tokens'])} -> {_count(2 * doubling['tokens'])}" for doubling in doublings]
    lines = [f"| kind | metric | tasks | {' | '.join(f'z {head}' for head in heads)} | tasks separated | in order |"]
    lines.append("|---|---|---|" + "---|" * (len(heads) + 2))
    for row in result["by_metric"]:
        z = " | ".join(f"{value:.1f}" for value in row["median_z"])
        lines.append(f"| {row['kind']} | {row['metric']} | {row['tasks']} | {z} | {row['separating']} | {row['in_order']:.0%} |")
    lines += ["", "| task | level | metric with the largest mean z | mean z | in order | mean z of accuracy | its first and last value |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (task, level), rows in _tasks(result["measured"]).items():
        best = max(rows.values(), key=_mean)
        accuracy = rows.get("accuracy")
        said = f"{_mean(accuracy):.1f} | {accuracy['first']:.2f}, {accuracy['last']:.2f}" if accuracy else "- | -"
        lines.append(f"| {task} | {level or 'all'} | {best['metric']} | {_mean(best):.1f} | {best['in_order']:.0%} | {said} |")
    return "\n".join(lines) + "\n"


def _mean(row: dict) -> float:
    z = [doubling["z"] or 0.0 for doubling in row["doublings"]]
    return sum(z) / len(z) if z else 0.0


def _tasks(measured: list[dict]) -> dict:
    found: dict = {}
    for row in measured:
        if not row["task"].startswith(("heldout/", "choice/")):
            found.setdefault((row["task"], row["level"]), {})[row["metric"]] = row
    return found


def _count(tokens: float) -> str:
    return f"{tokens / 1e3:.0f}k" if tokens < 1e6 else f"{tokens / 1e6:.1f}M" if tokens < 1e9 else f"{tokens / 1e9:.1f}B"
