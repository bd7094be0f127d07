"""A population that goes on from another one's checkpoint: what members have in common is trained once.

A schedule whose first k rates are those of another gives, from the same seed and data, the same first k updates. So a new population may
begin with rows of the other's stacked checkpoint after update k, weights, moments and all, in any order and any number of times. `begin`
writes them into the new folder as its first checkpoint, with the metrics so far; `train` goes on from there like from one of its own.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from kaiyuan_jax import storage
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.experiments.population import members, program
from kaiyuan_jax.experiments.population.trained import Population
from kaiyuan_jax.schedules import build
from kaiyuan_jax.training import checkpoint, resume
from kaiyuan_jax.training.checkpoints import Checkpoints


def begin(experiments: Sequence[Experiment], folder, trunk: Population, step: int, rows: Sequence[int]) -> None:
    """Gives `folder` the checkpoint after update `step`, in which member i is row `rows[i]` of the trunk; nothing where it has one.

    Raises ConfigError where a member differs from its row in more than the rates after `step`, or the trunk has no such checkpoint.
    """
    folder = Path(folder)
    if checkpoint.steps(folder / "checkpoints"):
        return
    group, theirs = members.resolve(experiments), members.resolve(trunk.members)
    _check(group, theirs, step, rows)
    if step not in trunk.steps:
        raise ConfigError(f"{trunk.folder}: no checkpoint {step}; it has {', '.join(map(str, trunk.steps)) or 'none'}")
    laid = program.layout(1, jax.devices()[:1])
    with contextlib.closing(Checkpoints(trunk.folder / "checkpoints", theirs.first.checkpoint, len(trunk.steps))) as stacked:
        restored, progress = stacked.restore(step, program.abstract(theirs.first, len(theirs), laid.everywhere))
    taken = jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf)[np.array(rows)], restored), laid.everywhere)
    for row, name in zip(rows, group.names, strict=True):
        storage.make_folder(folder / "metrics")
        storage.copy(trunk.folder / "metrics" / f"{theirs.names[row]}.jsonl", folder / "metrics" / f"{name}.jsonl")
    told = {key: [progress[key][row] for row in rows] for key in ("seen", "diverged")} | {"step": step, "order": group.orders()}
    with contextlib.closing(Checkpoints(folder / "checkpoints", group.first.checkpoint)) as own:
        own.save_now(step, taken, told)


def _check(group: members.Members, theirs: members.Members, step: int, rows: Sequence[int]) -> None:
    if len(rows) != len(group):
        raise ConfigError(f"rows: found {len(rows)}, must be one of the trunk's members for each of the {len(group)} that go on")
    free = (*resume.FREE, r"schedule\..*")
    for experiment, plan, row, mine in zip(group.experiments, group.plans, rows, group.rates(), strict=True):
        if not 0 <= row < len(theirs):
            raise ConfigError(f"rows: found {row} for member {experiment.name}, the trunk has members 0 to {len(theirs) - 1}")
        parent, shared = theirs.experiments[row], np.arange(step)
        if lines := resume.changes(parent, experiment, free):
            raise ConfigError("\n".join(f"member {experiment.name} cannot go on from {parent.name}: {line}" for line in lines))
        if plan != theirs.plans[row]:
            raise ConfigError(f"member {experiment.name} cannot go on from {parent.name}: their stores give other data")
        different = build.first_difference(mine(shared), theirs.rates()[row](shared))
        if different is not None:
            why = f"their rates differ from update {different} on, before {step}"
            raise ConfigError(f"member {experiment.name} cannot go on from {parent.name}: {why}")
