"""Runs that share their first steps: a run may take them from another instead of computing them again.

`config.branch` names a checkpoint of a run, its parent, such as runs/constant/checkpoints/400. The new run folder gets the parent's lines
and checkpoints up to that step, and from there on everything is an ordinary resume. That is right only where the new run would have come
to the same weights by itself, so all that decides them must be equal: the config apart from the schedule, the order of the data, and the
rates of the first 400 updates. The end of the schedule is what may differ: many decays from one constant run cost one constant run.

Checkpoints are hard links to the parent's, which cost no space and stay when the parent is deleted; on another file system, copies.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.training import metrics, resume

FREE = (*resume.FREE, r"schedule\..*")
SAME = 1e-6  # rates this near one another, relatively, differ by rounding to float32 alone


@dataclasses.dataclass(frozen=True)
class Parent:
    """Where a run branches off: the folder of the other run, and the step."""

    folder: Path
    step: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / str(self.step)


def parent_of(experiment: Experiment) -> Parent | None:
    """What `config.branch` names; None where it is empty. Raises `ConfigError` when that is no checkpoint of a run."""
    if not experiment.branch:
        return None
    path = Path(experiment.branch)
    folder = path.parent.parent
    if path.parent.name != "checkpoints" or not path.name.isdigit():
        raise config.ConfigError(f"config.branch: found {experiment.branch!r}, must be a checkpoint such as runs/x/checkpoints/400")
    if not path.is_dir() or not (folder / "config.json").is_file():
        there = sorted(int(p.name) for p in path.parent.glob("*") if p.name.isdigit())
        raise config.ConfigError(
            f"config.branch: no run with the checkpoint {experiment.branch}; {path.parent} has {', '.join(map(str, there)) or 'none'}. "
            "Leave it empty to train from the first step"
        )
    return Parent(folder, int(path.name))


def problems(experiment: Experiment, plan: Plan) -> list[str]:
    """Why the run cannot take its first steps from the run that `config.branch` names, one line each; empty if it can."""
    try:
        parent = parent_of(experiment)
    except config.ConfigError as error:
        return [str(error)]
    if parent is None:
        return []
    before = config.read(parent.folder / "config.json")
    if lines := resume.changes(before, experiment, FREE):
        return [f"config.branch: {parent.folder} is another experiment; of what decides the weights only the schedule may differ", *lines]
    if parent.step >= plan.steps:
        return [f"config.branch: found step {parent.step:,}, must be below the {plan.steps:,} steps of this run"]
    sizes = dict(batch_size=plan.batch_size, sequence_length=plan.sequence_length)
    felt, planned = (schedules.build(one.schedule, plan.steps, **sizes)(np.arange(parent.step)) for one in (before, experiment))
    other = np.flatnonzero(~np.isclose(felt, planned, rtol=SAME, atol=0))
    if other.size:
        at = other[0]
        return [
            f"config.branch: the weights of {parent.checkpoint} have felt another schedule: at step {at:,} the rate was {felt[at]:.6g}, "
            f"this run plans {planned[at]:.6g}. The first {parent.step:,} rates must be equal; branch off at step {at:,} or before, or "
            f"design the schedule with --from_step={parent.step} --history={parent.folder}"
        ]
    return []


def begin(folder: Path, parent: Parent, keep: int, data_order: dict) -> None:
    """Puts the parent's metrics and its newest `keep` checkpoints up to the step into a run folder that has none.

    Raises `ConfigError` when the parent read its data in another order, `checkpoint.CheckpointError` when that checkpoint is incomplete.
    """
    from kaiyuan_jax.training import checkpoint  # imports jax, which `problems` does without

    order = checkpoint.progress(parent.checkpoint)["order"]
    resume.check_order(parent.folder, order, data_order, "branch off a run over the same stores, or leave config.branch empty")
    if (parent.folder / "metrics.jsonl").exists():
        metrics.copy(parent.folder / "metrics.jsonl", folder / "metrics.jsonl", parent.step)
    # Ascending, so that whatever a kill leaves here is a run that stands at an earlier of these steps.
    for step in [step for step in checkpoint.steps(parent.folder / "checkpoints") if step <= parent.step][-keep:]:
        target = folder / "checkpoints" / str(step)
        linked = target.with_name(f"{step}{checkpoint.UNFINISHED}-branch")
        shutil.copytree(parent.folder / "checkpoints" / str(step), linked, copy_function=_link)
        os.replace(linked, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
