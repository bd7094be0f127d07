"""Steps that diverge, and what becomes of the run: `config.health.divergence`.

A step diverges when its loss or gradient is not finite, when its objective is above `health.spike` times the median of recent ones, or when
the weights it left are not finite. Then

    stop      the run ends (failure.DivergedError)
    skip      this update is left out and the run goes on with the next batch
    back_off  the run goes back to where its last regular checkpoint was due and leaves out every batch from there to this one

Weights that are not finite cannot be repaired by leaving one update out: the run then backs off under `skip` too. After `health.limit`
divergences it ends. Each is written to divergences.json in the run folder before anything else is done about it, with the batches left
out, and every process that trains this run again leaves out the same: weights after step s depend on the config, on the batches left out
up to s, and on nothing else. A checkpoint names those it was made without, so that one of before a divergence was known is not used.
A batch that is left out is read and measured like any other; its update is not made, its loss is not counted.

The ceiling of step s is made of the objectives of steps s - 65 to s - 2, what every host has surely read when it dispatches s, so it does
not depend on when they are read either.
"""

import dataclasses
import json
import math
import statistics
import typing
from pathlib import Path

import numpy as np

from kaiyuan_jax import json_text, storage
from kaiyuan_jax.config import ConfigError, Health, has_type, not_of_type

FILE = "divergences.json"
RECENT, FEWEST = 64, 16  # steps the median is of, and how many of them there must be


class BackOff(Exception):
    """The run goes on from its newest checkpoint that was made without the batches now left out."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    step: int  # update that diverged, from 1
    why: str
    objective: float | None  # None where it is not finite
    gradient_norm: float | None
    left_out: tuple[int, int]  # updates that are not made, first and last


def read(folder: Path) -> list[Divergence]:
    """The divergences of the run in a folder so far; raises ConfigError for a file that is not one of ours."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        found = _of(json_text.parse(path.read_bytes()))
        for name, kind in typing.get_type_hints(Divergence).items():
            if wrong := [one for one in found if not has_type(getattr(one, name), kind)]:
                raise ValueError(f"{name}: {not_of_type(getattr(wrong[0], name), kind)}")
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: does not list divergences ({error}); put back the file that the run wrote") from None


def agreed(folder: Path) -> list[Divergence]:
    """What process 0 reads, on all processes, whatever their file systems remember of the folder."""
    from kaiyuan_jax.sharding import processes  # brings jax, which a plan does without

    return _of(processes.agree([dataclasses.asdict(one) for one in read(folder)] if processes.index() == 0 else None))


def _of(entries: list[dict]) -> list[Divergence]:
    return [Divergence(**entry | {"left_out": tuple(entry["left_out"])}) for entry in entries]


def check(folder: Path, listed: list[list[int]], made: list[list[int]], step: int) -> None:
    """Raises ConfigError where the checkpoint of a step was made without batches (`made`, as `left_out`) that are not in the record."""
    if lost := [part for part in made if part not in listed]:
        raise ConfigError(
            f"{folder / FILE}: does not name the batches {lost}, first and last, without which checkpoint {step} was made; put back the "
            "file that the run wrote, or give a new --config.output"
        )


def write(folder: Path, found: list[Divergence]) -> None:
    if not found and not (folder / FILE).exists():
        return
    storage.replace(folder / FILE, json.dumps([dataclasses.asdict(one) for one in found], indent=1) + "\n")


class Divergences:
    """What diverged in a run so far, and the objectives of recent steps."""

    def __init__(self, health: Health, found: list[Divergence], recent: list | None = None):
        self.health, self.found = health, found
        self._recent = {int(step): value for step, value in recent or []}

    def recent(self) -> list[list]:
        """JSON-able: the objectives that `ceiling` may still ask for; give it back as `recent`."""
        return [[step, value] for step, value in self._recent.items()]

    def left_out(self, upto: int) -> list[list[int]]:
        """JSON-able: the updates of steps 1 to `upto` that are not made, as [first, last]."""
        parts = [[first, min(last, upto)] for first, last in (one.left_out for one in self.found) if first <= upto]
        return sorted(parts)

    def leaves_out(self, step: int) -> bool:
        return any(first <= step <= last for first, last in (one.left_out for one in self.found))

    def at(self, step: int) -> Divergence | None:
        """The divergence of this step, if it is a known one."""
        return next((one for one in self.found if one.step == step), None)

    def ceiling(self, step: int) -> float:
        """What the objective of a step may be: -inf for one that is left out, inf for no limit."""
        if self.leaves_out(step):
            return -math.inf
        recent = [value for at, value in self._recent.items() if step - 1 - RECENT <= at <= step - 2]
        if not self.health.spike or len(recent) < FEWEST:
            return math.inf
        return self.health.spike * statistics.median(recent)

    def count(self, step: int, objective: float) -> None:
        """Takes the objective of a step whose update was made."""
        self._recent[step] = objective
        for old in [at for at in self._recent if at < step - RECENT - 1]:
            del self._recent[old]

    def add(self, step: int, measured: dict, every: int, weights: bool) -> Divergence | None:
        """Takes up a divergence; None where the run has to end. `every`: steps between checkpoints; `weights`: they are what diverged.

        The batches left out depend on `every` alone, not on which checkpoints there happen to be.
        """
        if self.health.divergence == "stop" or len(self.found) >= self.health.limit:
            return None
        back = weights or self.health.divergence == "back_off"
        first = (step - 1) // every * every + 1 if back else step
        numbers = [float(measured[name]) if np.isfinite(measured[name]) else None for name in ("objective", "gradient_norm")]
        self.found.append(Divergence(step, reason(measured, weights), *numbers, (first, step)))
        return self.found[-1]


def reason(measured: dict, weights: bool) -> str:
    """What is wrong with a step, in three words."""
    if weights:
        return "weights not finite"
    if not np.isfinite(measured["objective"]):
        return "loss not finite"
    return "loss spiked" if measured["finite"] else "gradient not finite"
