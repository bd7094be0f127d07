"""What may change between two sessions of one run, and what may not.

A run folder belongs to one experiment. Where it runs (mesh, kernels, recomputation, micro-batches), what it writes (logging, evaluation,
checkpoints) and where its stores lie may differ between sessions; what decides the numbers (model, data order, schedule, optimizer,
precision, seeds) may not. The data order is compared once more as integers, with the checksums of the stores, because the same config
gives another order over another store; a schedule in a file is compared by its rates, because a file may be written over.
"""

import contextlib
import dataclasses
import fcntl
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kaiyuan_jax import config, storage
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.schedules import file
from kaiyuan_jax.training import lease, saved

# Fields, as regular expressions on their dotted path, that another session may set otherwise.
FREE = (
    r"name|output|branch",  # a run is the same whether it computed its first steps or took them from another
    r"(logging|evaluation|checkpoint|mesh|kernels|health)\..*",
    r"averaging\.(?!online_decay).*",  # the offline average reads the checkpoints and changes nothing
    r"data\.(prefetch|verify_tokens)",
    r"data\.sources\[\d+\]\.(path|heldout|planned_tokens)",  # stores are compared by checksum
    r"model\.remat(_names.*)?",
    r"optimizer\.accumulation",
    r"schedule\.(path|law)",  # the schedule is compared by its rates; the law forecasts and changes nothing
)
_MOST = 12  # differences shown


@contextlib.contextmanager
def session(experiment: Experiment, writes: bool = True) -> Iterator[Path]:
    """The run folder, made if need be, held for this process, with the experiment in its config.json and copies of the files it names.

    Where several processes train together one of them `writes`. A run that has checkpoints goes on naming the run it branched off, if
    any, whatever `config.branch` says now. Raises ConfigError when another session has the folder, and, one line a field, when it holds a
    run that differs in what decides its numbers.
    """
    folder = storage.path(experiment.folder)
    _check_config(folder, experiment)
    _check_files(folder, experiment)
    storage.make_folder(folder)
    if not writes:
        yield folder
        return
    with lease.held(folder) if storage.is_remote(folder) else locked(folder):
        for field, name in config.kept_files(experiment.schedule).items():
            source, copy = storage.path(getattr(experiment.schedule, field)), folder / name
            if not _same(source, copy):
                storage.replace(copy, storage.read(source))
        kept = dataclasses.replace(experiment, branch=origin(folder, experiment)) if saved.steps(folder / "checkpoints") else experiment
        storage.replace(folder / "config.json", config.to_json(kept))
        yield folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a local folder for this process; raises ConfigError when another session has it."""
    with open(folder / ".lock", "w") as lock:  # let go by the system however the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            headline = f"{folder}: another process is training in this folder"
            raise ConfigError(f"{headline}; wait for it, or give another --config.output") from None
        yield


def _same(source, copy) -> bool:
    """Whether both are one file, as where a run is begun from its own config.json."""
    if storage.is_remote(source) or storage.is_remote(copy):
        return source == copy
    return copy.exists() and copy.samefile(source)


def origin(folder: Path, experiment: Experiment) -> str:
    """The checkpoint that the run in a folder branched off, as its config.json says; where there is none, what the experiment says."""
    path = folder / "config.json"
    return config.read(path).branch if path.exists() else experiment.branch


def _check_config(folder: Path, experiment: Experiment) -> None:
    path = folder / "config.json"
    if path.exists() and (lines := changes(config.read(path), experiment, FREE)):
        headline = f"{folder} holds another experiment; give this one its own --config.output, or remove that folder"
        raise ConfigError("\n".join([headline, *lines]))


def _check_files(folder: Path, experiment: Experiment) -> None:
    schedule = experiment.schedule
    if schedule.law and not storage.path(schedule.law).is_file():
        raise ConfigError(f"config.schedule.law: no file {schedule.law!r}; give a law.json (launch/fit_law.py), or leave it empty")
    if schedule.kind != "file" or not (folder / "config.json").exists():
        return
    was, now = (file.read(path).all_rates() for path in (config.read(folder / "config.json").schedule.path, schedule.path))
    if was.size != now.size or (was != now).any():
        step = int(np.argmax(was != now)) if was.size == now.size else min(was.size, now.size)
        before, after = (f"{rates[step]:.6g}" if step < rates.size else "(no such step)" for rates in (was, now))
        raise ConfigError(
            f"config.schedule.path: {schedule.path} is not the schedule that the run in {folder} began with: at step {step:,} the rate was "
            f"{before}, now {after}; give back that file (the run kept a copy), or give a new --config.output"
        )


def changes(before: Experiment, after: Experiment, free: tuple[str, ...]) -> list[str]:
    """What differs between two experiments outside the fields that are `free`, one line each, at most a dozen.

    A schedule in a file reads no other field, so that the others are free between two of them.
    """
    if before.schedule.kind == after.schedule.kind == "file":
        free = (*free, r"schedule\..*")
    trees = dataclasses.asdict(before), dataclasses.asdict(after)
    changed = [f"config.{line}" for path, line in differences(*trees) if not re.fullmatch("|".join(free), path)]
    return changed[:_MOST] + [f"... and {len(changed) - _MOST} more"] * (len(changed) > _MOST)


def order_of(plan, stores) -> dict:
    """What the order of the data depends on, JSON-able: the plan's integers, and the tokens each source holds."""
    held = [{"tokens": store.tokens, "checksum": store.manifest.tokens_sha256} for store in stores]
    integers = dataclasses.asdict(plan)
    for use in [use for phase in integers["phases"] for use in phase["uses"] if not use["taken"]]:
        del use["taken"]  # as it was before there were temperatures
    return json.loads(json.dumps({"plan": integers, "stores": dict(zip(plan.sources, held, strict=True))}))


def check_order(folder: Path, before: dict, after: dict, remedy: str = "restore it, or give a new --config.output") -> None:
    """Raises ConfigError naming what changed when a checkpoint was trained on another order of data."""
    changed = [line for _, line in differences(before, after)]
    if changed:
        headline = f"{folder}: this is not the data that the run began with; {remedy}"
        raise ConfigError("\n".join([headline, *changed[:_MOST]]))


def differences(before, after, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, "path: was x, now y") for every leaf that differs between two trees of dicts, lists and values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            where = f"{path}.{key}" if path else str(key)
            yield from differences(before.get(key, "(absent)"), after.get(key, "(absent)"), where)
    elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)) and len(before) == len(after):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif before != after:
        yield path, f"{path}: was {_short(before)}, now {_short(after)}"


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
