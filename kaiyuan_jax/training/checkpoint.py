"""One checkpoint as a folder: how it is written, read and verified.

A checkpoint is the folder `checkpoints/<step>` with these Orbax items, so that each reader opens only what it needs:

    parameters   the weights after `step` updates
    average      the running average of the weights, only where the run keeps one
    rest         step, optimizer state, random key
    loss_scale   the dynamic loss scale and its counters, only where the run computes in float16
    progress     JSON: the facts of the run (step, next row of the data, the plan, sums since the last metrics line), the fingerprint of
                 every array above, and the SHA-256 of the two

Orbax writes under a temporary name and renames when every item is on disk; a checkpoint is complete when it has its plain number as a name
and Orbax's marker inside. What is read back is compared with its fingerprints (training/fingerprint.py), so that a file that was truncated
or changed since raises `DamagedError`, which names the array. A checkpoint of before there were fingerprints is taken as it is.

An average made offline (`averages/<name>`) is the same folder with `parameters` and `progress` alone: `load_parameters` reads both.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable

# Orbax logs warnings about shardings and asyncio that say nothing to the user of a run, and, before it raises them, errors with tracebacks.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402

from kaiyuan_jax import json_text, storage  # noqa: E402
from kaiyuan_jax.config import UserError  # noqa: E402
from kaiyuan_jax.training import fingerprint, orbax_s3  # noqa: E402
from kaiyuan_jax.training.fingerprint import path_of  # noqa: E402
from kaiyuan_jax.training.saved import COMPLETE, steps  # noqa: E402, F401
from kaiyuan_jax.training.state import TrainState  # noqa: E402

_DELETING = ".deleting"
_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.ESTALE)
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ESTALE", "EMFILE", "ENFILE")  # as TensorStore says them
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being written


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete or of another model; the message says which and what to do."""


class UnreadableError(CheckpointError, ConnectionError):
    """A checkpoint that cannot be read now, for the network's sake or the memory's, although it may be good."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are not what was written."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `progress` holds."""

    progress: dict  # as it was saved
    fingerprints: dict[str, dict[str, str]] | None  # item -> leaf path -> fingerprint.of; None in a checkpoint of before there were any


def facts(folder) -> Facts:
    """The facts of one complete checkpoint or average; raises DamagedError when they are not what was saved, else as `read_items`."""
    folder = complete(folder)
    with _reading(folder, "progress"):
        content = json_text.read(folder / "progress" / "metadata")
    return unsealed(content, f"{folder}: progress")


def unsealed(content, what) -> Facts:
    """The inverse of `sealed`; raises DamagedError beginning with `what` when the content is not what was sealed."""
    keys = {"progress", "fingerprints", "sha256"}
    if not isinstance(content, dict) or (keys & content.keys() and content.keys() != keys):
        raise DamagedError(f"{what} is not what was saved")
    if not content.keys() & keys:
        return Facts(content, None)
    if content["sha256"] != _sha256(content["progress"], content["fingerprints"]):
        raise DamagedError(f"{what} has another SHA-256 than when it was saved")
    return Facts(content["progress"], content["fingerprints"])


def progress(folder) -> dict:
    """The JSON facts of one checkpoint or average as they were saved."""
    return facts(folder).progress


def sealed(progress: dict, fingerprints: dict[str, dict[str, str]]) -> dict:
    """JSON-able: facts and fingerprints with their SHA-256, as `facts` reads them."""
    progress = json.loads(json.dumps(progress))  # keys and numbers as they will be read
    return {"progress": progress, "fingerprints": fingerprints, "sha256": _sha256(progress, fingerprints)}


def _sha256(progress, fingerprints) -> str:
    return hashlib.sha256(json.dumps([progress, fingerprints], sort_keys=True).encode()).hexdigest()


def items_of(state: TrainState) -> dict:
    """Item name -> tree of its arrays (or ShapeDtypeStructs); `state_of` is the inverse."""
    items = {"parameters": state.params, "rest": {"step": state.step, "opt_state": state.opt_state, "key": state.key}}
    if jax.tree.leaves(state.average):
        items["average"] = state.average
    if state.loss_scale:
        items["loss_scale"] = state.loss_scale
    return items


def state_of(items: dict) -> TrainState:
    return TrainState(**items["rest"], params=items["parameters"], average=items.get("average", {}), loss_scale=items.get("loss_scale", ()))


