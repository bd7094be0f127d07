"""Copies of the state between checkpoints, on every host's own disk or memory: a killed process loses less, and starts faster.

Each process writes the shards of its own devices as they lie in memory, and waits for no other:

    <config.checkpoint.local>/<run>/process_<i>/<step>/shards      the bytes of every shard, one after the other
                                                       facts.json  progress, where each shard lies, fingerprints of the whole arrays; sealed

`save` returns when the shards are copied into host memory; a thread writes them under a temporary name and renames. The newest two are
kept, one while another is being written. A start uses a copy only when every process finds the shards that its devices need, as after a
restart on the same hosts and mesh, and when the arrays have their fingerprints. <run> is a random name kept in the run folder, so that a
folder which is deleted and begun again finds no copies of before. Nothing is forced to the disk: after a crash of the host itself a copy
may be damaged, is then found to be so, and a checkpoint is used.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from kaiyuan_jax import json_text
from kaiyuan_jax.training import checkpoint, fingerprint
from kaiyuan_jax.training.checkpoint import DamagedError
from kaiyuan_jax.training.state import TrainState


class LocalCopies:
    """This process's copies of one run. A copy that cannot be written is no reason to stop: `problem` says why, for the caller to say."""

    def __init__(self, folder: str | Path, run: str, process: int):
        self.folder = Path(folder).absolute() / run / f"process_{process}"
        self.problem = ""
        self._thread: threading.Thread | None = None
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if not path.name.isdigit():  # half written
                    shutil.rmtree(path)

    def steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def save(self, step: int, state: TrainState, progress: dict, fingerprints: dict) -> None:
        """Starts writing a copy, after any earlier one is written."""
        self.wait()
        leaves = list(_leaves(checkpoint.items_of(state)))
        for _, _, leaf in leaves:
            leaf.copy_to_host_async()
        shards, places, offset = [], {}, 0
        for item, path, leaf in leaves:
            for shard in leaf.addressable_shards:
                name = _name(item, path, shard.index, leaf.shape)
                if name not in places:  # devices may hold the same
                    shards.append(np.array(shard.data))  # copied: on a CPU the next update overwrites the original
                    places[name] = [offset, shards[-1].nbytes]
                    offset += shards[-1].nbytes
        content = json.dumps(checkpoint.sealed({"progress": progress, "places": places}, fingerprints))
        self._thread = threading.Thread(target=self._write, args=(step, shards, content), name="local_copy")
        self._thread.start()

    def usable(self, abstract: TrainState) -> list[int]:
        """Steps of the copies that are of these arrays and hold every shard of them that this process needs, ascending."""
        return [step for step in self.steps() if self._usable(step, abstract)]

    def read(self, step: int, abstract: TrainState) -> tuple[checkpoint.Facts, dict]:
        """As `checkpoint.facts` and `checkpoint.read_items`."""
        there, places = self._facts(step)
        file = self.folder / str(step) / "shards"
        try:
            with open(file, "rb") as source:
                items = {
                    item: jax.tree_util.tree_map_with_path(lambda keys, leaf: _array(source, places, item, keys, leaf), tree)  # noqa: B023
                    for item, tree in checkpoint.items_of(abstract).items()
                    if item in there.fingerprints
                }
        except (OSError, ValueError, KeyError) as error:
            raise DamagedError(f"{file}: cannot be read ({checkpoint.short(error)})") from None
        return there, items

    def discard(self, first: int, last: int | None = None) -> None:
        """Deletes the copies of steps `first` to `last`, or all since `first`."""
        self.wait()
        for step in self.steps():
            if step >= first and (last is None or step <= last):
                shutil.rmtree(self.folder / str(step))
        for folder in (self.folder, self.folder.parent):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, shards: list[np.ndarray], content: str) -> None:
        making = self.folder / f"{step}.writing"
        try:
            making.mkdir(parents=True)
            for old in self.steps()[:-1]:
                shutil.rmtree(self.folder / str(old))
            with open(making / "shards", "wb") as file:
                for shard in shards:
                    file.write(shard.reshape(-1).view(np.uint8).data)
            (making / "facts.json").write_text(content, encoding="utf-8")
            shutil.rmtree(self.folder / str(step), ignore_errors=True)
            os.rename(making, self.folder / str(step))
            self.problem = ""
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            self.problem = f"{self.folder / str(step)}: the copy could not be written ({checkpoint.short(error)})"

    def _facts(self, step: int) -> tuple[checkpoint.Facts, dict]:
        file = self.folder / str(step) / "facts.json"
        try:
            content = json_text.read(file)
        except (OSError, json_text.JSONError) as error:
            raise DamagedError(f"{file}: cannot be read ({checkpoint.short(error)})") from None
        there = checkpoint.unsealed(content, file)
        if there.fingerprints is None:
            raise DamagedError(f"{file}: is not what was saved")
        return checkpoint.Facts(there.progress["progress"], there.fingerprints), there.progress["places"]

    def _usable(self, step: int, abstract: TrainState) -> bool:
        try:
            there, places = self._facts(step)
            checkpoint.check_model(self.folder, there, abstract)
        except checkpoint.CheckpointError:
            return False
        return all(
            _name(item, path, index, leaf.shape) in places
            for item, path, leaf in _leaves(checkpoint.items_of(abstract))
            if item in there.fingerprints
            for index in leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        )


def _leaves(items: dict) -> Iterator[tuple[str, str, jax.Array]]:
    return ((item, path, leaf) for item, tree in items.items() for path, leaf in checkpoint.leaves_of(tree).items())


def _name(item: str, path: str, index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """Such as `parameters layers/query 0:4,0:32`."""
    bounds = (one.indices(size) for one, size in zip(index, shape, strict=True))
    return f"{item} {path} {','.join(f'{begin}:{end}' for begin, end, _ in bounds)}"


def _array(source, places: dict, item: str, keys, leaf) -> jax.Array:
    """A global array from this process's shards in an open file."""
    on_devices = []
    for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
        offset, size = places[_name(item, fingerprint.path_of(keys), index, leaf.shape)]
        source.seek(offset)
        shape = leaf.sharding.shard_shape(leaf.shape)
        array = np.frombuffer(source.read(size), leaf.dtype).reshape(shape)
        on_devices.append(jax.device_put(array, device, may_alias=False))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, on_devices)
