"""A run on a slice of TPU VMs: asked for as a queued resource, set up, trained on, and asked for again when it is taken away.

    no such resource             create it (--spot where asked)
    waiting, provisioning        look again after half a minute
    suspended (a spot slice that was taken away), failed      delete it, and create it
    active                       copy the snapshot to every worker, make its environment, train

On each worker launch/local.py looks after its own process: when one worker's dies the others lose it and end with 75, and all begin
again and meet anew. That goes on without this machine. Only when they give up, or the slice is gone, does the command return, and then
the state of the resource is looked at again. A signal here is passed on to the workers, which save.
"""

import dataclasses
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers.local import AGAIN, DIVERGED, MISTAKE, Policy, Signals, ask
from kaiyuan_jax.launchers.tpus import Slice

POLL = 30.0  # seconds between two looks at a resource that is not there yet
ENDED = ("SUSPENDED", "SUSPENDING", "FAILED")
_PID = "/dev/shm/kaiyuan_jax.pid"  # of the worker's launcher; gone after a reboot, as the launcher is


@dataclasses.dataclass(frozen=True)
class Resource:
    """A queued resource with one slice, both called `name`."""

    name: str
    slice: Slice
    zone: str
    project: str = ""
    spot: bool = False
    runtime: str = ""  # empty: the generation's
    options: tuple[str, ...] = ()  # more of `queued-resources create`

    def check(self) -> None:
        """Raises UserError for a name or generation that the TPU API does not have."""
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", self.name):
            raise UserError(f"--name={self.name}: must be of lower-case letters, digits and hyphens, and begin with a letter")
        if not self.slice.generation.api:
            raise UserError("--target: the TPU API has no VMs of this generation; use launch/gke.py")

    def create(self) -> list[str]:
        kind = [f"--accelerator-type={self.slice.accelerator_type}", f"--runtime-version={self.runtime or self.slice.generation.runtime}"]
        return self._gcloud(
            "queued-resources", "create", self.name, f"--node-id={self.name}", *kind, *["--spot"] * self.spot, *self.options
        )

    def describe(self) -> list[str]:
        """Prints the state alone."""
        return self._gcloud("queued-resources", "describe", self.name, "--format=value(state.state)")

    def delete(self) -> list[str]:
        return self._gcloud("queued-resources", "delete", self.name, "--force", "--quiet")

    def copy(self, files: list[str], to: str) -> list[str]:
        return self._gcloud("tpu-vm", "scp", *files, f"{self.name}:{to}", "--worker=all")

    def on_all(self, command: str) -> list[str]:
        """One shell command on every worker at once."""
        return self._gcloud("tpu-vm", "ssh", self.name, "--worker=all", f"--command={command}")

    def _gcloud(self, *arguments: str) -> list[str]:
        return ["gcloud", "compute", "tpus", *arguments, f"--zone={self.zone}", *[f"--project={self.project}"] * bool(self.project)]


@dataclasses.dataclass(frozen=True)
class Work:
    """What the workers do. A snapshot's folder on this machine holds code.tar.gz and config.json."""

    snapshot: Path
    jax: str  # version
    passed: tuple[str, ...] = ()  # further flags of launch/train.py
    restarts: int = 10
    grace: float = 60.0

    @property
    def folder(self) -> str:
        return f"kaiyuan_jax_{self.snapshot.name}"  # under the home folder

    def make_folder(self) -> str:
        return f"mkdir -p {self.folder}"

    def files(self) -> list[str]:
        return [str(self.snapshot / name) for name in ("code.tar.gz", "config.json")]

    def set_up(self) -> str:
        """Once for each worker: the images have an older Python, so uv brings the one that is needed."""
        steps = [
            f"cd {self.folder}",
            "test -e ready",
            "mkdir -p code && tar -xzf code.tar.gz -C code",
            "python3 -m pip install --quiet --user uv",
            "python3 -m uv venv --quiet --clear --python 3.12 .venv",
            f"python3 -m uv pip install --quiet --python .venv -r code/requirements.lock 'jax[tpu]=={self.jax}' gcsfs",
            "touch ready",
        ]
        return f"{steps[0]} && {{ {steps[1]} || {{ {' && '.join(steps[2:])}; }}; }}"

    def train(self) -> str:
        """Ends what an earlier connection may have left, then trains; the exit code is that of launch/local.py."""
        config = "--config=code/configs/saved.py:config.json"
        own = [f"--restarts={self.restarts}", f"--grace={self.grace:g}", "--nosnapshot"]
        start = shlex.join([".venv/bin/python", "code/launch/local.py", *own, "--", "--distributed", config, *self.passed])
        return f"cd {self.folder} || exit {AGAIN}; {self.stop()}; echo $$ > {_PID}; PYTHONPATH=$PWD/code exec {start}"

    def stop(self) -> str:
        """Lets the worker's launcher save and end, and waits for it."""
        return f"if kill $(cat {_PID}) 2>/dev/null; then while kill -0 $(cat {_PID}) 2>/dev/null; do sleep 1; done; fi"