def check_model(folder, there: Facts, abstract: TrainState) -> None:
    """Raises CheckpointError when a good checkpoint holds other arrays than `abstract`, naming the first; either may have no average."""
    if there.fingerprints is None:
        return
    wanted = {item: {path: fingerprint.kind(leaf) for path, leaf in leaves_of(tree).items()} for item, tree in items_of(abstract).items()}
    found = {item: {path: value.rpartition(" ")[0] for path, value in leaves.items()} for item, leaves in there.fingerprints.items()}
    for item in sorted(wanted.keys() | found.keys()):
        if item == "average" and (item not in wanted or item not in found):
            continue
        ours, theirs = wanted.get(item, {}), found.get(item, {})
        for path in sorted(ours.keys() | theirs.keys()):
            if ours.get(path) != theirs.get(path):
                was, now = theirs.get(path, "(absent)"), ours.get(path, "(none)")
                raise CheckpointError(
                    f"{folder}: {item} {path} is {was}, this experiment has {now}; resume with the config.json of that run, or give a new "
                    "--config.output"
                )


def read_items(folder, there: Facts, abstract: TrainState) -> dict:
    """The items of a checkpoint with the shardings of `abstract`, of any mesh; no average where it holds none. Not verified.

    Every process reads what its own devices hold and waits for no other, so that one whose part is damaged can say so: DamagedError, or
    UnreadableError where the files may be good although they cannot be read now, CheckpointError where this process may not read them.
    """
    items = {}
    for item, tree in items_of(abstract).items():
        if item == "average" and there.fingerprints is not None and item not in there.fingerprints:
            continue
        with _reading(folder, item):
            items[item] = _read(folder / item, tree)
    return items


def verify(folder, there: Facts, items: dict) -> None:
    """Raises DamagedError naming the first array whose fingerprint is not the saved one, perhaps in one of several processes alone."""
    if there.fingerprints is None:
        return
    for item, tree in items.items():
        now, saved = fingerprint.of(tree), there.fingerprints.get(item, {})
        for path in sorted(now.keys() | saved.keys()):
            if now.get(path) != saved.get(path):
                raise DamagedError(f"{folder}: {item} {path} is not what was saved (fingerprint {now.get(path)}, was {saved.get(path)})")


def complete(folder):
    """The absolute folder of one complete checkpoint or average; raises `CheckpointError` naming the ones there are."""
    folder = storage.absolute(folder)
    if not (folder / COMPLETE).exists():
        names = [name for name in storage.names(folder.parent) if (folder.parent / name / COMPLETE).exists()]
        there = sorted(names, key=lambda name: (len(name), name))
        raise CheckpointError(f"{folder}: no complete checkpoint here; {folder.parent} has {', '.join(there) or 'none'}")
    return folder


def load_parameters(folder, abstract: dict, item: str = "parameters") -> dict:
    """The weights of one checkpoint or average as jax arrays, verified.

    `abstract` is the tree of ShapeDtypeStructs of `models.decoder.abstract`, with shardings where the model is larger than a device;
    arrays are cast to its dtypes. Raises `CheckpointError` when the checkpoint is of another shape of model, `DamagedError` when it is not
    what was saved.
    """
    folder = complete(folder)
    there, metadata = facts(folder), leaves_of(_metadata(folder, item))
    found = {path: leaf.shape for path, leaf in metadata.items()}
    wanted = {path: leaf.shape for path, leaf in leaves_of(abstract).items()}
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise CheckpointError(
                f"{folder}: {item} {path} has shape {found.get(path, '(absent)')}, the model of this config has "
                f"{wanted.get(path, '(none)')}; use the config.json of that run"
            )
    as_saved = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: jax.ShapeDtypeStruct(leaf.shape, metadata[path_of(keys)].dtype, sharding=leaf.sharding), abstract
    )
    with _reading(folder, item):
        tree = _read(folder / item, as_saved)
    verify(folder, there, {item: tree})
    return jax.tree.map(lambda leaf, wanted: leaf if leaf.dtype == wanted.dtype else leaf.astype(wanted.dtype), tree, abstract)


