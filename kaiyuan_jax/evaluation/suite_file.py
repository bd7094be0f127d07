"""What a model makes of a suite of local tasks, as one JSON file that a killed evaluation goes on with.

    {"suite": folder, "model": fingerprint, "tasks": {name: {"fingerprint": of its items, ... as `tasks.summary` gives it}}}

A task is answered again only when its items or the model have changed.
"""

import json
from collections.abc import Callable

from tqdm import tqdm

from kaiyuan_jax import json_text, storage
from kaiyuan_jax.evaluation import tasks


def evaluate(path, suite: tasks.Suite, fingerprint: str, score: Callable[[tasks.Task], tasks.Scores]) -> dict:
    """Answers the tasks that <path> does not hold for this model yet, and writes it after each; gives what it then says.

    fingerprint: of the model and all else that scores depend on.
    """
    result = {"suite": suite.folder, "model": fingerprint, "tasks": {}}
    held = {name: entry for name, entry in _held(path, fingerprint).items() if _is_of(entry, suite.tasks.get(name))}
    for name, task in tqdm(suite.tasks.items(), desc="tasks", unit="task", disable=None):
        entry = held.pop(name, None)
        if entry is None:
            summary = tasks.summary(score(task))
            entry = {"fingerprint": task.fingerprint} | json.loads(json.dumps(summary))  # levels become text, as in the file
        result["tasks"][name] = entry
        whole = result | {"tasks": result["tasks"] | held}  # what is held of later tasks is kept, whenever this is killed
        storage.replace(path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return result


def table(result: dict) -> str:
    """The result for the terminal: a line a task and level, level 0 being all its items."""
    shown = ("gold_bits_per_byte", "accuracy", "accuracy_per_byte")
    width = max(len(name) for name in [*result["tasks"], "task"])
    heads = "".join(f"{name:>20}{'95% interval':>18}" for name in shown)
    lines = [f"{'task':<{width}}{'level':>7}{'items':>7}{'chance':>8}{heads}"]
    for name, entry in result["tasks"].items():
        for level, metrics in entry["levels"].items():
            chance = entry["chance"][level]
            line = f"{name:<{width}}{level:>7}{entry['items'][level]:>7}{'' if chance is None else f'{chance:.3f}':>8}"
            lines.append((line + "".join(_cells(metrics.get(metric)) for metric in shown)).rstrip())
    return "\n".join(lines)


def _cells(entry: dict | None) -> str:
    if entry is None or entry["value"] is None:
        return " " * 38
    low, high = entry["interval"] or (float("nan"),) * 2
    return f"{entry['value']:>20.4f}{f'{low:.4f} {high:.4f}':>18}"


def _is_of(entry, task: tasks.Task | None) -> bool:
    return task is not None and isinstance(entry, dict) and entry.get("fingerprint") == task.fingerprint


def _held(path, fingerprint: str) -> dict:
    try:
        result = json_text.read(path)
    except (OSError, json_text.JSONError):
        return {}
    whole = isinstance(result, dict) and result.get("model") == fingerprint and isinstance(result.get("tasks"), dict)
    return result["tasks"] if whole else {}
