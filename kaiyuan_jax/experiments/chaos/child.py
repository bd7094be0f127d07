"""launch/train.py in a process that keeps a journal of what it does, and that fails as it is told to.

    python -m kaiyuan_jax.experiments.chaos.child ORDERS launch/train.py --config=... [flags]

ORDERS is JSON: `journal`, a file descriptor to write to, `poisoned`, steps whose batch has a token that is none, and `faults`, those that
only the process itself can bring about: a read that fails or takes long, a clock that jumps. They are brought about by replacing functions
of this process, around the code under test and never in it. The journal has one JSON line an event, with the seconds of the machine's
monotonic clock: a batch taken by the loop with a digest of each of its rows, the begin and end of an evaluation and of the call that saves,
and every fault.
"""

import errno
import json
import os
import runpy
import sys
import threading
import time

PACE = 0.015  # seconds that a batch takes at least: the steps of so small a model would be over before one could aim at them

monotonic = time.monotonic


class Journal:
    """Lines to a pipe: what a killed process has written is still read."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, event: str, **facts) -> None:
        with self._lock:
            os.write(self._descriptor, (json.dumps({"event": event, "time": monotonic(), **facts}) + "\n").encode())


def main() -> None:
    orders = json.loads(sys.argv[1])
    sys.argv = sys.argv[2:]
    journal = Journal(orders["journal"])
    journal.write("start", pid=os.getpid())
    faults = orders["faults"]
    _clock(journal, [fault for fault in faults if fault["kind"] == "clock"])
    _reads(journal, [fault for fault in faults if fault["kind"] in ("slow_read", "failing_read", "dead_read")])
    _batches(journal, orders["poisoned"])
    _stages(journal)
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _clock(journal: Journal, faults: list[dict]) -> None:
    """time.time is `seconds` off from `after` seconds after the start of the process on."""
    if not faults:
        return
    begin, original, said = monotonic(), (time.time, time.time_ns), set()

    def offset() -> float:
        total = 0.0
        for number, fault in enumerate(faults):
            if monotonic() - begin >= fault["after"]:
                total += fault["seconds"]
                if number not in said:
                    said.add(number)
                    journal.write("fault", kind="clock", number=number, after=fault["after"], seconds=fault["seconds"])
        return total

    time.time = lambda: original[0]() + offset()
    time.time_ns = lambda: original[1]() + int(offset() * 1e9)


def _reads(journal: Journal, faults: list[dict]) -> None:
    """Reads of a training store, from the `read`-th of this process on: slow, failing `times` times, or failing for good."""
    if not faults:
        return
    from kaiyuan_jax.data import mapped

    original, lock = mapped.MappedTokens.rows, threading.Lock()
    count, left = 0, {id(fault): fault.get("times", 1) for fault in faults}

    def rows(self, starts, width):
        nonlocal count
        with lock:
            count += 1
            due = [fault for fault in faults if count >= fault["read"] and left[id(fault)] > 0]
            for fault in due:
                left[id(fault)] -= fault["kind"] != "dead_read"
        for fault in due:
            journal.write("fault", kind=fault["kind"], number=faults.index(fault), read=count)
            if fault["kind"] == "slow_read":
                time.sleep(fault["seconds"])
            else:
                raise OSError(errno.EIO, "Input/output error (chaos)", f"tokens/c/{fault['read']}")
        return original(self, starts, width)

    mapped.MappedTokens.rows = rows


def _batches(journal: Journal, poisoned: list[int]) -> None:
    """Writes down what the loop takes: the step, this process's rows of the global batch, and a digest of each."""
    import numpy as np

    from kaiyuan_jax.data import loader
    from kaiyuan_jax.experiments.chaos.arrangement import VOCABULARY, digest

    original = loader.batches

    class Recorded:
        def __init__(self, reader, rows):
            self._reader, self._rows = reader, rows

        def __iter__(self):
            return self

        def __getattr__(self, name):
            return getattr(self._reader, name)

        def __next__(self):
            step = self._reader.state
            batch = next(self._reader)
            time.sleep(PACE)
            rows_BL1 = np.concatenate([batch["inputs_BL"], batch["targets_BL"][:, -1:]], axis=1)
            journal.write("batch", step=step, rows=self._rows, digests=[digest(row) for row in rows_BL1])
            if step in poisoned:
                journal.write("fault", kind="nan_batch", step=step)
                batch = batch | {"inputs_BL": np.full_like(batch["inputs_BL"], VOCABULARY + 1)}  # an embedding that is NaN
            return batch

    def batches(plan, stores, *, rows=None, **others):
        numbers = list(range(plan.batch_size)) if rows is None else [int(row) for row in rows]
        return Recorded(original(plan, stores, rows=rows, **others), numbers)

    loader.batches = batches


def _stages(journal: Journal) -> None:
    """Writes down when an evaluation and a save begin and end."""
    from kaiyuan_jax.evaluation import heldout
    from kaiyuan_jax.training import checkpoints

    def around(function, begin: str, end: str):
        def wrapped(*args, **keywords):
            journal.write(begin)
            result = function(*args, **keywords)
            journal.write(end)
            return result

        return wrapped

    make = heldout.make_evaluator
    heldout.make_evaluator = lambda *args, **keywords: around(make(*args, **keywords), "evaluation", "evaluated")
    checkpoints.Checkpoints.save = around(checkpoints.Checkpoints.save, "save", "saving")


if __name__ == "__main__":
    main()
