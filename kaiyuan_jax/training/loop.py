"""Trains one experiment: the run folder in, the run folder out, whatever happened to the process in between.

A step is dispatched before the metrics of the one before are read, so the devices never wait for the host. Where a checkpoint or an
evaluation is due the loop first reads everything up to that step, writes its lines, evaluates, and saves last: a checkpoint therefore
implies all the lines before it.

    run folder: config.json  plan.txt  tokenizer.json  metrics.jsonl  tensorboard/  checkpoints/<step>/
                schedule.json or .csv and law.json, copies, where the config names such files
"""

import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data import loader, order, recipe
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.models import decoder, flops
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.sharding import chips, rules
from kaiyuan_jax.sharding import mesh as meshes
from kaiyuan_jax.training import branch, checkpoint, failure, metrics, resume, state, step


@dataclasses.dataclass(frozen=True)
class Result:
    folder: Path
    step: int  # updates done
    steps: int  # of the whole run

    @property
    def finished(self) -> bool:
        return self.step == self.steps


def train(experiment: Experiment, devices=None, page: str = "") -> Result:
    """Runs or resumes an experiment to its last step, or to the step at which SIGTERM or Ctrl-C arrives, on all devices or those given.

    `page` is kept in the run folder as plan.txt. Raises ConfigError before any work when the experiment does not fit the machine, the
    stores or what the run folder holds, and failure.NonFiniteError when loss, gradient or weights stop being finite.
    """
    stores = loader.open_stores(experiment.data)
    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    mesh = meshes.make_mesh(experiment.mesh, devices)
    _check(experiment, stores, mesh)
    schedule = schedules.build(experiment.schedule, plan.steps, batch_size=plan.batch_size, sequence_length=plan.sequence_length)
    optimizer = adamw.build(experiment.optimizer, schedule)
    fresh = not branch.begun(experiment)
    if found := branch.problems(experiment, plan):
        raise ConfigError("\n".join(found))
    loader.verify(experiment.data, stores)  # the slow check last
    evaluate = _evaluator(experiment, stores[0].fingerprint, mesh)
    abstract = state.abstract(experiment, optimizer, mesh)
    data_order = resume.order_of(plan, stores)
    keep = max(experiment.checkpoint.keep, experiment.averaging.last if experiment.averaging.kind != "none" else 1)

    with contextlib.ExitStack() as stack:
        main = jax.process_index() == 0
        folder = stack.enter_context(resume.session(experiment, writes=main))
        stop = stack.enter_context(_stop_signals())
        if main:
            resume.write_text(folder / "plan.txt", page)
            resume.write_text(folder / "tokenizer.json", Path(stores[0].folder, "tokenizer.json").read_text(encoding="utf-8"))
        checkpoints = stack.enter_context(contextlib.closing(checkpoint.Checkpoints(folder / "checkpoints", keep)))
        if fresh and (parent := branch.parent_of(experiment)):
            if main:
                branch.begin(folder, parent, experiment.checkpoint.every, keep, data_order)
            multihost_utils.sync_global_devices("branch")  # the others look for the checkpoint next
            _say(f"{folder}: the first {parent.step} steps are those of {parent.folder}")
        begin, progress = (checkpoints.steps() or [0])[-1], {}
        if begin:
            progress = checkpoint.progress(checkpoints.folder / str(begin))
            resume.check_order(folder, progress["order"], data_order)
            if begin >= plan.steps:
                _say(f"{folder}: finished before, at step {begin}; nothing to do")
                return Result(folder, begin, plan.steps)
            train_state = checkpoints.restore(begin, abstract)
            _say(f"{folder}: resuming from step {begin} of {plan.steps}")
        else:
            train_state = state.create(experiment, optimizer, mesh)
        rates_T = _rates(schedule, plan.steps, mesh)
        update = _compile(experiment, mesh, abstract, rates_T)
        run = stack.enter_context(contextlib.closing(_Run(experiment, plan, stores, schedule, checkpoints, begin, progress, mesh)))
        rows, masked = rules.process_rows(mesh, plan.batch_size), experiment.data.mask_documents
        reader = loader.batches(plan, stores, rows=rows, start_step=begin, mask_documents=masked, prefetch=experiment.data.prefetch)
        batches = stack.enter_context(contextlib.closing(reader))
        for done in range(begin + 1, plan.steps + 1):
            train_state, measured = update(train_state, _put(next(batches), mesh, rows, plan.batch_size), rates_T)
            run.read()  # of the step before, while the devices compute this one
            run.pending = done, measured
            last, stopping = done == plan.steps, stop.is_set()
            evaluating = last or (experiment.evaluation.every and done % experiment.evaluation.every == 0)
            saving = last or stopping or done % experiment.checkpoint.every == 0
            if evaluating or saving:
                run.read()
                run.check(done, train_state)
            if evaluating and evaluate:
                run.heldout(done, evaluate, train_state.params)
            if saving:
                run.save(done, train_state, data_order)
            if stopping and not last:
                checkpoints.wait()
                run.bar.clear()
                _say(f"{stop.reason}: saved step {done} of {plan.steps} in {folder}; resume with the same command")
                return Result(folder, done, plan.steps)
    _say(f"{folder}: finished, {plan.steps} steps, {plan.tokens:,} tokens")
    return Result(folder, plan.steps, plan.steps)


