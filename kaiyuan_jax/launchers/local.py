"""Several processes of one run on this machine, begun again when they fail.

The processes of a run end together: a collective needs all of them. So one that ends badly takes the others along after a moment in which
they may say what they saw, and what still lives then is killed, stopped or not; then all begin again from the newest checkpoint.

    code 0, last checkpoint saved     done
    code 1 (diverged), 2 (mistake)    another start would end the same way: done, with that code
    anything else                     again, after `backoff` seconds, doubled each time up to five minutes

Only starts in a row that bring no newer checkpoint count against `restarts`, so a long run is not ended by many unlucky days.
A SIGTERM, SIGINT or SIGHUP is passed on and waited for; nothing begins again after it, and the code is 75 unless the run is finished.
"""

import ctypes
import dataclasses
import functools
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from kaiyuan_jax import secrets

DIVERGED, MISTAKE, AGAIN = 1, 2, 75  # exit codes of launch/train.py
LONGEST_PAUSE = 300.0  # seconds
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec nothing may be


@dataclasses.dataclass(frozen=True)
class Policy:
    """When a run begins again and how long each end may take; seconds but for `restarts`."""

    restarts: int = 10  # starts in a row without a newer checkpoint
    backoff: float = 1.0  # before the first of them
    grace: float = 60.0  # to save and end after a signal
    lag: float = 10.0  # that the others get when one ended badly
    stopped: float = 60.0  # that a process may stand still under SIGSTOP

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.backoff * 2.0 ** (failures - 1), LONGEST_PAUSE)


def run(
    command: list[str],
    processes: int = 1,
    devices: int = 0,
    policy: Policy = Policy(),
    progress: Callable[[], int] = lambda: 0,
    finished: Callable[[], bool] = lambda: True,
) -> int:
    """Runs `command` in so many processes until it is done; returns its exit code, 128 + n for signal n, 75 where it can go on.

    Where there are several, each gets --coordinator, --processes and --process besides. devices: virtual CPU devices of each; 0 leaves
    JAX to find them. progress: the newest checkpoint's step; finished: whether the run has its last. Process 0 has this process's own
    output; the lines of the others begin with their number.
    """
    with Signals() as signals:
        failures = 0
        while True:
            before = ask(progress, 0)
            code = _attempt(command, processes, devices, policy, signals)
            if code in (DIVERGED, MISTAKE) or (code == 0 and ask(finished, False)):
                return code
            if signals.count:
                return AGAIN
            failures = 1 if ask(progress, 0) > before else failures + 1
            if failures > policy.restarts:
                _say(f"{_ending(code)}; {policy.restarts} starts in a row brought no newer checkpoint: given up")
                return 128 - code if code < 0 else code or AGAIN
            pause = policy.pause(failures)
            _say(f"{_ending(code)}; starting again in {pause:g} s ({failures} of {policy.restarts} without a newer checkpoint)")
            if signals.within(pause):
                return AGAIN


def place(coordinator: str, processes: int, process: int) -> list[str]:
    """The flags by which launch/train.py knows which of several processes it is; none where there is one."""
    return [f"--coordinator={coordinator}", f"--processes={processes}", f"--process={process}"] if processes > 1 else []


def ask(question: Callable, unknown):
    """Its answer; `unknown` where a run folder that is far away does not give one now, which is said."""
    try:
        return question()
    except Exception as error:  # of whatever client reads the folder
        _say(f"the run folder does not answer: {secrets.redact(str(error))}")
        return unknown


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with(parent: int) -> None:
    """Has this process killed when the one that started it ends, however that ends; `parent` is its number. Linux alone can do that."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # ended before
            os._exit(AGAIN)


class Signals:
    """Counts the requests to end that arrive while it is entered."""

    def __init__(self):
        self.count, self.last = 0, signal.SIGTERM

    def __enter__(self):
        self.before = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.count, self.last = self.count + 1, number

    def within(self, seconds: float) -> bool:
        """Waits so long, or until a request comes; whether one came."""
        end = time.monotonic() + seconds
        while not self.count and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.count > 0


class _Child:
    """One process, leader of a group of its own, that dies when the launcher does."""

    def __init__(self, command: list[str], index: int, environment: dict[str, str], selector: selectors.BaseSelector):
        self.index, self.code, self.stopped = index, None, None
        output = subprocess.PIPE if index else None
        end = functools.partial(end_with, os.getpid())
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0, preexec_fn=end
        )
        for source, target in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)):
            if source:
                os.set_blocking(source.fileno(), False)
                selector.register(source, selectors.EVENT_READ, _Lines(f"[{index}] ".encode(), target))

    def look(self) -> None:
        """Sets `code` once the process has ended, and since when it is stopped; it stays a zombie, so its group keeps its number."""
        if self.code is not None:
            return
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended:
            self.code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        elif not _is_stopped(self.process.pid):
            self.stopped = None
        elif self.stopped is None:
            self.stopped = time.monotonic()

    def send(self, number: int) -> None:
        """To the process and all it started."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def end(self) -> None:
        """Leaves nothing alive of its group."""
        self.send(signal.SIGKILL)
        self.process.wait()