def leaf_reader(folder, item: str = "parameters") -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Leaf paths such as `layers/query_NDHC` of one checkpoint, largest first, and a function that reads and verifies one alone into host
    memory; both raise `DamagedError` for a checkpoint that is not what was saved."""
    folder = complete(folder)
    there, metadata = facts(folder), _metadata(folder, item)
    leaves = leaves_of(metadata)
    paths = sorted(leaves, key=lambda path: -math.prod(leaves[path].shape))  # while the sum of the others is still small
    reader = _reader(folder)

    def read(path: str) -> np.ndarray:
        one = jax.tree_util.tree_map_with_path(lambda keys, leaf: 0 if path_of(keys) == path else ocp.PLACEHOLDER, metadata)
        only = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), one)
        with _reading(folder, item):
            array = leaves_of(reader.restore(folder / item, args=ocp.args.PyTreeRestore(one, restore_args=only)))[path]
        if there.fingerprints is not None:
            one_of = dataclasses.replace(there, fingerprints={item: {path: there.fingerprints.get(item, {}).get(path)}})
            verify(folder, one_of, {item: {path: array}})
        return array

    return paths, read


def save_parameters(folder, leaves: dict[str, np.ndarray], facts: dict) -> None:
    """Writes an average: leaves by path, and its facts as `progress`; complete or absent. Replaces an older one of that name.

    Takes the leaves out of the dict given, and memory of one more model while it writes.
    """
    folder = storage.absolute(folder)
    storage.make_folder(folder.parent)
    remove_leftovers(folder.parent, f"{folder.name}.")
    if folder.exists():
        delete(folder)
    tree, cpu = {}, jax.devices("cpu")[0]
    for path in list(leaves):
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        # Orbax copies numpy arrays before it writes them; a jax array on the CPU shares the memory of the numpy array and is not copied.
        node[name] = jax.device_put(leaves.pop(path), cpu, may_alias=True)
    content = sealed(facts, {"parameters": fingerprint.of(tree)})
    args = ocp.args.Composite(parameters=ocp.args.PyTreeSave(tree), progress=ocp.args.JsonSave(content))
    with ocp.Checkpointer(orbax_s3.handler(folder), atomicity_options=orbax_s3.atomicity(folder)) as writer:
        writer.save(folder, args=args)


def delete(folder) -> None:
    """Deletes a checkpoint so that a kill meanwhile leaves none of that name."""
    if storage.is_remote(folder):
        storage.delete(folder, first=COMPLETE)
        return
    doomed = folder.with_name(folder.name + _DELETING)
    if doomed.exists():
        storage.delete(doomed)
    storage.move(folder, doomed, COMPLETE)
    storage.delete(doomed)


def remove_leftovers(folder, prefix: str = "") -> None:
    """Deletes what a killed process left half written or half deleted; with a prefix only what begins so, since others may be writing."""
    for name in storage.names(folder):
        if not name.startswith(prefix):
            continue
        unfinished = name.isdigit() and not (folder / name / COMPLETE).exists()
        if unfinished or name.endswith(_DELETING) or UNFINISHED in name:
            storage.delete(folder / name)


def _reader(folder) -> ocp.Checkpointer:
    """Reads what this process asks for, without waiting for the others as Orbax does by default."""
    alone = ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone, atomicity_options=orbax_s3.atomicity(folder))


def _read(folder, abstract):
    with contextlib.closing(_reader(folder)) as reader:
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(abstract, restore_args=arguments))


def _metadata(folder, item: str):
    if not (folder / item).is_dir():
        there = [name for name in storage.names(folder) if (folder / name).is_dir()]
        raise CheckpointError(f"{folder}: holds no {item!r}; it has {', '.join(there)}")
    with _reading(folder, item), contextlib.closing(_reader(folder)) as reader:
        tree = reader.metadata(folder / item).item_metadata.tree
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        return tree


@contextlib.contextmanager
def _reading(folder, item: str):
    """Whatever Orbax, TensorStore or the file system raise inside is said as damage of this item, unless it says nothing of the files."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = f"{folder}: {item} cannot be read ({short(error)})"
        if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
            raise CheckpointError(f"{said}; give this user the right to read it, or remove the checkpoint") from error
        failed = storage.is_remote(folder) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError)  # by the store
        if failed or storage.may_pass(error) or any(code in str(error) for code in _PASSING):
            raise UnreadableError(f"{said} now, although it may be good; try again, or remove the checkpoint") from error
        raise DamagedError(said) from error


def short(error: Exception) -> str:
    """An error of Orbax, TensorStore or the file system as one short line: what the operating system said, where it is quoted."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if quoted := re.search("|".join(map(os.strerror, _SYSTEM)), text):
        return quoted.group()
    return text if len(text) <= 300 else text[:297] + "..."


def leaves_of(tree) -> dict:
    """Leaf path such as `layers/query_NDHC` -> leaf."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
