"""What training a population costs, said before it starts.

    tokens = sum over members of steps x rows x length        operations = tokens x models.flops.per_token

Seconds come from a measurement: a few steps of this very population, compiled and timed on the devices that will train it.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from kaiyuan_jax.config import Experiment
from kaiyuan_jax.experiments.population import members, program
from kaiyuan_jax.experiments.population.feed import Feed
from kaiyuan_jax.models import flops


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of all members together; held-out losses, checkpoints and compilation are not counted."""

    members: int
    tokens: int
    flops: float
    seconds_per_token: float | None = None  # None: not measured

    @property
    def seconds(self) -> float | None:
        return None if self.seconds_per_token is None else self.tokens * self.seconds_per_token

    def __str__(self) -> str:
        said = f"{self.members} members, {self.tokens:,} tokens, {self.flops:.3g} floating-point operations"
        if self.seconds is None:
            return said
        return f"{said}, about {self.seconds / 60:,.1f} min of training at {1 / self.seconds_per_token:,.0f} tokens/s (measured)"


def predict_cost(experiments: Sequence[Experiment], *, timed_steps: int = 0, devices=None, at_once: int = 0) -> Cost:
    """The cost of `train` with these members; with `timed_steps` seconds too, from that many steps. Raises ConfigError as `train` does."""
    group = members.resolve(experiments)
    tokens = [plan.tokens for plan in group.plans]
    operations = sum(n * flops.per_token(one.model, one.data.sequence_length) for n, one in zip(tokens, group.experiments, strict=True))
    measured = _measured(group, timed_steps, devices, at_once) if timed_steps else None
    return Cost(len(group), sum(tokens), operations, measured)


def _measured(group: members.Members, count: int, devices, at_once: int) -> float:
    """Seconds a token, the median of `count` steps; the one before them is not timed."""
    laid, first = program.layout(len(group), devices, at_once), group.first
    feed = Feed(group, laid, 0)
    batch = feed.next()
    feed.close()
    now = program.create(first, [one.seed for one in group.experiments], laid)
    diverged_P, rates_PT = laid.put(np.zeros(len(group), np.int32)), laid.put(np.zeros((len(group), group.steps), np.float32))
    decay_P, update = laid.put(np.zeros(len(group), np.float32)), program.update(first, laid, group.steps)
    seconds = []
    for number in range(count + 1):
        begin = time.perf_counter()
        now, diverged_P, _ = jax.block_until_ready(update(now, diverged_P, batch, rates_PT, decay_P, np.int32(number)))
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:])) / (len(group) * first.data.batch_size * first.data.sequence_length)
