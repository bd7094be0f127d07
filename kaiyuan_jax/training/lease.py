"""One session at a time in a run folder of an object store, where there are no file locks.

A session takes the run by creating `.lease/<n>`, with n one more than the largest there is: of several that try, the store lets one. While
it runs it puts its lease anew every few seconds, and at its end it puts `ended`. Who finds another's lease watches it: a holder that puts
nothing new for `PATIENCE` seconds is gone, and the next number is free to take. Only changes are looked at, so that no clocks need to
agree; a holder of the same machine whose process has ended is gone at once.

A session that was stopped for so long that another took the run finds the larger number at its next heartbeat and ends with exit code 75,
before it can write any more.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from kaiyuan_jax import storage
from kaiyuan_jax.config import ConfigError

FOLDER = ".lease"
HEARTBEAT, PATIENCE = 5.0, 30.0  # seconds
_ENDED = "ended\n"  # in a lease that nobody holds; it stays, so that its number is not used again
LOST = 75  # exit code, EX_TEMPFAIL: the same command may be given again


@contextlib.contextmanager
def held(folder, heartbeat: float = HEARTBEAT, patience: float = PATIENCE) -> Iterator[None]:
    """Holds a remote run folder for this process. Raises ConfigError when another session has it."""
    number = _take(folder, patience)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(folder, number, heartbeat, ended), name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        if numbers(folder)[-1:] == [number]:
            storage.replace(folder / FOLDER / str(number), _ENDED)


def numbers(folder) -> list[int]:
    """Numbers of the leases in a run folder, ascending."""
    return sorted(int(name) for name in storage.names(folder / FOLDER) if name.isdigit())


def _take(folder, patience: float) -> int:
    """The number taken, after the holder of an earlier one, if any, has shown that it is gone."""
    there = numbers(folder)
    if there and not _gone(folder / FOLDER / str(there[-1]), patience):
        raise ConfigError(f"{folder}: another process is training in this folder; wait for it, or give another --config.output")
    number = there[-1] + 1 if there else 1
    if not storage.create(folder / FOLDER / str(number), _said(0)):
        raise ConfigError(f"{folder}: another process began to train in this folder just now; wait for it, or give another --config.output")
    for old in there:
        storage.delete(folder / FOLDER / str(old))
    return number


def _gone(lease, patience: float) -> bool:
    """Whether the holder of a lease has ended: watches for as long as `patience` whether it puts anything new."""
    try:
        found = storage.read(lease).decode()
        if found == _ENDED:
            return True
        holder = json.loads(found)
        if holder["machine"] == _machine():
            return _began(holder["process"]) != holder["began"]
        print(f"{lease}: held on {holder['host']}; watching for {patience:.0f} s whether its holder is alive", file=sys.stderr, flush=True)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(min(1.0, patience / 10))
            if (now := storage.read(lease).decode()) != found:
                return now == _ENDED
    except FileNotFoundError:  # another has taken the run meanwhile; the store lets only one create the next
        pass
    return True


def _keep(folder, number: int, heartbeat: float, ended: threading.Event) -> None:
    beats, lease = 0, folder / FOLDER / str(number)
    while not ended.wait(heartbeat):
        beats += 1
        try:
            if numbers(folder)[-1:] != [number]:
                print(f"error: {folder}: another session has taken this run; this one ends", file=sys.stderr, flush=True)
                os._exit(LOST)
            storage.replace(lease, _said(beats))
        except Exception as error:  # the store is not reached now; what is saved meanwhile fails by itself
            print(f"warning: {lease}: not put ({type(error).__name__}); tried again", file=sys.stderr, flush=True)


def _said(beats: int) -> str:
    """What a lease says: whose it is, and how often it was put."""
    me = os.getpid()
    return json.dumps({"host": socket.gethostname(), "machine": _machine(), "process": me, "began": _began(me), "beats": beats}) + "\n"


def _machine() -> str:
    """One boot of one machine, and of one container on it; what no other process can find out by itself where the system says neither."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _began(process: int) -> str:
    """When a process that runs began, in ticks since the boot, because numbers of processes are used again; empty: it has ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]
