"""Tasks of lm-evaluation-harness by name, file or folder; what a model makes of them, as the harness's JSON and as a table.

Local tasks are looked up first, and without the harness's own list of some fourteen thousand, which takes half a minute to read. A task's
data files are found as the harness finds them: from the folder in which the command is started.
"""

import difflib
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from kaiyuan_jax import storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation.harness.adapter import Adapter

RESAMPLES = 1000  # for standard errors of what is no mean


def load(flag: str, names: Sequence[str], folders: Sequence[str] = ()) -> tuple[TaskManager, list]:
    """The harness's objects for tasks, groups and tags by name, for .yaml files, and for all tasks of a folder.

    folders: with more tasks to be found by name. Reads the data of the tasks. Raises UserError that begins with the flag.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that a task relies on
    paths = [name for name in names if Path(name).is_dir()]
    manager = TaskManager(include_defaults=False, include_path=[*folders, *paths])
    wanted = []
    for name in names:
        inside = [task for task, entry in manager.task_index.items() if entry.yaml_path and Path(name) in entry.yaml_path.parents]
        if name in paths and not inside:
            raise UserError(f"{flag}={name}: this folder holds no task: no .yaml file with `task:`, and no suite.json")
        wanted += sorted(inside) if name in paths else [name]
    if missing := [name for name in wanted if name not in manager.task_index and not Path(name).is_file()]:
        with tqdm(desc="reading the harness's list of tasks", total=1, disable=None, leave=False):
            manager = TaskManager(include_path=[*folders, *paths])
        for name in missing:
            if name not in manager.task_index:
                near = difflib.get_close_matches(name, manager.all_tasks, 3) or list(manager.all_tasks)[:3]
                raise UserError(f"{flag}={name}: no such task, file or folder; is it {' or '.join(near)}? (--include_path adds folders)")
    return manager, [task for name in wanted for task in _loaded(flag, manager, name)]


def _loaded(flag: str, manager: TaskManager, name: str) -> list:
    try:
        found = manager.load([name])
    except Exception as error:  # whatever a task's file, its code or the library that fetches its data may do
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{flag}={name}: cannot be loaded ({said:.300}); data files are looked for from the folder where this is started, and data of "
            "the hub needs a connection or a copy in the cache of `datasets`"
        ) from None
    return list(found["groups"].values())[:1] or list(found["tasks"].values())


def evaluate(
    adapter: Adapter, manager: TaskManager, tasks: Sequence, *, fewshot: int | None, limit: int | None, seed: int, gen_kwargs: str
) -> dict[str, Any]:
    """What `lm_eval.simple_evaluate` gives, samples included; standard errors of what is no mean come from fewer resamples than there.

    tasks: as `load` gives them. fewshot: solved examples before each question, None: as each task says; limit: documents of each task,
    the first, None: all; seed: of the choice of examples; gen_kwargs: as the harness takes them, such as "max_gen_toks=64". Raises
    UserError for tasks that cannot be asked.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # else the harness forks a process that holds an accelerator
    options = dict(num_fewshot=fewshot, limit=limit, gen_kwargs=gen_kwargs or None, fewshot_random_seed=seed, bootstrap_iters=RESAMPLES)
    try:
        return evaluator.simple_evaluate(model=adapter, tasks=list(tasks), task_manager=manager, **options)
    except ValueError as error:
        if isinstance(error, UserError) or not any(word in str(error) for word in ("unsafe", "multimodal", "Duplicate")):
            raise
        raise UserError(f"--tasks: {error}") from None


def write(folder, name: str, results: dict[str, Any]) -> Path:
    """Writes <name>.samples.jsonl, a line a document, and then <name>.json, all the rest; gives the path of the latter."""
    folder = storage.path(folder)
    storage.make_folder(folder)
    rest = dict(results)
    lines = [{"task": task} | sample for task, samples in rest.pop("samples", {}).items() for sample in samples]
    storage.replace(folder / f"{name}.samples.jsonl", "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines))
    storage.replace(folder / f"{name}.json", json.dumps(plain(rest), indent=1, ensure_ascii=False) + "\n")
    return folder / f"{name}.json"


def plain(value):
    """The value as JSON has it: numbers that are none become null, what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def table(results: dict[str, Any]) -> str:
    """The scores for the terminal: one line a metric of a task or group, groups before tasks."""
    rows = [("task", "shots", "filter", "metric", "value", "error")]
    for name, entry in {**results.get("groups", {}), **results["results"]}.items():
        for field, value in entry.items():
            metric, _, how = field.partition(",")
            if not how or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = entry.get(f"{metric}_stderr,{how}")
            shown = f"{error:.4f}" if isinstance(error, (int, float)) else ""
            rows.append((name, str(results["n-shot"].get(name, "")), "" if how == "none" else how, metric, f"{value:.4f}", shown))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    names = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join(f"{name}{row[4]:>12}{row[5]:>9}" for name, row in zip(names, rows, strict=True))
