"""The checkpoints of a run: written in the background, verified when a start reads them, the newest kept.

What a start finds damaged it names, moves aside (`checkpoints/<step>.damaged`, with the reason in damaged.txt) and goes on from the
checkpoint before. Of many processes each reads its own shards and then tells the others how it went, so that all take the same one.

A write that fails, on a full disk say, is said, its leftovers are removed, and the state of that moment is saved while training waits,
again and again with longer pauses; after `PATIENCE` seconds `SaveError` ends the session. `failed` tells the loop at the next step rather
than at the next save, so that a full disk costs no more steps than a write in flight does.

Kept are the newest `keep` of the steps at which the run saves anyway (multiples of `checkpoint.every`), the newest two of whatever step,
because the newest has not been read back yet, and `checkpoint.keep_steps`, for runs that branch off there. An older one is deleted only
when the newer ones are complete. What was moved aside goes when no checkpoint of before it is left.
"""

import contextlib
import secrets
import shutil
import sys
import time

import jax
import orbax.checkpoint as ocp

from kaiyuan_jax import config, storage
from kaiyuan_jax.sharding import processes
from kaiyuan_jax.training import checkpoint, fingerprint, orbax_s3
from kaiyuan_jax.training.checkpoint import CheckpointError, DamagedError, UnreadableError
from kaiyuan_jax.training.commit import Commit
from kaiyuan_jax.training.local_copies import LocalCopies
from kaiyuan_jax.training.saved import COMPLETE, steps
from kaiyuan_jax.training.state import TrainState

DAMAGED = ".damaged"
PATIENCE = 300.0  # seconds for which a save is tried again
COMPRESSED = 0.8  # of its bytes a state has at least on disk: float32 weights and moments compress to 0.9


class SaveError(RuntimeError):
    """A checkpoint could not be written for as long as its patience lasts."""


