"""Sections that end badly, for the runner to survive. Run by name in processes of their own."""

import os
import signal
import time


def measure(job, how: str) -> None:
    job.record(what="before")
    if how == "raises":
        raise RuntimeError("a device has left")
    if how == "killed":  # as the system does to a process that takes all memory
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(600)
    if how == "attempts":
        job.attempt(exhausted, needs=0, what="too large")
        job.attempt(lambda: {"ms": 1.0}, needs=0, what="fits")
        job.attempt(lambda: {"ms": 2.0}, needs=1e6, what="no time")


def exhausted():
    raise MemoryError("RESOURCE_EXHAUSTED: 400 GiB\nand a long report")
