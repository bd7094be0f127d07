"""Trains one experiment: the run folder in, the run folder out, whatever happened to the process in between.

A step is dispatched before the metrics of the one before are read, so the devices never wait for the host. Where a checkpoint or an
evaluation is due the loop first reads everything up to that step, writes its lines, evaluates, and saves last: a checkpoint therefore
implies all the lines before it.

    run folder: config.json  plan.txt  tokenizer.json  metrics.jsonl  tensorboard/  checkpoints/<step>/
                schedule.json or .csv and law.json, copies, where the config names such files
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

import jax

from kaiyuan_jax import storage
from kaiyuan_jax.averaging import online
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.sharding import processes
from kaiyuan_jax.training import branch, divergence, preemption, resume, start, state, step
from kaiyuan_jax.training.checkpoints import Checkpoints
from kaiyuan_jax.training.feed import Feed
from kaiyuan_jax.training.job import Job, prepare, say
from kaiyuan_jax.training.record import Record
from kaiyuan_jax.training.watchdog import Watchdog


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
        watched = Watchdog(folder, experiment.health.timeout, processes.index(), processes.count())
        watch = stack.enter_context(contextlib.closing(watched))
        now, progress, known = _begun(job, checkpoints)
        if (begin := progress.get("step", 0)) >= job.plan.steps:
            say(f"{folder}: finished before, at step {begin}; nothing to do")
            return Result(folder, begin, job.plan.steps)
        while True:
            try:
                done = _steps(job, checkpoints, stop, watch, now, progress, known)
                break
            except divergence.BackOff:
                watch.beat("restore", 0)
            now, progress, known = _begun(job, checkpoints)  # here the state that diverged has gone with the exception
    if done < job.plan.steps:
        say(f"{stop.agreed}: saved step {done} of {job.plan.steps} in {folder}; resume with the same command")
        if stop.flag and (seconds := time.monotonic() - stop.since) > experiment.checkpoint.grace:
            took = f"saving took {seconds:.0f} s of the {experiment.checkpoint.grace:g} s of config.checkpoint.grace"
            print(f"warning: {took}; copies between checkpoints (config.checkpoint.local) or faster storage", file=sys.stderr)
    else:
        say(f"{folder}: finished, {job.plan.steps} steps, {job.plan.tokens:,} tokens")
    return Result(folder, done, job.plan.steps)


def _steps(job: Job, checkpoints: Checkpoints, stop: preemption.Stop, watch: Watchdog, now, progress: dict, known: list) -> int:
    """Trains on from what `_begun` returned, and returns the step at which it was saved last."""
    begin, update, rates_T, last = progress.get("step", 0), job.update, job.rates_T, job.plan.steps
    settings, evaluating_every = job.experiment.checkpoint, job.experiment.evaluation.every
    processes.barrier()  # all have compiled: the first step waits for nobody, so that the watchdog may count its seconds
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(contextlib.closing(Record(job, checkpoints, begin, progress, known)))
        feed = stack.enter_context(contextlib.closing(Feed(job, begin)))
        if progress.get("owed") and job.evaluate and not record.evaluated(begin):
            watch.beat("evaluate", begin)
            record.heldout(begin, now.params, job.average_of(now, begin))
        for done in range(begin + 1, last + 1):
            watch.beat("read a batch", done)
            batch, waited = feed.next()
            host = dict(wait=waited, busy=time.perf_counter() - record.idle, failed=checkpoints.failed)
            said = step.said(job.mesh, flag=stop.flag, ceiling=record.divergences.ceiling(done), **host)
            watch.beat("step", done)
            now, measured = update(now, batch, rates_T, said)
            record.read()  # of the step before, while the devices compute this one
            record.add(done, measured)
            evaluating = done == last or (evaluating_every and done % evaluating_every == 0)
            ending = done == last or record.flag
            saving = ending or record.failed or done % settings.every == 0
            copying = settings.local_every and done % settings.local_every == 0 and not saving
            if evaluating or saving or copying:
                record.read()
                record.check(done, now)
            owed = bool(evaluating and ending and done < last)  # a stop has no time for it: the next session begins with it
            if evaluating and job.evaluate and not owed:
                watch.beat("evaluate", done)
                record.heldout(done, now.params, job.average_of(now, done))
            if copying:
                record.save(done, now, checkpoints.save_local)
            if saving:
                watch.beat("save", done)
                record.save(done, now, checkpoints.save_now if ending or record.failed else checkpoints.save, owed)
                record.failed = False
                record.report(done)
            if ending:
                stop.agreed = preemption.REASONS[record.flag]
                return done


def _begun(job: Job, checkpoints: Checkpoints) -> tuple[state.TrainState, dict, list[divergence.Divergence]]:
    """The state of the newest checkpoint, or a new one; what was counted since the last metrics line; the divergences so far."""
    known = divergence.agreed(job.folder)
    listed = divergence.Divergences(job.experiment.health, known)
    while (found := checkpoints.newest(job.abstract)) is not None:
        restored, progress = found
        made, left_out = progress.get("left_out", []), listed.left_out(progress["step"])
        divergence.check(job.folder, left_out, made, progress["step"])
        if made == left_out:
            resume.check_order(job.folder, progress["order"], job.order)
            if progress["step"] < job.plan.steps:
                say(f"{job.folder}: resuming from step {progress['step']} of {job.plan.steps}")
            return _with_average(job, restored, progress), progress, known
        say(f"{job.folder}: checkpoint {progress['step']} was made with batches that have since been left out; deleted")
        del found, restored
        checkpoints.discard(progress["step"])
    if job.experiment.start:
        created, whence = start.begin(job.experiment, job.optimizer, job.mesh)
        say(f"{job.folder}: {whence}")
        return created, {}, known
    return state.create(job.experiment, job.mesh), {}, known


def _with_average(job: Job, restored: state.TrainState, progress: dict) -> state.TrainState:
    """The same, with room for the average of a window that has not begun.

    Raises ConfigError for a window that has begun otherwise, or would have begun already.
    """
    averaging, steps = job.experiment.averaging, job.plan.steps
    if not averaging.online_every:
        return restored
    now, was = online.describe(averaging, steps), progress.get("window")
    if progress["step"] >= now["points"][0] and now != was:
        before = f"of {len(was['points'])} points from step {was['points'][0]}" if was else "of no points"
        raise ConfigError(
            f"config.averaging: the run in {job.folder} stands at step {progress['step']} with an average {before}; the window given has "
            f"begun at step {now['points'][0]}: give the settings the run began it with, or an online_every small enough to begin later"
        )
    if jax.tree.leaves(restored.average):
        return restored
    shardings = jax.tree.map(lambda leaf: leaf.sharding, job.abstract.average)
    return dataclasses.replace(restored, average=jax.jit(online.init, out_shardings=shardings)(restored.params))
