"""Runs that share their first steps: a run may take them from another instead of computing them again.

`config.branch` names a checkpoint of a run, its parent, such as runs/constant/checkpoints/400. The new run folder gets the parent's lines
and checkpoints up to that step, and from there on everything is an ordinary resume. That is right only where the new run would have come
to the same weights by itself, so all that decides them must be equal: the config apart from the schedule, the order of the data, and the
rates of the first 400 updates, as the float32 numbers that the updates are made with. The end of the schedule is what may differ: many
decays from one constant run cost one constant run.

Checkpoints are hard links to the parent's, which cost no space and stay when the parent is deleted; on another file system, and in an
object store, copies. Once the new run has a checkpoint the branch is history: nothing asks for the parent again, and config.json goes on
naming it.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np

from kaiyuan_jax import config, storage
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.training import divergence, metrics, resume, saved

FREE = (*resume.FREE, r"schedule\..*")


@dataclasses.dataclass(frozen=True)
class Parent:
    """Where a run branches off: the folder of the other run, and the step."""

    folder: Path
    step: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / str(self.step)

    def taken_over(self, every: int) -> list[int]:
        """Checkpoints of the parent that a run which saves `every` so many steps would have made too, and the one it branches off."""
        there = saved.steps(self.folder / "checkpoints")
        return [step for step in there if step == self.step or (step < self.step and step % every == 0)]


def begun(experiment: Experiment) -> bool:
    """Whether the run has checkpoints of its own, so that it resumes from them whatever `config.branch` says."""
    return bool(saved.steps(f"{experiment.folder}/checkpoints"))


def parent_of(experiment: Experiment) -> Parent | None:
    """What `config.branch` names, and for a run that has begun what its config.json names; None where that is empty.

    Raises `ConfigError` when it has not the form of a checkpoint of a run. Whether that is there is asked by `problems`.
    """
    name = resume.origin(storage.path(experiment.folder), experiment) if begun(experiment) else experiment.branch
    if not name:
        return None
    path = storage.path(name)
    if path.parent.name != "checkpoints" or not path.name.isdigit():
        raise ConfigError(f"config.branch: found {name!r}, must be a checkpoint such as runs/x/checkpoints/400")
    return Parent(path.parent.parent, int(path.name))


def problems(experiment: Experiment, plan: Plan) -> list[str]:
    """Why the run cannot take its first steps from the run that `config.branch` names, one line each; empty if it can, or if it did."""
    if begun(experiment):
        return []
    try:
        parent = parent_of(experiment)
    except ConfigError as error:
        return [str(error)]
    if parent is None:
        return []
    there = saved.steps(parent.checkpoint.parent)
    if parent.step not in there or not (parent.folder / "config.json").is_file():
        return [
            f"config.branch: no run with the checkpoint {experiment.branch}; {parent.checkpoint.parent} has "
            f"{', '.join(map(str, there)) or 'none'}. Leave it empty to train from the first step"
        ]
    before = config.read(parent.folder / "config.json")
    if lines := resume.changes(before, experiment, FREE):
        return [f"config.branch: {parent.folder} is another experiment; of what decides the weights only the schedule may differ", *lines]
    if parent.step >= plan.steps:
        return [f"config.branch: found step {parent.step:,}, must be below the {plan.steps:,} steps of this run"]
    sizes = dict(batch_size=plan.batch_size, sequence_length=plan.sequence_length)
    felt, planned = (schedules.build(one.schedule, plan.steps, **sizes)(np.arange(parent.step)) for one in (before, experiment))
    at = schedules.first_difference(felt, planned)
    if at is not None:
        return [
            f"config.branch: the weights of {parent.checkpoint} have felt another schedule: at step {at:,} the rate was {felt[at]!s}, "
            f"this run plans {planned[at]!s}. The first {parent.step:,} rates must be equal; branch off at step {at:,} or before, or "
            f"design the schedule with --from_step={parent.step} --history={parent.folder}"
        ]
    return []


def begin(folder: Path, parent: Parent, every: int, keep: int, data_order: dict) -> None:
    """Puts the parent's metrics and the newest `keep` of `Parent.taken_over(every)` into a run folder that has no checkpoints.

    A parent that is still training may delete an older one meanwhile, which is then left out. Raises `ConfigError` when the parent read
    its data in another order or deletes the checkpoint to branch off, `checkpoint.CheckpointError` when that is incomplete.
    """
    from kaiyuan_jax.training import checkpoint  # imports jax, which `problems` does without

    order = checkpoint.progress(parent.checkpoint)["order"]
    resume.check_order(parent.folder, order, data_order, "branch off a run over the same stores, or leave config.branch empty")
    if (parent.folder / "metrics.jsonl").exists():
        metrics.copy(parent.folder / "metrics.jsonl", folder / "metrics.jsonl", parent.step)
    divergence.write(folder, [one for one in divergence.read(parent.folder) if one.step <= parent.step])
    # Ascending, so that whatever a kill leaves here is a run that stands at an earlier of these steps.
    for step in parent.taken_over(every)[-keep:]:
        source, target = parent.folder / "checkpoints" / str(step), folder / "checkpoints" / str(step)
        if storage.is_remote(source) or storage.is_remote(target):
            _copy(source, target)
            continue
        linked = target.with_name(f"{step}{checkpoint.UNFINISHED}-branch")
        try:
            shutil.copytree(source, linked, copy_function=_link)
        except (FileNotFoundError, shutil.Error):
            if source.exists():
                raise
        if source.exists():  # deletion renames a checkpoint first, so all of it was there
            os.replace(linked, target)
        else:
            shutil.rmtree(linked, ignore_errors=True)
    if parent.step not in saved.steps(folder / "checkpoints"):
        raise ConfigError(f"config.branch: {parent.checkpoint} was deleted while this run took it over; branch off one that is kept")


def _copy(source, target) -> None:
    """A complete checkpoint as a complete one, its marker last, or what deletion leaves of it as nothing."""
    storage.make_folder(target.parent)
    try:
        storage.copy(source, target, last=saved.COMPLETE)
    except FileNotFoundError:
        if (source / saved.COMPLETE).exists():
            raise
    if not (source / saved.COMPLETE).exists():  # deletion takes the marker first, so all of it was there while that is
        storage.delete(target, first=saved.COMPLETE)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
