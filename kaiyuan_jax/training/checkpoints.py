"""The checkpoints of a run: written in the background, verified when a start reads them, the newest kept.

What a start finds damaged it names, moves aside (`checkpoints/<step>.damaged`, with the reason in damaged.txt) and goes on from the
checkpoint before. Of many processes each reads its own shards and then tells the others how it went, so that all take the same one.

Kept are the newest `keep`, at least two because the newest has not been read back yet, and the steps that the config names
(`checkpoint.keep_steps`, for runs that branch off there). An older one is deleted only when the newer ones are complete. What was moved
aside goes when no checkpoint of before it is left.
"""

import os
import shutil
import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from kaiyuan_jax import config
from kaiyuan_jax.sharding import processes
from kaiyuan_jax.training import checkpoint, fingerprint
from kaiyuan_jax.training.checkpoint import CheckpointError, DamagedError
from kaiyuan_jax.training.saved import steps
from kaiyuan_jax.training.state import TrainState

DAMAGED = ".damaged"


class Checkpoints:
    """The checkpoints of one run. `save` returns once the state is copied off the devices; one write is in flight at a time."""

    def __init__(self, folder: str | Path, settings: config.Checkpoint, keep: int = 0):
        """`keep`, where given, is how many are kept at least, whatever the settings say: as many as averaging reads."""
        self.folder = Path(folder).absolute()
        self.keep = max(settings.keep, keep, 2)
        self.keep_steps = frozenset(settings.keep_steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        if processes.index() == 0:
            checkpoint.remove_leftovers(self.folder)
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return steps(self.folder)

    def save(self, step: int, state: TrainState, progress: dict) -> None:
        """Starts writing checkpoint `step`, after any earlier write is complete; `progress` is JSON-able."""
        items = checkpoint.items_of(state)
        content = checkpoint.sealed(progress, {item: fingerprint.of(tree) for item, tree in items.items()})
        self.wait()  # also raises what went wrong in the earlier write
        trees = {item: ocp.args.PyTreeSave(tree) for item, tree in items.items()}
        self._writer.save(self.folder / str(step), args=ocp.args.Composite(**trees, progress=ocp.args.JsonSave(content)))

    def newest(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
        """The newest checkpoint that is what was saved, as (state, progress), or None; the same step on every process.

        `abstract` holds ShapeDtypeStructs with the shardings wanted now, of any mesh. Damaged ones are named on stderr and moved aside.
        Raises `CheckpointError` for one of another model, and where files cannot be read now although they may be good.
        """
        while step := processes.agree((self.steps() or [0])[-1]):
            try:
                return self.restore(step, abstract)
            except DamagedError as error:
                self._set_aside(step, str(error))
        return None

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        """(state, progress) of one checkpoint, verified; every process raises the same when one of them cannot read its part."""
        folder = self.folder / str(step)
        there = _together(lambda: _facts(folder, abstract))
        items = _together(lambda: checkpoint.read_items(folder, abstract))
        checkpoint.verify(folder, there, items)
        if there.fingerprints is None:
            _say(f"{folder}: was saved without fingerprints and cannot be verified; taken as it is")
        return checkpoint.state_of(items), there.progress

    def wait(self) -> None:
        """Blocks until the write in flight is complete, then deletes what is no longer kept."""
        self._writer.wait_until_finished()
        if processes.index() == 0:
            self._delete_old()

    def close(self) -> None:
        self.wait()
        self._writer.close()

    def _delete_old(self) -> None:
        there = self.steps()
        kept = {*there[-self.keep :], *(self.keep_steps & set(there))}
        for step in there:
            if step not in kept:
                checkpoint.delete(self.folder / str(step))
        for path in self.folder.glob(f"*{DAMAGED}"):
            if path.stem.isdigit() and int(path.stem) < min(there[-self.keep :], default=0):
                shutil.rmtree(path)

    def _set_aside(self, step: int, reason: str) -> None:
        folder = self.folder / str(step)
        aside = folder.with_name(folder.name + DAMAGED)
        _say(f"{reason}; moved to {aside}, going on from the checkpoint before")
        if processes.index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
            (aside / "damaged.txt").write_text(f"{reason}\n", encoding="utf-8")
        processes.barrier()


def _facts(folder: Path, abstract: TrainState) -> checkpoint.Facts:
    there = checkpoint.facts(folder)
    checkpoint.check_model(folder, there, abstract)
    return there


def _together(work):
    """What `work` returns, on processes that all do it; where one raises, all raise the first error."""
    result, failed = None, ["", ""]
    try:
        result = work()
    except DamagedError as error:
        failed = ["damaged", str(error)]
    except config.UserError as error:
        failed = ["refused", str(error)]
    for kind, text in processes.gather_values(failed):
        if kind:
            del result  # frees what was read before the next one is
            raise (DamagedError if kind == "damaged" else CheckpointError)(text)
    return result


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)
