"""What may change between two sessions of one run, and what may not.

A run folder belongs to one experiment. Where it runs (mesh, recomputation, micro-batches), what it writes (logging, evaluation,
checkpoints) and where its stores lie may differ between sessions; what decides the numbers (model, data order, schedule, optimizer,
precision, seeds) may not. The data order is compared once more as integers, with the checksums of the stores, because the same config
gives another order over another store.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError, Experiment

# Fields, as regular expressions on their dotted path, that another session may set otherwise.
FREE = (
    r"name|output",
    r"(logging|evaluation|checkpoint|mesh)\..*",
    r"averaging\.(?!online_decay).*",  # the offline average reads the checkpoints and changes nothing
    r"data\.(prefetch|verify_tokens)",
    r"data\.sources\[\d+\]\.(path|heldout|planned_tokens)",  # stores are compared by checksum
    r"model\.remat(_names.*)?",
    r"optimizer\.accumulation",
)
_MOST = 12  # differences shown


@contextlib.contextmanager
def session(experiment: Experiment, writes: bool = True) -> Iterator[Path]:
    """The run folder, made if need be, held for this process, with the experiment in its config.json.

    Where several processes train together one of them `writes`. Raises ConfigError when another session has the folder, and, one line a
    field, when it holds a run that differs in what decides its numbers.
    """
    folder = Path(experiment.folder)
    _check_config(folder, experiment)
    folder.mkdir(parents=True, exist_ok=True)
    if not writes:
        yield folder
        return
    with open(folder / ".lock", "w") as lock:  # let go by the system however the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            headline = f"{folder}: another process is training in this folder"
            raise ConfigError(f"{headline}; wait for it, or give another --config.output") from None
        write_text(folder / "config.json", config.to_json(experiment))
        yield folder


def _check_config(folder: Path, experiment: Experiment) -> None:
    saved = folder / "config.json"
    if saved.exists():
        before = dataclasses.asdict(config.from_json(saved.read_text(encoding="utf-8")))
        after = dataclasses.asdict(experiment)
        changed = [line for path, line in differences(before, after) if not re.fullmatch("|".join(FREE), path)]
        if changed:
            lines = [f"config.{line}" for line in changed[:_MOST]] + [f"... and {len(changed) - _MOST} more"] * (len(changed) > _MOST)
            raise ConfigError(
                "\n".join([f"{folder} holds another experiment; give this one its own --config.output, or remove that folder", *lines])
            )


def order_of(plan, stores) -> dict:
    """What the order of the data depends on, JSON-able: the plan's integers, and the tokens each source holds."""
    held = [{"tokens": store.tokens, "checksum": store.manifest.tokens_sha256} for store in stores]
    return json.loads(json.dumps({"plan": dataclasses.asdict(plan), "stores": dict(zip(plan.sources, held, strict=True))}))


def check_order(folder: Path, before: dict, after: dict) -> None:
    """Raises ConfigError naming what changed when a checkpoint was trained on another order of data."""
    changed = [line for _, line in differences(before, after)]
    if changed:
        headline = f"{folder}: this is not the data that the run began with; restore it, or give a new --config.output"
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


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
