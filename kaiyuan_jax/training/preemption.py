"""Being told to stop, by a signal or by the machine, so that the run saves and ends before it is ended.

SIGTERM and Ctrl-C reach one process or several; a cloud's notice that a machine will be taken away reaches those on that machine. Each
only remembers its reason here. The loop puts it into the next step beside the batch, every process reads the largest one with that step's
metrics (training/step.py), and so all of them save the same step.

On Google Cloud, TPU VMs among it, the notice is a value of the metadata server: `instance/maintenance-event` other than NONE, or
`instance/preempted` TRUE. It is asked every few seconds where there is such a server: GCE_METADATA_HOST names it, or the machine says that
it is Google's.
"""

import contextlib
import dataclasses
import http.client
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

NOTICE = "maintenance notice"
REASONS = ("", "SIGTERM", "SIGINT", NOTICE)  # by flag
POLL = 5.0  # seconds between questions
_QUIET = {"instance/maintenance-event": "NONE", "instance/preempted": "FALSE"}
_MAKER = Path("/sys/class/dmi/id/product_name")


@dataclasses.dataclass
class Stop:
    """Why this process was told to stop, and why all of them did."""

    flag: int = 0  # index in REASONS
    agreed: str = ""  # the reason of all processes, read with a step's metrics
    since: float = 0.0  # time.monotonic() of the first reason given to this process

    def ask(self, reason: str) -> None:
        if not self.flag:
            self.since = time.monotonic()
        self.flag = max(self.flag, REASONS.index(reason))


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Listens for SIGTERM, the first Ctrl-C and the machine's notice; the second Ctrl-C interrupts at once."""
    stop, ended = Stop(), threading.Event()
    if host := metadata_host():
        threading.Thread(target=_poll, args=(host, stop, ended), name="preemption", daemon=True).start()

    def handle(number, frame):
        stop.ask(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {}
    if threading.current_thread() is threading.main_thread():  # signals cannot be caught elsewhere
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def metadata_host() -> str:
    """host[:port] of the metadata server, empty where there is none."""
    if host := os.environ.get("GCE_METADATA_HOST"):
        return host
    return "metadata.google.internal" if _MAKER.is_file() and "Google" in _MAKER.read_text(errors="replace") else ""


def noticed(host: str) -> bool:
    """Whether the machine will be taken away. Raises OSError when the server does not answer."""
    for name, quiet in _QUIET.items():
        request = urllib.request.Request(f"http://{host}/computeMetadata/v1/{name}", headers={"Metadata-Flavor": "Google"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=POLL) as answer:
            if answer.read(200).decode(errors="replace").strip() not in (quiet, ""):
                return True
    return False


def _poll(host: str, stop: Stop, ended: threading.Event) -> None:
    while not stop.flag:
        with contextlib.suppress(OSError, http.client.HTTPException):  # a server that does not answer has given no notice
            if noticed(host):
                stop.ask(NOTICE)
        if ended.wait(POLL):
            return
