"""Cells trained as populations and measured, each kept on its own: what is there is not done again.

    output/populations/<id>/             cells that train in one program, an ordinary population
    output/cells/<cell>/cell.json        which population has it, and what it was trained with
    output/cells/<cell>/<task>.npz       <part>/<metric>/<side>: of "half" and "whole" of the budget the sums "over" and "under" the line,
                                         of every document or item

A study that is started again with more seeds, quantiles, stores or tasks trains and measures what is new. A cell of the same name that was
trained with something else is never mixed with others: that is an error.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import config, json_text, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments import population
from kaiyuan_jax.experiments.population import trained
from kaiyuan_jax.experiments.quantiles import measured as measures
from kaiyuan_jax.experiments.quantiles.cells import Cell
from kaiyuan_jax.experiments.quantiles.measured import Table, Tasks

FREE = ("name", "output", "logging", "checkpoint", "health", "evaluation")  # fields of a config that decide nothing of the weights
PARTS, SIDES = ("half", "whole"), ("over", "under")


@dataclasses.dataclass(frozen=True)
class Group:
    """Cells that train together; an old population may hold others that are no longer asked for."""

    folder: Path
    experiments: tuple[config.Experiment, ...]
    cells: tuple[Cell, ...]


def run(cells: Sequence[Cell], measured: Tasks, folder: Path, members: int, devices=None) -> None:
    """Trains and measures what is missing, `members` cells at a time. Raises UserError where a cell was trained with something else."""
    waiting = groups(cells, measured, folder, members)
    for number, group in enumerate(waiting, 1):
        print(f"population {number} of {len(waiting)}: {len(group.experiments)} cells in {group.folder}", flush=True)
        found = population.train(group.experiments, group.folder, devices=devices)
        _measure(found, group, measured, folder, devices)


def groups(cells: Sequence[Cell], measured: Tasks, folder: Path, members: int) -> list[Group]:
    """The populations with something left to do: first those already begun, then new ones. Raises UserError as `run`."""
    _check(cells, folder)
    known = {cell.name: cell for cell in cells}
    left = {cell.name: cell for cell in cells if missing(folder, cell, measured)}
    found = []
    for place in sorted(path.parent for path in (folder / "populations").glob(f"*/{trained.MEMBERS}")):
        there = trained.open_population(place)
        same = {one.name for one in there.members if one.name in known and _decides(one) == _decides(known[one.name].experiment)}
        mine = tuple(left.pop(name) for name in there.names if name in same and name in left)
        if mine and (len(same) == len(there.names) or trained_already(folder, mine[0])):
            found.append(Group(place, there.members, mine))
        else:
            left |= {cell.name: cell for cell in mine}
    rest = [cell for cell in cells if cell.name in left]
    for part in (tuple(rest[begin : begin + members]) for begin in range(0, len(rest), members)):
        name = hashlib.blake2b(" ".join(cell.name for cell in part).encode(), digest_size=4).hexdigest()
        found.append(Group(folder / "populations" / name, tuple(cell.experiment for cell in part), part))
    return found


def missing(folder: Path, cell: Cell, measured: Tasks) -> list[str]:
    """Tasks that a cell is not yet measured on."""
    return [name for name in measured.names if _kept(folder, cell, name) != measured.fingerprint(name)]


def trained_already(folder: Path, cell: Cell) -> bool:
    return _facts(folder, cell).is_file()


def table(folder: Path, cell: Cell, task: str, part: str) -> Table:
    """What a cell did on a task at "half" or "whole" of its budget."""
    with np.load(_path(folder, cell, task), allow_pickle=False) as arrays:
        names = dict.fromkeys(key.split("/")[1] for key in arrays.files if key.startswith(f"{part}/"))
        return {name: (arrays[f"{part}/{name}/over"], arrays[f"{part}/{name}/under"]) for name in names}


def diverged(folder: Path, cells: Sequence[Cell]) -> list[str]:
    """Names of cells that diverged, with the step."""
    steps = {cell.name: json_text.read(_facts(folder, cell))["diverged"] for cell in cells}
    return [f"{name} (step {step})" for name, step in steps.items() if step]


def _facts(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / cell.name / "cell.json"


def _path(folder: Path, cell: Cell, task: str) -> Path:
    return folder / "cells" / cell.name / f"{task}.npz"


def _kept(folder: Path, cell: Cell, task: str) -> str:
    """The fingerprint of what is kept of a task; empty for nothing."""
    path = _path(folder, cell, task)
    if not (trained_already(folder, cell) and path.is_file() and zipfile.is_zipfile(path)):
        return ""
    with np.load(path, allow_pickle=False) as arrays:
        return str(arrays["fingerprint"])


def _measure(found: population.Population, group: Group, measured: Tasks, folder: Path, devices) -> None:
    names = [name for name in measured.names if any(name in missing(folder, cell, measured) for cell in group.cells)]
    wanted, index = measures.only(measured, names), {name: i for i, name in enumerate(found.names)}
    arrays: dict[str, list[dict[str, np.ndarray]]] = {name: [{} for _ in found.members] for name in names}
    for part, step in zip(PARTS, (*group.experiments[0].checkpoint.keep_steps, found.steps[-1]), strict=True):
        for name, of_members in measures.tables(found, step, wanted, devices):
            for mine, values in zip(arrays[name], of_members, strict=True):
                for metric, sums in values.items():
                    mine |= {f"{part}/{metric}/{side}": x for side, x in zip(SIDES, sums, strict=True)}
    for cell in group.cells:
        storage.make_folder(folder / "cells" / cell.name)
        for name in names:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, fingerprint=measured.fingerprint(name), **arrays[name][index[cell.name]])
            storage.replace(_path(folder, cell, name), buffer.getvalue())
        facts = {"population": group.folder.name, "diverged": found.diverged.get(cell.name, 0), "passes": cell.passes}
        facts |= {"text": cell.text.digest, "config": dataclasses.asdict(cell.experiment)}
        storage.replace(_facts(folder, cell), json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _check(cells: Sequence[Cell], folder: Path) -> None:
    """Raises UserError where a cell that is there was trained with other text or another config."""
    for cell in cells:
        if not trained_already(folder, cell):
            continue
        path = _facts(folder, cell)
        try:
            kept = json_text.read(path)
            before = _decides(config.from_json(json.dumps(kept["config"]))) | {"text": kept["text"]}
        except (json_text.JSONError, LookupError, TypeError, config.ConfigError):
            raise UserError(f"{path}: cannot be read; remove its folder, and the cell is trained and measured again") from None
        now = _decides(cell.experiment) | {"text": cell.text.digest}
        if odd := next((field for field in now if before.get(field) != now[field]), ""):
            raise UserError(
                f"--output={folder}: cell {cell.name} was trained with {odd} {before.get(odd)!r:.40}, now {now[odd]!r:.40}; give the flags "
                "of before, or another folder"
            )


def _decides(experiment: config.Experiment) -> dict[str, object]:
    """Dotted field -> value of all that decides a cell's weights, as JSON gives it back."""
    tree = json.loads(config.to_json(experiment))
    return dict(_leaves({key: value for key, value in tree.items() if key not in FREE}))


def _leaves(tree, path: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(tree, (dict, list)):
        yield path, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