def script(resource: Resource, work: Work) -> str:
    """One round of the commands, as a person would give them."""
    remote = [
        resource.on_all(work.make_folder()),
        resource.copy(work.files(), work.folder),
        *map(resource.on_all, (work.set_up(), work.train())),
    ]
    lines = [resource.create(), resource.describe(), *remote, resource.delete()]
    notes = ["ask for the slice", "until it says ACTIVE", "", "", "", "0: finished; 1: diverged; 2: mistake; else again", "at the end"]
    return "\n".join(shlex.join(line) + (f"  # {note}" if note else "") for line, note in zip(lines, notes, strict=True))


def run(resource: Resource, work: Work, policy: Policy, progress: Callable[[], int] = lambda: 0, poll: float = POLL) -> int:
    """Trains until the run is finished or ends for good; returns launch/train.py's code, 75 when asked to stop or given up.

    progress: the newest checkpoint's step; failures after a newer one count from the first again, as being taken away is no fault.
    Raises UserError where the resource cannot be asked about at all; later on that is said and waited out, since the workers train on.
    """
    failures, before, state = 0, ask(progress, 0), _output(resource.describe())
    with Signals() as signals:
        while not signals.count:
            if state in ENDED:
                _call(resource.delete())
            elif state == "":
                failures += _call(resource.create()) != 0
            elif state == "ACTIVE":
                code = _round(resource, work, signals)
                if signals.count:
                    _call(resource.on_all(work.stop()))
                    break
                if code in (0, DIVERGED, MISTAKE):
                    return code
                now = ask(progress, 0)
                failures, before = (1 if now > before else failures + 1), max(now, before)
                print(f"launcher: ended with code {code} ({failures} of {policy.restarts})", file=sys.stderr, flush=True)
            if failures > policy.restarts:
                break
            signals.within(policy.pause(failures) if failures and state in ("", "ACTIVE") else poll)
            state = _state(resource)
    return AGAIN


def _state(resource: Resource) -> str:
    try:
        return _output(resource.describe())
    except UserError as error:
        print(f"launcher: {error}", file=sys.stderr, flush=True)
        return "UNKNOWN"


def _round(resource: Resource, work: Work, signals: Signals) -> int:
    """Copies, sets up and trains; what fails before training is tried again as training is."""
    for command in (resource.on_all(work.make_folder()), resource.copy(work.files(), work.folder), resource.on_all(work.set_up())):
        if signals.count or _call(command) != 0:
            return AGAIN
    with subprocess.Popen(resource.on_all(work.train()), stdin=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None:
            if signals.count:
                process.terminate()  # the connection; the workers are told by `stop`
            time.sleep(0.1)
    return process.returncode


def _call(command: list[str]) -> int:
    print(f"launcher: {shlex.join(command)}", file=sys.stderr, flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


def _output(command: list[str]) -> str:
    """What it prints; empty where it fails, as for a resource that is not there."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode and "NOT_FOUND" not in done.stderr:
        raise UserError(f"{shlex.join(command)}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    return done.stdout.strip()
