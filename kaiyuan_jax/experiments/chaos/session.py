"""One session: the processes of a run from their start to their end, with what is done to them in between.

The processes say in their journals (child.py) what they are doing, so a strike can be aimed: at the start, at a step, inside a write, an
evaluation or the averaging window, each time a drawn moment after its begin. A process that ends takes the others along, as a launcher
would see to: they get a moment to end by themselves, then they are killed.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
HURRY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # less time to compile than to optimise
LAG = 40.0  # seconds that processes get to end after one of them did: heartbeats and the watchdog are to notice before
HUNG = 400.0  # seconds without an event and without an end after which a session is given up
HEARTBEAT = 20  # seconds of silence after which JAX gives up a process


@dataclasses.dataclass(frozen=True)
class Moment:
    """`after` seconds behind the first `event` of any process, and where that is a batch, of the first at or after `step`."""

    event: str = "batch"  # start | batch | save | evaluation
    step: int = 0
    after: float = 0.0


@dataclasses.dataclass
class Ended:
    """What is known of a session when it is over."""

    number: int
    processes: int
    begin: float  # monotonic seconds
    codes: list[int]
    events: list[dict]  # of all processes, each with its `process`, in the order of their time
    output: str
    struck: float | None = None  # when the last strike fell, if one did
    hung: bool = False
    late: list[int] = dataclasses.field(default_factory=list)  # processes that did not end by themselves after another had

    def batches(self) -> list[dict]:
        return [event for event in self.events if event["event"] == "batch"]

    @property
    def first_step(self) -> int:
        """The first batch taken, counted from 0."""
        return self.batches()[0]["step"]

    @property
    def last_step(self) -> int:
        """The last batch taken, counted from 0; -1 for none."""
        return max((event["step"] for event in self.batches()), default=-1)


class Running:
    """Processes under way, and what their journals have said so far."""

    def __init__(
        self, number: int, flags: list[str], processes: int, devices: int, faults: list[dict], poisoned: tuple[int, ...], logs: Path
    ):
        self.number, self.logs, self.events = number, logs, []
        self.begin = time.monotonic()
        self._news = threading.Condition()
        self._children, self._readers, self._output = [], [], logs / f"session_{number}.txt"
        coordinator = f"127.0.0.1:{_free_port()}"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices // processes),
            "XLA_FLAGS": HURRY,
            "OMP_NUM_THREADS": "1",
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),  # so that train.py need not begin again for it
            "JAX_COMPILATION_CACHE_DIR": str(logs.parents[1] / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        for index in range(processes):
            place = [f"--coordinator={coordinator}", f"--processes={processes}", f"--process={index}", f"--heartbeat_timeout={HEARTBEAT}"]
            reading, writing = os.pipe()
            orders = json.dumps({"journal": writing, "faults": faults if index == 0 else [], "poisoned": poisoned})
            command = [sys.executable, "-m", "kaiyuan_jax.experiments.chaos.child", orders, "launch/train.py", *flags]
            with open(self._output, "ab") as output:
                self._children.append(
                    subprocess.Popen(
                        command + (place if processes > 1 else []),
                        cwd=ROOT,
                        env=environment,
                        pass_fds=[writing],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        process_group=0,
                    )  # fmt: skip
                )
            os.close(writing)
            reader = threading.Thread(target=self._read, args=(index, reading), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, index: int, descriptor: int) -> None:
        with (
            os.fdopen(descriptor, encoding="utf-8") as lines,
            open(self.logs / f"session_{self.number}.jsonl", "a", encoding="utf-8") as log,
        ):
            for line in lines:
                if not line.endswith("\n"):  # torn by the end of its process
                    break
                event = {"process": index, **json.loads(line)}
                with self._news:
                    self.events.append(event)
                    self._news.notify_all()
                log.write(json.dumps(event) + "\n")

    def _alive(self) -> list[int]:
        return [index for index, child in enumerate(self._children) if child.poll() is None]

    def reach(self, moment: Moment) -> bool:
        """Waits for a moment; False if a process ends or the session hangs before."""
        looked, begun, last = 0, False, -1
        while len(self._alive()) == len(self._children):
            with self._news:
                if looked == len(self.events):
                    self._news.wait(timeout=0.2)
                new, looked = self.events[looked:], len(self.events)
            for event in new:
                last = max(last, event.get("step", -1)) if event["event"] == "batch" else last
                begun |= event["event"] == moment.event and last >= moment.step
            if moment.event == "start" or begun:
                time.sleep(moment.after)
                return len(self._alive()) == len(self._children)
            if self._silent() > HUNG:
                return False
        return False

    def _silent(self) -> float:
        """Seconds since the last event."""
        with self._news:
            return time.monotonic() - max([self.begin, *(event["time"] for event in self.events[-8:])])

    def send(self, number: int, victims: list[int]) -> bool:
        """Sends a signal; whether all victims were there to get it."""
        there = [index for index in victims if index in self._alive()]
        for index in there:
            os.kill(self._children[index].pid, number)
        return len(there) == len(victims)

    def limit_files(self, size: int | None) -> None:
        """No file of these processes grows beyond `size` bytes; None: any may again."""
        import resource

        for index in self._alive():
            _, hard = resource.prlimit(self._children[index].pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._children[index].pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def abandon(self) -> None:
        """Kills what still lives."""
        for index in self._alive():
            os.kill(self._children[index].pid, signal.SIGKILL)

    def end(self, struck: float | None) -> Ended:
        """Waits until all processes have ended, each by itself or killed some time after the first."""
        hung, late, first = False, [], None
        while alive := self._alive():
            if len(alive) < len(self._children) and first is None:
                first = time.monotonic()
            if first is not None and time.monotonic() - first > LAG:
                late = alive
            hung = hung or (first is None and self._silent() > HUNG)
            if hung or late:
                for index in alive:
                    os.kill(self._children[index].pid, signal.SIGKILL)
            time.sleep(0.1 if not hung else 1.0)
        for reader in self._readers:
            reader.join()
        events = sorted(self.events, key=lambda event: event["time"])
        output = self._output.read_text(encoding="utf-8", errors="replace")
        codes = [child.returncode for child in self._children]
        return Ended(self.number, len(codes), self.begin, codes, events, output, struck, hung, late)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