class _Run:
    """The host's side of the loop: what was measured, seen and written."""

    def __init__(self, experiment, plan, stores, schedule, checkpoints: checkpoint.Checkpoints, begin: int, progress: dict, mesh):
        self.experiment, self.plan, self.stores, self.schedule, self.checkpoints = experiment, plan, stores, schedule, checkpoints
        self.folder = Path(experiment.folder)
        self.pending = None  # (step, metrics on the devices) not yet read
        self.seen = metrics.Seen(plan.sources, progress.get("seen"))
        self.largest = metrics.Largest(progress.get("largest"))
        self.clock = metrics.Clock(progress.get("seconds", 0.0))
        self.main = jax.process_index() == 0
        self.log = metrics.Log(self.folder, begin, experiment.logging.tensorboard) if self.main else None
        self.bar = tqdm(total=plan.steps, initial=begin, unit="step", disable=None if self.main else True, dynamic_ncols=True)
        peak = chips.peak_flops(mesh.devices.flat[0].device_kind)
        per_token = flops.per_token(experiment.model, plan.sequence_length)
        self.flops_share = per_token / (peak * mesh.size) if peak else None  # MFU of one token per second
        self.line_step, self.last, self.measured = begin, {}, {}

    def read(self) -> None:
        """Reads the pending metrics, which blocks until their step is computed; writes a line where one is due."""
        if self.pending is None:
            return
        (done, measured), self.pending = self.pending, None
        self.measured = measured = jax.device_get(measured)
        if not measured["finite"]:
            self._fail(done)
        rows = order.batch(self.plan, done - 1)
        if not measured["skipped"]:
            self.seen.add(rows, measured["loss_B"])
        self.largest.add(measured["statistics"])
        self.bar.update()
        if self.main and (done % self.experiment.logging.every == 0 or done == self.plan.steps):
            self._line(done, measured, self.plan.phases[int(rows.phase[-1])].name)

    def _fail(self, done: int) -> None:
        self.checkpoints.wait()  # so that the last good checkpoint is on disk, and named
        raise failure.non_finite(done, self.measured, self.plan, self.stores, self.folder)

    def _line(self, done: int, measured: dict, phase: str) -> None:
        seen, seconds = self.seen.take(), self.clock.lap()
        speed = (done - self.line_step) * self.plan.batch_size * self.plan.sequence_length / seconds
        self.line_step = done
        line = {
            **({"loss": seen.pop("loss")} if seen else {}),
            "learning_rate": float(self.schedule(done - 1)),
            "gradient_norm": None if measured["skipped"] else float(measured["gradient_norm"]),
            "tokens_per_second": speed,
            **({"mfu": speed * self.flops_share} if self.flops_share else {}),
            "position": self.plan.skipped + done * self.plan.batch_size,
            "phase": phase,
            "seconds": self.clock.seconds,
            **seen,
            **self.largest.take(),
        }
        if scaling := measured["loss_scale"]:
            line |= {"loss_scale": float(scaling.scale), "skipped": int(scaling.skipped), "nonfinite_loss": int(scaling.nonfinite_loss)}
        self.log.write(done, line)
        self.last = {"loss": math.nan} | line
        skipped = f" skipped {line['skipped']}" if line.get("skipped") else ""
        said = f"loss {self.last['loss']:.3f} lr {line['learning_rate']:.2e} {speed:,.0f} tokens/s{skipped}"
        self.bar.set_postfix_str(said, refresh=False)

    def check(self, done: int, now: state.TrainState) -> None:
        """Stops the run where weights after step `done` are not finite, so that none such is evaluated or saved."""
        if not state.finite((now.params, now.average)):
            self._fail(done)

    def heldout(self, done: int, evaluate, params) -> None:
        with self.clock.paused():
            losses = evaluate(params)
        if self.main:
            line = {f"heldout/{source}": value for source, value in losses.items()}
            self.log.write(done, line | {"heldout/mean": float(np.mean(list(losses.values())))})

    def save(self, done: int, now: state.TrainState, data_order: dict) -> None:
        with self.clock.paused():
            if self.main:
                self.log.sync()
            progress = {
                "step": done,
                "position": self.plan.skipped + done * self.plan.batch_size,
                "seconds": self.clock.seconds,
                "seen": self.seen.state(),
                "largest": self.largest.state(),
                "order": data_order,
            }
            self.checkpoints.save(done, now, progress)
        if self.bar.disable and self.last:
            left = self.clock.seconds / done * (self.plan.steps - done)
            _say(
                f"step {done}/{self.plan.steps}  loss {self.last['loss']:.3f}  lr {self.last['learning_rate']:.2e}  "
                f"{self.last['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left"
            )

    def close(self) -> None:
        self.bar.close()
        if self.log:
            self.log.close()


