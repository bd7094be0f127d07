"""A run that stands still says where, and ends, so that whoever started it can start it again.

The loop says what it is about to do (`beat`); a thread looks whether it has said so lately. After `config.health.timeout` seconds of
silence the process writes `stalls/<time>_process_<i>.txt` into the run folder (which process on which host, at which step, doing what, what
the other processes said last, the stacks of all threads) and ends with exit code 75: the main thread hangs in a collective, a read or
a write that will not come back, and nothing could be unwound. The first time that a stage comes may take `FIRST` seconds: it compiles.
Seconds in which the whole process was stopped (SIGSTOP, a suspended machine) do not count as silence of this one; its peers see them.

Every process keeps `heartbeats/<i>.json` in the run folder: the one that stands at an earlier step than the others, or whose time is old,
is the one to look at.
"""

import datetime
import faulthandler
import json
import os
import socket
import sys
import tempfile
import threading
import time

from kaiyuan_jax import secrets, storage

EXIT = os.EX_TEMPFAIL  # 75
FIRST = 1800.0  # seconds
_TICKS = 20  # looks in a timeout
_SLOWEST, _FASTEST = 10.0, 0.05  # seconds between looks


class Watchdog:
    """Watches one process of a run; `timeout` 0: only keeps the heartbeat."""

    def __init__(self, folder, timeout: float, process: int, processes: int):
        self._folder, self._timeout, self._process, self._processes = folder, timeout, process, processes
        self._stages: set[str] = set()
        self._closing = threading.Event()
        storage.make_folder(folder / "heartbeats")
        self.beat("start", 0)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._keep_heartbeat)]  # a write may hang too
        for thread in self._threads:
            thread.start()

    def beat(self, stage: str, step: int) -> None:
        """The process begins a stage of its work, such as "step" or "save", for update `step`."""
        first = stage not in self._stages
        self._stages.add(stage)
        self._said = (stage, step, time.monotonic(), max(self._timeout, FIRST) if first else self._timeout)

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(_SLOWEST)

    def _watch(self) -> None:
        tick = min(max(self._timeout / _TICKS, _FASTEST), _SLOWEST) if self._timeout else _SLOWEST
        looked, stopped = time.monotonic(), 0.0
        while not self._closing.wait(tick):
            now = time.monotonic()
            if now - looked > 3 * tick + 1:  # this thread did not run either
                stopped = now
            looked = now
            stage, step, since, limit = self._said
            if self._timeout and now - max(since, stopped) > limit:
                self._end(stage, step, now - since)

    def _keep_heartbeat(self) -> None:
        file = self._folder / "heartbeats" / f"{self._process}.json"
        while True:
            stage, step, *_ = self._said
            facts = {"process": self._process, "host": socket.gethostname(), "pid": os.getpid(), "stage": stage, "step": step}
            try:
                storage.replace(file, json.dumps(facts | {"time": _utc()}) + "\n")
            except Exception as error:  # a full disk, a store that does not answer: no reason to end a run
                print(f"warning: heartbeat of process {self._process}: {secrets.redact(str(error))[:200]}", file=sys.stderr)
            if self._closing.wait(_SLOWEST):
                return

    def _end(self, stage: str, step: int, seconds: float) -> None:
        where = f"process {self._process} of {self._processes} on {socket.gethostname()} (pid {os.getpid()})"
        headline = (
            f"{where}: nothing for {seconds:.0f} s since it began {stage!r} of step {step}; config.health.timeout = {self._timeout:g}"
        )
        file = self._folder / "stalls" / f"{_utc().replace(':', '')}_process_{self._process}.txt"
        print(f"error: {headline}; stacks of all threads go to {file}", file=sys.stderr, flush=True)
        writer = threading.Thread(target=self._write, args=(file, headline, _stacks()), daemon=True)
        writer.start()
        writer.join(3 * _SLOWEST)  # the disk may be what hangs
        os._exit(EXIT)

    def _write(self, file, headline: str, stacks: str) -> None:
        storage.make_folder(file.parent)
        text = "\n".join([headline, "", "what every process said last:", *self._heartbeats(), "", stacks])
        storage.replace(file, secrets.redact(text))

    def _heartbeats(self) -> list[str]:
        folder = self._folder / "heartbeats"
        return [storage.read(folder / name).decode().strip() for name in storage.names(folder) if name.endswith(".json")]


def _stacks() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
