"""What can go wrong, each kind with the sentence that the results table gives it, and how it is drawn.

inside    brought about by process 0 itself, told so before it starts (child.py); a session may have several
strike    done to the processes from outside at a drawn moment; a session has at most one, and most end it
between   done to the run folder, or to the way the run is started, before the next session
"""

import dataclasses
import os
import random
import shutil
from pathlib import Path

from kaiyuan_jax.experiments.chaos import arrangement as arrangements
from kaiyuan_jax.experiments.chaos.arrangement import STEPS, TIMEOUT, WINDOW, Arrangement
from kaiyuan_jax.experiments.chaos.session import Moment
from kaiyuan_jax.training import saved


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    what: str
    when: str  # inside | strike | between
    many: bool = False  # only where a session has several processes


_MOMENTS = {
    "start": "while it starts",
    "step": "at some step",
    "write": "while a checkpoint is written",
    "window": "in the averaging window",
    "evaluation": "during an evaluation",
}
KINDS = {
    **{f"kill_{at}": Kind(f"kill -9 of every process {where}", "strike") for at, where in _MOMENTS.items()},
    **{f"kill_one_{at}": Kind(f"kill -9 of one of several processes {where}", "strike", many=True) for at, where in _MOMENTS.items()},
    "terminate": Kind("SIGTERM to every process", "strike"),
    "terminate_one": Kind("SIGTERM to one of several processes", "strike", many=True),
    "stop": Kind("SIGSTOP of every process for longer than the watchdog's time-out, then SIGCONT", "strike"),
    "stop_one": Kind("SIGSTOP of one of several processes for longer than every time-out", "strike", many=True),
    "full_disk": Kind("the disk is full while a checkpoint is saved", "strike"),
    "truncated": Kind("a file of a checkpoint is cut short", "between"),
    "flipped": Kind("a bit of a file of a checkpoint is flipped", "between"),
    "deleted": Kind("the newest checkpoint is deleted", "between"),
    "processes": Kind("started again with another number of processes", "between"),
    "slow_read": Kind("a read of a store takes long", "inside"),
    "failing_read": Kind("a read of a store fails a few times", "inside"),
    "dead_read": Kind("reads of a store fail for good until the next start", "inside"),
    "clock": Kind("the clock jumps, forwards or back", "inside"),
    "nan_batch": Kind("the loss of a batch is NaN", "inside"),
}


@dataclasses.dataclass(frozen=True)
class Strike:
    """A fault from outside, as drawn."""

    kind: str
    moment: Moment
    victims: tuple[int, ...]
    seconds: float = 0.0  # stop: how long; full_disk: how long it stays full
    room: int = 0  # full_disk: bytes left


def inside(draw: random.Random, kind: str) -> dict:
    """The order for a fault that process 0 brings about itself."""
    if kind == "slow_read":
        return {"kind": kind, "read": draw.randint(1, 40), "seconds": draw.uniform(0.2, 1.5)}
    if kind == "failing_read":
        return {"kind": kind, "read": draw.randint(1, 40), "times": draw.randint(1, 2)}
    if kind == "dead_read":
        return {"kind": kind, "read": draw.randint(1, 14)}
    if kind == "clock":
        return {"kind": kind, "after": draw.uniform(0, 5), "seconds": draw.choice((-1, 1)) * draw.choice((3.0, 600.0, 86_400.0, 4e7))}
    raise ValueError(kind)


def strike(draw: random.Random, kind: str, saved_step: int, processes: int, start: float) -> Strike:
    """A strike against a session that begins after `saved_step` updates; starting takes about `start` seconds."""
    one = (draw.randrange(processes),)
    victims = one if "one" in kind.split("_") else tuple(range(processes))
    step = saved_step + draw.randint(0, 13)
    at = kind.rpartition("_")[2]
    if kind == "full_disk":
        moment = Moment("save", step, draw.uniform(0, 0.02))
        return Strike(kind, moment, victims, seconds=draw.choice((0.5, 3.0, 30.0)), room=draw.choice((0, 1 << 12, 1 << 16, 1 << 18)))
    if kind in ("stop", "stop_one"):
        at = draw.choice(("start", "step", "write", "evaluation"))
    elif kind in ("terminate", "terminate_one"):
        at = draw.choice(("start", "step", "step", "write", "evaluation"))
    moment = {
        "start": Moment("start", 0, draw.uniform(0, start)),
        "step": Moment("batch", min(step, STEPS - 1), draw.uniform(0, 0.05)),
        "write": Moment("save", step, draw.uniform(0, 0.3)),
        "window": Moment("batch", max(min(step, STEPS - 1), draw.randint(WINDOW, STEPS - 1)), draw.uniform(0, 0.05)),
        "evaluation": Moment("evaluation", step, draw.uniform(0, 0.1)),
    }[at]
    return Strike(kind, moment, victims, seconds=TIMEOUT * draw.uniform(1.1, 1.3) if "stop" in kind else 0.0)


def in_turn(kinds: list[str]) -> list[str]:
    """Of the strikes drawn for a session those that it may live through, and at most one that ends it, last."""
    ending = [kind for kind in kinds if kind not in ("stop", "full_disk")]
    return [kind for kind in kinds if kind not in ending] + ending[:1]


def possible(kind: str, arrangement: Arrangement, saved_step: int, processes: int) -> bool:
    """Whether a kind can be brought about now; what is done to checkpoints is another question (`damage`)."""
    if KINDS[kind].many and processes == 1:
        return False
    if kind == "nan_batch":
        return False  # comes with the arrangement
    if kind == "processes":
        return len(arrangement.processes) > 1
    if kind.endswith("_window"):
        return saved_step + 20 >= WINDOW
    if kind.endswith("_evaluation"):
        return saved_step < STEPS - 1
    return True


def damage(draw: random.Random, kind: str, run: Path) -> str:
    """Damages a checkpoint, or a local copy, of a run folder, mostly the newest; says what was done, nothing where there is none."""
    there = [run / "checkpoints" / str(step) for step in saved.steps(run / "checkpoints")]
    there += [path for path in arrangements.local_copies(run).glob("*/process_*/*") if path.name.isdigit()]
    if not there:
        return ""
    newest = max(int(path.name) for path in there)
    if kind == "deleted" or draw.random() < 0.8:
        there = [path for path in there if int(path.name) == newest]
    chosen = draw.choice(sorted(there))
    if kind == "deleted":
        shutil.rmtree(chosen)
        return f"{chosen.relative_to(run.parent)} deleted"
    files = sorted(path for path in chosen.rglob("*") if path.is_file() and path.stat().st_size)
    # large files hold the arrays: every second time one of them
    file = draw.choices(files, [path.stat().st_size for path in files])[0] if draw.random() < 0.5 else draw.choice(files)
    size, where = file.stat().st_size, file.relative_to(run.parent)
    if kind == "truncated":
        length = draw.randrange(size)
        os.truncate(file, length)
        return f"{where} cut to {length} of {size} bytes"
    at, bit = draw.randrange(size), draw.randrange(8)
    with open(file, "r+b") as content:
        content.seek(at)
        old = content.read(1)[0]
        content.seek(at)
        content.write(bytes([old ^ (1 << bit)]))
    return f"{where}: bit {bit} of byte {at} of {size} flipped"
