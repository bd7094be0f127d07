"""The host's side of a run: what was measured, seen and written.

The metrics of a step are read while the devices compute the next one. `read` blocks until they are there, counts them, and writes a line
where one is due; what the sums since the last line are travels with every checkpoint, so that a resumed run goes on counting.
"""

import math

import jax
import numpy as np
from tqdm import tqdm

from kaiyuan_jax.data import order
from kaiyuan_jax.models import flops
from kaiyuan_jax.sharding import chips
from kaiyuan_jax.training import failure, metrics, state, step
from kaiyuan_jax.training.checkpoints import Checkpoints
from kaiyuan_jax.training.job import Job, say


class Record:
    """What one session of a run has measured, from the step it begins at."""

    def __init__(self, job: Job, checkpoints: Checkpoints, begin: int, progress: dict):
        experiment, plan = job.experiment, job.plan
        self.job, self.checkpoints = job, checkpoints
        self.flag = 0  # of training/preemption.py, the largest of all processes at the last step that was read
        self._pending = None  # (step, metrics on the devices) not yet read
        self._seen = metrics.Seen(plan.sources, progress.get("seen"))
        self._largest = metrics.Largest(progress.get("largest"))
        self._clock = metrics.Clock(progress.get("seconds", 0.0))
        self._main = jax.process_index() == 0
        self._log = metrics.Log(job.folder, begin, experiment.logging.tensorboard) if self._main else None
        self.bar = tqdm(total=plan.steps, initial=begin, unit="step", disable=None if self._main else True, dynamic_ncols=True)
        peak = chips.peak_flops(job.mesh.devices.flat[0].device_kind)
        per_token = flops.per_token(experiment.model, plan.sequence_length)
        self._flops_share = per_token / (peak * job.mesh.size) if peak else None  # MFU of one token per second
        self._line_step, self._last, self._measured = begin, {}, {}

    def add(self, done: int, measured: dict) -> None:
        """The metrics of update `done`, still on the devices; `read` was called for the one before."""
        self._pending = done, measured

    def read(self) -> None:
        """Reads the pending metrics, which blocks until their step is computed; writes a line where one is due."""
        if self._pending is None:
            return
        (done, measured), self._pending = self._pending, None
        self._measured = measured = jax.device_get(measured)
        if not measured["finite"]:
            self._fail(done)
        rows = order.batch(self.job.plan, done - 1)
        if not measured["skipped"]:
            self._seen.add(rows, measured["loss_B"])
        self._largest.add(measured["statistics"])
        self.bar.update()
        self.flag = int(measured["said"][:, step.FLAG].max())
        if done % self.job.experiment.logging.every == 0 or done == self.job.plan.steps:
            self._line(done, measured, self.job.plan.phases[int(rows.phase[-1])].name)

    def _fail(self, done: int) -> None:
        self.checkpoints.wait()  # so that the last good checkpoint is on disk, and named
        raise failure.non_finite(done, self._measured, self.job.plan, self.job.stores, self.job.folder)

    def _line(self, done: int, measured: dict, phase: str) -> None:
        seen, seconds = self._seen.take(), self._clock.lap()
        speed = (done - self._line_step) * self.job.plan.batch_size * self.job.plan.sequence_length / seconds
        self._line_step = done
        line = {
            **({"loss": seen.pop("loss")} if seen else {}),
            "learning_rate": float(self.job.schedule(done - 1)),
            "gradient_norm": None if measured["skipped"] else float(measured["gradient_norm"]),
            "tokens_per_second": speed,
            **({"mfu": speed * self._flops_share} if self._flops_share else {}),
            "position": self.job.plan.skipped + done * self.job.plan.batch_size,
            "phase": phase,
            "seconds": self._clock.seconds,
            **seen,
            **self._largest.take(),
        }
        if scaling := measured["loss_scale"]:
            line |= {"loss_scale": float(scaling.scale), "skipped": int(scaling.skipped), "nonfinite_loss": int(scaling.nonfinite_loss)}
        self._write(done, line)
        self._last = {"loss": math.nan} | line
        skipped = f" skipped {line['skipped']}" if line.get("skipped") else ""
        said = f"loss {self._last['loss']:.3f} lr {line['learning_rate']:.2e} {speed:,.0f} tokens/s{skipped}"
        self.bar.set_postfix_str(said, refresh=False)

    def _write(self, done: int, line: dict) -> None:
        if self._log:
            self._log.write(done, line)

    def check(self, done: int, now: state.TrainState) -> None:
        """Stops the run where weights after step `done` are not finite, so that none such is evaluated or saved."""
        if not state.finite((now.params, now.average)):
            self._fail(done)

    def heldout(self, done: int, params) -> None:
        """Writes the held-out losses after update `done`."""
        with self._clock.paused():
            losses = self.job.evaluate(params)
        line = {f"heldout/{source}": value for source, value in losses.items()}
        self._write(done, line | {"heldout/mean": float(np.mean(list(losses.values())))})

    def save(self, done: int, now: state.TrainState) -> None:
        """Starts to write the checkpoint after update `done`, and every line up to it."""
        with self._clock.paused():
            if self._log:
                self._log.sync()
            progress = {
                "step": done,
                "position": self.job.plan.skipped + done * self.job.plan.batch_size,
                "seconds": self._clock.seconds,
                "seen": self._seen.state(),
                "largest": self._largest.state(),
                "order": self.job.order,
            }
            self.checkpoints.save(done, now, progress)
        if self.bar.disable and self._last:
            left = self._clock.seconds / done * (self.job.plan.steps - done)
            say(
                f"step {done}/{self.job.plan.steps}  loss {self._last['loss']:.3f}  lr {self._last['learning_rate']:.2e}  "
                f"{self._last['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left"
            )

    def close(self) -> None:
        self.bar.close()
        if self._log:
            self._log.close()