def _check(experiment: Experiment, stores, mesh) -> None:
    largest = max(store.vocabulary for store in stores)
    if largest > experiment.model.vocabulary:
        raise ConfigError(f"config.model.vocabulary: found {experiment.model.vocabulary}, the stores' tokenizer needs {largest} or more")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = experiment.data.batch_size // experiment.optimizer.accumulation
    if rows % shards:
        raise ConfigError(
            f"config.data.batch_size: {experiment.data.batch_size} rows in {experiment.optimizer.accumulation} micro-batches give {rows} "
            f"rows at a time, must be a multiple of the {shards} devices along mesh axes data and fsdp"
        )


def _evaluator(experiment: Experiment, fingerprint: str, mesh):
    stores = heldout.open_stores(experiment, fingerprint)
    return heldout.make_evaluator(experiment, stores, rules.placement(mesh, experiment.kernels)) if stores else None


def _compile(experiment: Experiment, mesh, abstract: state.TrainState, rates_T: jax.Array):
    """The compiled step, so that compilation is in no line's speed and its errors come before the first batch."""
    begin = time.perf_counter()
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    batch = dict.fromkeys(step.BATCH_KEYS, jax.ShapeDtypeStruct(shape, np.int32, sharding=rules.batch_sharding(mesh, 2)))
    compiled = step.build(experiment, graphdef, mesh, abstract).lower(abstract, batch, rates_T).compile()
    _say(f"train step compiled in {time.perf_counter() - begin:.1f} s")
    return compiled


def _rates(schedule, steps: int, mesh) -> jax.Array:
    """float32[T], the rate of every update as the host computes it, on every device."""
    rates = schedule(np.arange(steps))
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec()), rates, rates.shape)


def _put(batch: dict, mesh, rows, batch_size: int) -> dict:
    """This process's rows as global arrays."""
    return rules.global_batch({key: batch[key] for key in step.BATCH_KEYS}, mesh, rows, batch_size)


class _Stop(threading.Event):
    reason = ""


@contextlib.contextmanager
def _stop_signals():
    """An event that SIGTERM and the first Ctrl-C set; the second Ctrl-C interrupts at once."""
    stop = _Stop()

    def handle(number, frame):
        stop.reason = signal.Signals(number).name
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():  # signals cannot be caught there
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stdout, flush=True)
