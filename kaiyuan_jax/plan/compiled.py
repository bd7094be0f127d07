"""Whole steps that were compiled for a target, so that no page waits for the same one twice.

A result is known by everything that decides the program: target, JAX, and of the experiment the model, shapes, mesh, precision, optimizer
and what the step measures. Results lie in FOLDER, one file each; KNOWN travels with the project. `code` says which version of the step
they are of: a result of an earlier one is shown, and said to be that.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

from kaiyuan_jax import config, json_text
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.files import replace
from kaiyuan_jax.plan import memory, search
from kaiyuan_jax.plan.setting import Setting, applied
from kaiyuan_jax.sharding import topology

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "compiled"
KNOWN = ROOT / "docs" / "results" / "plan_compiled.json"
PROGRAM = ("models", "kernels", "optimizers", "averaging/online.py", "training/state.py", "training/step.py", "sharding/rules.py")


def key(experiment: Experiment, target: topology.Target, setting: Setting) -> dict:
    """What decides the program, JSON-able."""
    run = applied(experiment, setting)
    parts = {name: dataclasses.asdict(getattr(run, name)) for name in ("model", "optimizer", "precision", "kernels")}
    shape = {"batch": run.data.batch_size, "length": run.data.sequence_length, "documents": run.data.mask_documents}
    rest = {"average": memory.averages(run), "statistics": run.logging.statistics, "divergence": run.health.divergence}
    whole = parts | shape | rest | {"target": target.name, "mesh": setting.mesh, "jax": importlib.metadata.version("jax")}
    return json.loads(json.dumps(whole))


@functools.cache
def code() -> str:
    """A checksum of the files that the step is made of."""
    whole = hashlib.sha256()
    for part in PROGRAM:
        path = ROOT / "kaiyuan_jax" / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


def find(experiment: Experiment, target: topology.Target, setting: Setting) -> dict | None:
    """A result of `ahead_of_time.measure`, with the `key` it is known by and its `code`; None where there is none."""
    wanted = key(experiment, target, setting)
    path = _path(wanted)
    with contextlib.suppress(OSError, json_text.JSONError):  # one that cannot be read is made again
        if path.is_file():
            return json_text.read(path)
    return next((one for one in known() if one["key"] == wanted), None)


def known() -> list[dict]:
    """Results that travel with the project."""
    return json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else []


def experiment_of(wanted: dict) -> Experiment:
    """An experiment that has the key, as far as estimates read it."""
    parts = {name: wanted[name] for name in ("model", "optimizer", "precision", "kernels", "mesh")}
    found = config.from_json(json.dumps(parts))
    found.data.batch_size, found.data.sequence_length = wanted["batch"], wanted["length"]
    return found


def best(experiment: Experiment, target: topology.Target) -> search.Found | None:
    """The fastest setting that fits by arithmetic and is not known to be refused by the compiler."""
    refused = []
    while (found := search.best(experiment, target, refused)) and _refused(experiment, target, found.setting):
        refused.append(found.setting)
    return found


def _refused(experiment, target, setting) -> bool:
    result = find(experiment, target, setting)
    return result is not None and not result["memory"]["fits"]


def ensure(experiment: Experiment, target: topology.Target, timeout: float) -> None:
    """Compiles the fastest setting that fits, unless it has been, and the next one where the compiler refuses it.

    Without the target's compiler nothing is done: the page says so.
    """
    while (found := best(experiment, target)) and not find(experiment, target, found.setting) and not topology.missing(target):
        compile_now(experiment, target, found.setting, timeout)


def compile_now(experiment: Experiment, target: topology.Target, setting: Setting, timeout: float) -> dict:
    """Compiles the step (minutes) and keeps the result. Raises UserError where the compiler is absent or time runs out."""
    arguments = {"experiment": config.to_json(applied(experiment, setting))}
    try:
        result = topology.call(target, "kaiyuan_jax.plan.ahead_of_time:measure", arguments, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise config.UserError(f"--timeout={timeout:.0f}: {target.name} was not compiled by then; give more seconds") from None
    result |= {"key": key(experiment, target, setting), "code": code()}
    path = _path(result["key"])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(result, indent=1) + "\n")
    return result


def _path(wanted: dict) -> Path:
    return FOLDER / f"{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:24]}.json"
