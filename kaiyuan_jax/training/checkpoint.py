"""Checkpoints of a run: written in the background, complete or absent, newest kept.

A checkpoint is the folder `checkpoints/<step>` with these Orbax items, so that each reader opens only what it needs:

    parameters   the weights after `step` updates
    average      the running average of the weights, only where the run keeps one
    rest         step, optimizer state, random key
    loss_scale   the dynamic loss scale and its counters, only where the run computes in float16
    progress     JSON: step, position (next row of the data), the plan it belongs to, sums since the last metrics line

Orbax writes under a temporary name and renames when every item is on disk; a checkpoint is complete when it has its plain number as a name
and Orbax's marker inside. Deletion renames first. So a process killed at any moment leaves only complete checkpoints under plain numbers.

An average made offline (`averages/<name>`) is the same folder with `parameters` and `progress` alone: `load_parameters` reads both.
"""

import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# Orbax logs warnings about shardings and asyncio that say nothing to the user of a run.
logging.getLogger("absl").addFilter(lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402

from kaiyuan_jax.config import UserError  # noqa: E402
from kaiyuan_jax.training.saved import COMPLETE, steps  # noqa: E402
from kaiyuan_jax.training.state import TrainState  # noqa: E402

_DELETING = ".deleting"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being written


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete or of another model; the message says which and what to do."""


class Checkpoints:
    """The checkpoints of one run. `save` returns once the state is copied off the devices; one write is in flight at a time."""

    def __init__(self, folder: str | Path, keep: int):
        self.folder = Path(folder).absolute()
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            _remove_leftovers(self.folder)
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return steps(self.folder)

    def save(self, step: int, state: TrainState, progress: dict) -> None:
        """Starts writing checkpoint `step`, after any earlier write is complete; `progress` is JSON-able."""
        self.wait()  # also raises what went wrong in the earlier write
        items = _items(state, lambda tree: ocp.args.PyTreeSave(tree))
        self._writer.save(self.folder / str(step), args=ocp.args.Composite(**items, progress=ocp.args.JsonSave(progress)))

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of a checkpoint; `abstract` holds ShapeDtypeStructs with the shardings wanted now, of any mesh."""
        folder = complete(self.folder / str(step))
        items = _read(folder, _items(abstract, _restore_args))
        return TrainState(
            **items["rest"], params=items["parameters"], average=items.get("average", {}), loss_scale=items.get("loss_scale", ())
        )

    def wait(self) -> None:
        """Blocks until the write in flight is complete, then deletes what is older than the newest `keep`."""
        self._writer.wait_until_finished()
        if jax.process_index() == 0:
            for step in self.steps()[: -self.keep]:
                _delete(self.folder / str(step))

    def close(self) -> None:
        self.wait()
        self._writer.close()


def complete(folder: str | Path) -> Path:
    """The absolute folder of one complete checkpoint or average; raises `CheckpointError` naming the ones there are."""
    folder = Path(folder).absolute()
    if not (folder / COMPLETE).exists():
        there = sorted((path.name for path in folder.parent.glob("*") if (path / COMPLETE).exists()), key=lambda name: (len(name), name))
        raise CheckpointError(f"{folder}: no complete checkpoint here; {folder.parent} has {', '.join(there) or 'none'}")
    return folder


def progress(folder: str | Path) -> dict:
    """The JSON facts of one checkpoint or average."""
    return _read(complete(folder), {"progress": ocp.args.JsonRestore()})["progress"]


def load_parameters(folder: str | Path, abstract: dict, item: str = "parameters") -> dict:
    """The weights of one checkpoint or average as jax arrays.

    `abstract` is the tree of ShapeDtypeStructs of `models.decoder.abstract`, with shardings where the model is larger than a device;
    arrays are cast to its dtypes. Raises `CheckpointError` when the checkpoint is of another shape of model.
    """
    folder = complete(folder)
    found = {path: leaf.shape for path, leaf in _leaves(_metadata(folder, item)).items()}
    wanted = {path: leaf.shape for path, leaf in _leaves(abstract).items()}
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise CheckpointError(
                f"{folder}: {item} {path} has shape {found.get(path, '(absent)')}, the model of this config has "
                f"{wanted.get(path, '(none)')}; use the config.json of that run"
            )
    return _read(folder, {item: _restore_args(abstract)})[item]


def leaf_reader(folder: str | Path, item: str = "parameters") -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Leaf paths such as `layers/query_NDHC` of one checkpoint, largest first, and a function that reads one alone into host memory."""
    folder = complete(folder)
    metadata = _metadata(folder, item)
    leaves = _leaves(metadata)
    paths = sorted(leaves, key=lambda path: -math.prod(leaves[path].shape))  # while the sum of the others is still small
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())

    def read(path: str) -> np.ndarray:
        one = jax.tree_util.tree_map_with_path(lambda keys, leaf: 0 if _path(keys) == path else ocp.PLACEHOLDER, metadata)
        only = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), one)
        return _leaves(reader.restore(folder / item, args=ocp.args.PyTreeRestore(one, restore_args=only)))[path]

    return paths, read


def save_parameters(folder: str | Path, leaves: dict[str, np.ndarray], facts: dict) -> None:
    """Writes an average: leaves by path, and its facts as `progress`; complete or absent. Replaces an older one of that name.

    Takes the leaves out of the dict given, and memory of one more model while it writes.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent, f"{folder.name}.")
    if folder.exists():
        _delete(folder)
    tree, cpu = {}, jax.devices("cpu")[0]
    for path in list(leaves):
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        # Orbax copies numpy arrays before it writes them; a jax array on the CPU shares the memory of the numpy array and is not copied.
        node[name] = jax.device_put(leaves.pop(path), cpu, may_alias=True)
    args = ocp.args.Composite(parameters=ocp.args.PyTreeSave(tree), progress=ocp.args.JsonSave(facts))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(folder, args=args)


def _items(state: TrainState, wrap) -> dict:
    items = {
        "parameters": wrap(state.params),
        "rest": wrap({"step": state.step, "opt_state": state.opt_state, "key": state.key}),
    }
    if jax.tree.leaves(state.average):
        items["average"] = wrap(state.average)
    if state.loss_scale:
        items["loss_scale"] = wrap(state.loss_scale)
    return items


def _restore_args(abstract):
    return ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))


def _read(folder: Path, items: dict) -> dict:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        return dict(reader.restore(folder, args=ocp.args.Composite(**items)).items())


def _metadata(folder: Path, item: str):
    if not (folder / item).is_dir():
        raise CheckpointError(f"{folder}: holds no {item!r}; it has {', '.join(sorted(p.name for p in folder.iterdir() if p.is_dir()))}")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(folder / item).item_metadata.tree


def _path(keys) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys)


def _leaves(tree) -> dict:
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _delete(folder: Path) -> None:
    doomed = folder.with_name(folder.name + _DELETING)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(folder: Path, prefix: str = "") -> None:
    """Deletes what a killed process left half written or half deleted; with a prefix only what begins so, since others may be writing."""
    for path in folder.iterdir():
        if not path.name.startswith(prefix):
            continue
        unfinished = path.name.isdigit() and not (path / COMPLETE).exists()
        if unfinished or path.name.endswith(_DELETING) or UNFINISHED in path.name:
            shutil.rmtree(path)
