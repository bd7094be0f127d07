"""Being told to stop, by a signal or by the machine, so that the run saves and ends before it is ended.

SIGTERM and Ctrl-C reach one process or several; a cloud's notice that a machine will be taken away reaches those on that machine. Each
only remembers its reason here. The loop puts it into the next step beside the batch, every process reads the largest one with that step's
metrics (training/step.py), and so all of them save the same step.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator

REASONS = ("", "SIGTERM", "SIGINT")  # by flag


@dataclasses.dataclass
class Stop:
    """Why this process was told to stop, and why all of them did."""

    flag: int = 0  # index in REASONS
    agreed: int = 0  # the largest flag of all processes at the step that was the last
    since: float = 0.0  # time.monotonic() of the first reason

    def ask(self, reason: str) -> None:
        if not self.flag:
            self.since = time.monotonic()
        self.flag = max(self.flag, REASONS.index(reason))


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Listens for SIGTERM and the first Ctrl-C; the second Ctrl-C interrupts at once."""
    stop = Stop()

    def handle(number, frame):
        stop.ask(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():  # signals cannot be caught there
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