class _Lines:
    """Passes on whole lines, each behind a prefix."""

    def __init__(self, prefix: bytes, target):
        self.prefix, self.target, self.rest = prefix, target, b""

    def write(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
        if text := b"".join(self.prefix + line + b"\n" for line in lines if line):
            os.write(self.target.fileno(), text)


def _attempt(command: list[str], processes: int, devices: int, policy: Policy, signals: Signals) -> int:
    """One start of all processes; when it returns none of them is left."""
    variables, children = environment(devices), []
    coordinator = f"127.0.0.1:{free_port()}"
    with selectors.DefaultSelector() as selector:
        try:
            for index in range(processes):
                children.append(_Child([*command, *place(coordinator, processes, index)], index, variables, selector))
            return _watch(children, selector, policy, signals)
        finally:
            for child in children:
                child.end()
            _forward(selector, 0)
            for key in list(selector.get_map().values()):
                key.data.write(b"\n")  # an unfinished line
                key.fileobj.close()


def _watch(children: list[_Child], selector, policy: Policy, signals: Signals) -> int:
    """Returns when all have ended or time is up: 0, or the code of the first that ended badly."""
    passed_on, deadline, bad = 0, None, None
    while any(child.code is None for child in children):
        _forward(selector, 0.1)
        for child in children:
            child.look()
            if bad is None and child.code:
                bad = child.code
            if bad is None and child.stopped and time.monotonic() - child.stopped > policy.stopped:
                _say(f"process {child.index} has been stopped for {policy.stopped:g} s: it counts as lost")
                bad = AGAIN
        if signals.count > passed_on:
            if passed_on:
                break  # asked twice
            passed_on, deadline = signals.count, time.monotonic() + policy.grace
            for child in children:
                child.send(signals.last)
                child.send(signal.SIGCONT)  # one that is stopped could not save
        if deadline is None and bad is not None:
            deadline = time.monotonic() + policy.lag
        if deadline is not None and time.monotonic() > deadline:
            break
    living = [child.index for child in children if child.code is None]
    if living:
        _say(f"ended by force: process {', '.join(map(str, living))}")
    return bad if bad is not None else AGAIN if living else 0


def _forward(selector, seconds: float) -> None:
    """Passes on what the processes have written, waiting at most so long for it."""
    if not selector.get_map():
        time.sleep(seconds)
        return
    for key, _ in selector.select(seconds):
        while data := _read(key.fileobj):
            key.data.write(data)
        if data == b"":
            selector.unregister(key.fileobj)
            key.data.write(b"\n")
            key.fileobj.close()


def _read(source) -> bytes | None:
    """What is there; b"" at the end, None when nothing is there yet."""
    try:
        return os.read(source.fileno(), 1 << 16)
    except BlockingIOError:
        return None


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many virtual CPU devices; 0 leaves it as this one's."""
    found = dict(os.environ)
    if devices:
        name = "--xla_force_host_platform_device_count"
        others = [flag for flag in found.get("XLA_FLAGS", "").split() if not flag.startswith(name)]
        found["XLA_FLAGS"] = " ".join([*others, f"{name}={devices}"])
    return found


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"T"
    except OSError:
        return False


def _ending(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with code {code}" if code else "ended before its last step"


def _say(text: str) -> None:
    print(f"launcher: {text}", file=sys.stderr, flush=True)
