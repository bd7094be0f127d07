"""The work folder of one preparation: which steps and parts are done, so that a killed job goes on where it was.

    <output>.lock      held by the process that prepares `<output>`; the system releases it when that process ends, however it ends
    <output>.work/     one folder a step; a part is done when its `NAME.json` is there, a step when its `manifest.json` is
    <output>.partial/  the result, renamed to `<output>` when it is whole

What is in the work folder belongs to one fingerprint (input, settings, versions). For any other it is thrown away.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare.engine import Engine


class JobError(UserError):
    """A job that cannot run now: another one holds its output, or the disk is full."""


class Job:
    """The folders of one preparation. `done` and `parts` say what need not be done again."""

    def __init__(self, output: Path, fingerprint: str, layout: dict | None = None):
        """`layout` says how new work is cut; work that goes on keeps the cut it began with, which `self.layout` then has."""
        self.work = output.with_name(output.name + ".work")
        self.partial = output.with_name(output.name + ".partial")
        found = self.begun(output)
        if found.get("fingerprint") != fingerprint:
            self.clear()
            self.work.mkdir(parents=True)
            found = {"fingerprint": fingerprint, "layout": layout or {}}
            write_json(self.work / "job.json", found)
        self.layout = found["layout"]

    @staticmethod
    def begun(output: Path) -> dict:
        """Fingerprint and layout of the work that was begun for an output; empty if there is none."""
        with contextlib.suppress(OSError, ValueError):
            return read_json(output.with_name(output.name + ".work") / "job.json")
        return {}

    def folder(self, step: str) -> Path:
        (self.work / step).mkdir(exist_ok=True)
        return self.work / step

    def clear(self) -> None:
        (self.work / "job.json").unlink(missing_ok=True)  # first: without it nothing there is trusted
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def step(self, step: str, make: Callable[[Path], dict]) -> dict:
        """The facts of a finished step, made by `make(folder)` unless its manifest is there."""
        manifest = self.folder(step) / "manifest.json"
        if not manifest.is_file():
            began = time.perf_counter()
            facts = make(manifest.parent)
            write_json(manifest, {"step": step, "seconds": _seconds(began), **facts})
        return read_json(manifest)

    def parts(self, engine: Engine, step: str, function: Callable, tasks: list[dict], *, sizes: list[int], unit: str) -> list[dict]:
        """Facts of every task's part in the order of the tasks; only those without a mark in the folder of `step` are run.

        `function(task)` gets the task and `name`, a path in that folder without an ending, and returns a dictionary. Its files begin
        with `unique(name)`, and their names are in the dictionary: a worker that outlives its job never writes into a file of another.
        """
        folder = self.folder(step)
        names = [f"{number:06d}" for number in range(len(tasks))]
        waiting = [number for number, name in enumerate(names) if not (folder / f"{name}.json").is_file()]
        began = time.perf_counter()
        given = [tasks[number] | {"name": str(folder / names[number])} for number in waiting]
        with tqdm(total=sum(sizes), desc=step, unit=unit, unit_scale=True, disable=None, delay=0.5) as bar:
            bar.update(sum(sizes) - sum(sizes[number] for number in waiting))
            for number, facts in engine.map(function, given, step, sum(sizes)):
                write_json(folder / f"{names[waiting[number]]}.json", facts)
                bar.update(sizes[waiting[number]])
        if waiting or not (folder / "manifest.json").is_file():
            facts = {"step": step, "seconds": _seconds(began), "tasks": len(tasks), "resumed": len(tasks) - len(waiting)}
            write_json(folder / "manifest.json", facts)
        return [read_json(folder / f"{name}.json") for name in names]

    def note(self, step: str, **facts) -> None:
        """Adds facts to the manifest of a finished step."""
        manifest = self.folder(step) / "manifest.json"
        ended = manifest.stat().st_mtime_ns
        write_json(manifest, read_json(manifest) | facts)
        os.utime(manifest, ns=(ended, ended))

    def manifests(self) -> list[dict]:
        """What every finished step says about itself, in the order in which they finished."""
        return [read_json(path) for path in sorted(self.work.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)]


def unique(name: str) -> str:
    """A path that no other call in any process gets."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def _seconds(began: float) -> float:
    return round(time.perf_counter() - began, 2)


def write_json(path: Path, value: dict) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _locked_file(path: Path, output: Path):
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w")
        except OSError as error:
            raise JobError(f"--output={output}: cannot be written ({error.strerror}); choose another folder") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise JobError(f"--output={output}: another process is preparing it; wait for it or choose another folder") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # whoever held it has just removed it


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Holds the output for this process; raises `JobError` if another process does, or if the disk fills up inside."""
    path = output.with_name(output.name + ".lock")
    if ":/" in str(output):
        raise JobError(f"--output={output}: must be a path of this machine (on a cluster, of every worker), not a URL")
    if set("*?[]{}") & set(str(output)):
        raise JobError(f"--output={output}: must not have any of * ? [ ] {{ }} in it, which would be taken for a pattern")
    with _locked_file(path, output):
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(path.parent).free
            raise JobError(
                f"--output={output}: no space left on the disk ({free / 1e6:,.0f} MB free); finished parts stay in {output}.work: free "
                "some space and run the same command, or remove that folder"
            ) from None
        finally:
            os.unlink(path)