class Checkpoints:
    """The checkpoints of one run. `save` returns once the state is copied off the devices; one write is in flight at a time.

    With several processes all make the same calls in the same order, `failed` apart.
    """

    def __init__(self, folder, settings: config.Checkpoint, keep: int = 0, patience: float = PATIENCE):
        """`keep`, where given, is how many are kept at least, whatever the settings say: as many as averaging reads."""
        self.folder = storage.absolute(folder)
        self.settings, self.keep = settings, max(settings.keep, keep)
        self.patience = patience
        self._failure: Exception | None = None
        self._step = 0  # of the newest write
        storage.make_folder(self.folder)
        if processes.index() == 0:
            checkpoint.remove_leftovers(self.folder)
        self._local = LocalCopies(settings.local, self._run(), processes.index()) if settings.local else None
        self._commit = Commit(processes.agree(f"kaiyuan_jax{self.folder}"))  # hosts may know the folder by different names
        options = ocp.AsyncOptions(barrier_sync_fn=self._commit)
        how = orbax_s3.atomicity(self.folder)
        self._writer = ocp.AsyncCheckpointer(orbax_s3.handler(self.folder), async_options=options, atomicity_options=how)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return steps(self.folder)

    @property
    def failed(self) -> bool:
        """Whether the write in flight is known to have failed in this process; once all processes know, they `save_now`."""
        if self._failure is None:
            try:
                self._writer.check_for_errors()
            except Exception as error:  # Orbax, TensorStore and the file system each have their own
                self._failure = error
        return self._failure is not None

    def save(self, step: int, state: TrainState, progress: dict) -> None:
        """Starts writing checkpoint `step`, after any earlier write is complete; `progress` is JSON-able.

        Where the earlier write failed, or this one fails at once, it goes on as `save_now`.
        """
        if self._finish() or self._start(step, state, progress):
            self.save_now(step, state, progress)

    def save_now(self, step: int, state: TrainState, progress: dict) -> None:
        """As `save`, and returns when the checkpoint is complete; raises SaveError when it cannot be written."""
        self._finish()
        begin, pause = time.monotonic(), 1.0
        while why := self._start(step, state, progress) or self._finish():
            left = processes.agree(self.patience - (time.monotonic() - begin))
            if left <= 0:
                where = self.folder / str(step)
                raise SaveError(f"{where}: could not be written for {self.patience:g} s ({why}); make room, and start again")
            _say(f"{self.folder / str(step)}: training waits to write it again in {min(pause, left):.0f} s")
            time.sleep(min(pause, left))
            pause = min(2 * pause, 60.0)

    def newest(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
        """The newest checkpoint or local copy that is what was saved, as (state, progress), or None; the same step on every process.

        `abstract` holds ShapeDtypeStructs with the shardings wanted now, of any mesh; the state's average is {} where none was saved.
        Damaged ones are named on stderr and moved aside. Raises `CheckpointError` for one of another model, `UnreadableError` where files
        cannot be read now although they may be good.
        """
        while True:
            step = processes.agree((self.steps() or [0])[-1])
            held = processes.gather_values(self._local.usable(abstract) if self._local else [])
            copy = max(set.intersection(*map(set, held)), default=0)
            if not max(step, copy):
                return None
            try:
                return self._restore_copy(copy, abstract) if copy >= step else self.restore(step, abstract)
            except DamagedError as error:
                if copy >= step:
                    _say(f"{error}; removed, going on from what was saved before")
                    self._local.discard(copy, copy)
                    processes.barrier()
                else:
                    self._set_aside(step, str(error))

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        """(state, progress) of one checkpoint, verified; every process raises the same when one of them cannot read its part."""
        folder = self.folder / str(step)
        there = _together(lambda: _facts(folder, abstract))
        items = _together(lambda: checkpoint.read_items(folder, there, abstract))
        _together(lambda: checkpoint.verify(folder, there, items))
        if there.fingerprints is None:
            _say(f"{folder}: was saved without fingerprints and cannot be verified; taken as it is")
        return checkpoint.state_of(items), there.progress

    def save_local(self, step: int, state: TrainState, progress: dict) -> None:
        """Starts writing a copy to the host's own disk or memory (training/local_copies.py); one that fails is said, and no more."""
        prints = _fingerprints(state)
        if self._local.problem:  # of this host's own disk: said by whichever process has it
            print(f"warning: {self._local.problem}", file=sys.stderr, flush=True)
        self._local.save(step, state, progress, prints)

    def wait_local(self) -> None:
        """Blocks until the copy in flight of this process is written."""
        self._local.wait()

    def discard(self, step: int) -> None:
        """Deletes what was saved of a step, and local copies since; for what is found to belong to another course of the run."""
        self._finish()
        if self._local:
            self._local.discard(step)
        if processes.index() == 0 and step in self.steps():
            checkpoint.delete(self.folder / str(step))
        processes.barrier()

    def _restore_copy(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        there, items = _together(lambda: self._local.read(step, abstract))
        _together(lambda: checkpoint.verify(self._local.folder / str(step), there, items))
        _say(f"step {step} is restored from the copies in {self._local.folder}")
        return checkpoint.state_of(items), processes.agree(there.progress)  # clocks differ

    def wait(self) -> None:
        """Blocks until the write in flight is complete, and deletes what is no longer kept; raises SaveError when the write failed."""
        if why := self._finish():
            raise SaveError(f"{self.folder}: the newest checkpoint could not be written ({why}); start again to go on from the one before")

    def close(self) -> None:
        """Lets the write in flight end, without a word to the other processes: this one may be here alone, for an error of its own."""
        try:
            if self._local:  # needed no more where a checkpoint is newer
                self._local.wait()
            self._writer.close()
            if self._local:
                self._local.discard(0, (self.steps() or [0])[-1])
        except Exception as error:
            _say(f"{self.folder}: the newest checkpoint could not be written ({checkpoint.short(error)})")

    def _run(self) -> str:
        """A name of this run folder that no other has, the same on all processes."""
        file = self.folder / ".run"
        if processes.index() == 0 and not file.exists():
            storage.replace(file, secrets.token_hex(8))
        return processes.agree(file.read_text() if processes.index() == 0 else "")

    def _start(self, step: int, state: TrainState, progress: dict) -> str:
        """Starts a write; returns why it could not begin, the same on all processes, or ""."""
        content = checkpoint.sealed(progress, _fingerprints(state))
        if why := processes.agree(self._no_room(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))):
            return self._said(step, why)
        trees = {item: ocp.args.PyTreeSave(tree) for item, tree in checkpoint.items_of(state).items()}
        self._commit.begin()
        try:
            self._writer.save(self.folder / str(step), args=ocp.args.Composite(**trees, progress=ocp.args.JsonSave(content)))
        except Exception as error:  # the stores' clients each have their own
            self._failure = error
        self._step = step
        return self._finish() if processes.gather(self._failure is not None).any() else ""

    def _finish(self) -> str:
        """Waits for the write in flight; returns why it failed, the same on all processes, or, having deleted what is old, ""."""
        self._failure = self._drained(self._failure)
        if self._failure:
            self._commit.fail()  # only here, where all come: one that waits while another is at its next step would wait for long
        why = checkpoint.short(self._failure) if self._failure else ""
        self._failure = None
        if why := next(filter(None, processes.gather_values(why)), ""):
            return self._said(self._step, why)
        if processes.index() == 0:
            self._delete_old()
        return ""

    def _drained(self, first: Exception | None) -> Exception | None:
        """The first error of the write in flight, once it has ended; Orbax keeps several, and would raise the next in a later write."""
        for _ in range(8):
            try:
                self._writer.wait_until_finished()
                break
            except Exception as error:
                first = first or error
        return first

    def _said(self, step: int, why: str) -> str:
        if why:
            if processes.index() == 0:
                checkpoint.remove_leftovers(self.folder)
            _say(f"{self.folder / str(step)}: could not be written ({why}); what there was of it is removed")
        return why

    def _no_room(self, size: int) -> str:
        """Why a state of `size` bytes cannot be written, or ""; asked before several processes begin that would wait for one another."""
        if storage.is_remote(self.folder):
            return ""
        free = shutil.disk_usage(self.folder).free
        return "" if free > COMPRESSED * size else f"{free / 1e6:,.1f} MB free, the state has {size / 1e6:,.1f}"

    def _delete_old(self) -> None:
        there = self.steps()
        regular = [step for step in there if step % self.settings.every == 0]
        kept = {*there[-2:], *regular[-self.keep :], *self.settings.keep_steps}
        for step in there:
            if step not in kept:
                checkpoint.delete(self.folder / str(step))
        oldest = min(kept & set(there), default=0)
        for name in storage.names(self.folder):
            if name.endswith(DAMAGED) and name.removesuffix(DAMAGED).isdigit() and int(name.removesuffix(DAMAGED)) < oldest:
                storage.delete(self.folder / name)

    def _set_aside(self, step: int, reason: str) -> None:
        folder, aside = self.folder / str(step), self.folder / f"{step}{DAMAGED}"
        _say(f"{reason}; moved to {aside.name}, going on from the checkpoint before")
        if processes.index() == 0:
            if aside.exists():
                storage.delete(aside)
            storage.move(folder, aside, COMPLETE)
            with contextlib.suppress(OSError):  # a full disk must not stop the start
                storage.replace(aside / "damaged.txt", f"{reason}\n")
        processes.barrier()


_KINDS = {"damaged": DamagedError, "unreadable": UnreadableError, "refused": CheckpointError}


def _fingerprints(state: TrainState) -> dict:
    return {item: fingerprint.of(tree) for item, tree in checkpoint.items_of(state).items()}


def _facts(folder, abstract: TrainState) -> checkpoint.Facts:
    there = checkpoint.facts(folder)
    checkpoint.check_model(folder, there, abstract)
    return there


def _together(work):
    """What `work` returns, on processes that all do it; where one raises, all raise the first error."""
    result, failed = None, ["", ""]
    try:
        result = work()
    except config.UserError as error:
        failed = [next((name for name, kind in _KINDS.items() if isinstance(error, kind)), "refused"), str(error)]
    for name, text in processes.gather_values(failed):
        if name:
            del result  # frees what was read before the next one is
            raise _KINDS[name](text)
    return result


def _say(line: str) -> None:
    if processes.index() == 0:
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            print(f"warning: {line}", file=sys.stderr, flush=True)
