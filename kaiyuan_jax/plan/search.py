"""The fastest way to use a machine that fits in its memory, and what a setting needs and gives: by arithmetic, hundreds in a second.

Only what changes no number of the run is searched: mesh, micro-batches, recomputation. Batch size, sequence length and precision stay.
A setting is taken for one that fits while its estimate leaves `memory.MARGIN` of the memory free. Settings are ranked by the time of a
step in which nothing overlaps (plan/speed.py); among those within 1% of the fastest the one that needs least memory wins.
"""

import dataclasses
import functools
from collections.abc import Collection

from kaiyuan_jax.config import Experiment
from kaiyuan_jax.plan import memory, setting, speed
from kaiyuan_jax.plan.setting import Setting
from kaiyuan_jax.sharding import topology


@dataclasses.dataclass(frozen=True)
class Found:
    """A setting on a target, by arithmetic."""

    target: topology.Target
    setting: Setting
    bytes: dict[str, float]  # of a device, by category
    speed: speed.Speed

    @property
    def needed(self) -> float:
        return sum(self.bytes.values())

    @property
    def available(self) -> float:
        return self.target.chip.memory / self.target.chip.devices

    @property
    def fits(self) -> bool:
        return self.needed <= (1 - memory.MARGIN) * self.available


def look(experiment: Experiment, target: topology.Target, one: Setting) -> Found:
    """What a setting needs and gives."""
    return Found(target, one, memory.estimate(experiment, one, target.platform), speed.estimate(experiment, one, target))


def best(experiment: Experiment, target: topology.Target, without: Collection[Setting] = ()) -> Found | None:
    """The fastest setting that fits, but for those that are known not to; None where none does."""
    sized = functools.partial(memory.estimate, experiment, platform=target.platform)
    limit = (1 - memory.MARGIN) * target.chip.memory / target.chip.devices
    able = (one for one in setting.all_of(experiment, target) if one.fits_batch(experiment) and one not in without)
    fitting = [one for one in able if sum(sized(one).values()) <= limit]
    found = [look(experiment, target, one) for one in fitting]
    if not found:
        return None
    fastest = min(one.speed.serial for one in found)
    return min((one for one in found if one.speed.serial <= 1.01 * fastest), key=lambda one: one.needed)


def smallest(experiment: Experiment, target: topology.Target) -> Found | None:
    """The setting that needs least memory, whether it fits or not; None where the batch cannot be cut over the devices."""
    ways = [one for one in setting.all_of(experiment, target) if one.fits_batch(experiment)]
    return min((look(experiment, target, one) for one in ways), key=lambda one: one.needed, default=None)
