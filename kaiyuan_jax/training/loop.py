"""Trains one experiment: the run folder in, the run folder out, whatever happened to the process in between.

A step is dispatched before the metrics of the one before are read, so the devices never wait for the host. Where a checkpoint or an
evaluation is due the loop first reads everything up to that step, writes its lines, evaluates, and saves last: a checkpoint therefore
implies all the lines before it.

    run folder: config.json  plan.txt  tokenizer.json  metrics.jsonl  tensorboard/  checkpoints/<step>/
                schedule.json or .csv and law.json, copies, where the config names such files
"""

import contextlib
import dataclasses
from pathlib import Path

import jax

from kaiyuan_jax import storage
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.sharding import processes
from kaiyuan_jax.training import branch, checkpoint, divergence, preemption, resume, start, state, step
from kaiyuan_jax.training.checkpoints import Checkpoints
from kaiyuan_jax.training.feed import Feed
from kaiyuan_jax.training.job import Job, prepare, say
from kaiyuan_jax.training.record import Record


@dataclasses.dataclass(frozen=True)
class Result:
    folder: Path
    step: int  # updates done
    steps: int  # of the whole run

    @property
    def finished(self) -> bool:
        return self.step == self.steps


def train(experiment: Experiment, devices=None, page: str = "") -> Result:
    """Runs or resumes an experiment to its last step, or to the step at which it is told to stop, on all devices or those given.

    `page` is kept in the run folder as plan.txt. Raises ConfigError before any work when the experiment does not fit the machine, the
    stores or what the run folder holds, and failure.DivergedError as config.health.divergence says.
    """
    fresh = processes.agree(not branch.begun(experiment))  # asked of all before one begins to write
    job = prepare(experiment, devices)
    keep = max(experiment.checkpoint.keep, experiment.averaging.last if experiment.averaging.kind != "none" else 1)
    with contextlib.ExitStack() as stack:
        main = jax.process_index() == 0
        folder = stack.enter_context(resume.session(experiment, writes=main))
        stop = stack.enter_context(preemption.listening())
        if main:
            storage.replace(folder / "plan.txt", page)
            storage.replace(folder / "tokenizer.json", Path(job.stores[0].folder, "tokenizer.json").read_text(encoding="utf-8"))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder / "checkpoints", experiment.checkpoint, keep)))
        if fresh and (parent := branch.parent_of(experiment)):
            if main:
                branch.begin(folder, parent, experiment.checkpoint.every, keep, job.order)
            processes.barrier()  # the others look for the checkpoint next
            say(f"{folder}: the first {parent.step} steps are those of {parent.folder}")
        now, progress, known = _begun(job, checkpoints)
        if (begin := progress.get("step", 0)) >= job.plan.steps:
            say(f"{folder}: finished before, at step {begin}; nothing to do")
            return Result(folder, begin, job.plan.steps)
        while True:
            try:
                done = _steps(job, checkpoints, stop, now, progress, known)
                break
            except divergence.BackOff:
                pass
            now, progress, known = _begun(job, checkpoints)  # here the state that diverged has gone with the exception
        checkpoints.wait()
    if done < job.plan.steps:
        reason = preemption.REASONS[stop.agreed]
        say(f"{reason}: saved step {done} of {job.plan.steps} in {folder}; resume with the same command")
    else:
        say(f"{folder}: finished, {job.plan.steps} steps, {job.plan.tokens:,} tokens")
    return Result(folder, done, job.plan.steps)


def _steps(job: Job, checkpoints: Checkpoints, stop: preemption.Stop, now: state.TrainState, progress: dict, known: list) -> int:
    """Trains on from what `_begun` returned, and returns the step at which it was saved last."""
    begin, update, rates_T, last = progress.get("step", 0), job.update, job.rates_T, job.plan.steps
    every, evaluating_every = job.experiment.checkpoint.every, job.experiment.evaluation.every
    with contextlib.closing(Record(job, checkpoints, begin, progress, known)) as record, contextlib.closing(Feed(job, begin)) as feed:
        for done in range(begin + 1, last + 1):
            batch, waited = feed.next()
            now, measured = update(now, batch, rates_T, step.said(job.mesh, stop.flag, waited, record.divergences.ceiling(done)))
            record.read()  # of the step before, while the devices compute this one
            record.add(done, measured)
            evaluating = done == last or (evaluating_every and done % evaluating_every == 0)
            saving = done == last or record.flag or done % every == 0
            if evaluating or saving:
                record.read()
                record.check(done, now)
            if evaluating and job.evaluate:
                record.heldout(done, now.params)
            if saving:
                record.save(done, now)
            if record.flag and saving:
                stop.agreed = record.flag
                return done
    return last


def _begun(job: Job, checkpoints: Checkpoints) -> tuple[state.TrainState, dict, list[divergence.Divergence]]:
    """The state of the newest checkpoint, or a new one; what was counted since the last metrics line; the divergences so far."""
    known = divergence.read(job.folder)
    listed = divergence.Divergences(job.experiment.health, known)
    while (found := checkpoints.newest(job.abstract)) is not None:
        restored, progress = found
        if progress.get("left_out", []) == listed.left_out(progress["step"]):
            resume.check_order(job.folder, progress["order"], job.order)
            if progress["step"] < job.plan.steps:
                say(f"{job.folder}: resuming from step {progress['step']} of {job.plan.steps}")
            return restored, progress, known
        del found, restored  # made with a batch that has since been found to diverge
        if processes.index() == 0:
            checkpoint.delete(checkpoints.folder / str(progress["step"]))
        processes.barrier()
    if job.experiment.start:
        created, whence = start.begin(job.experiment, job.optimizer, job.mesh)
        say(f"{job.folder}: {whence}")
        return created, {}, known
    return state.create(job.experiment, job.optimizer, job.mesh), {}, known
