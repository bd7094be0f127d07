"""The host's side of a run: what was measured, seen and written.

The metrics of a step are read while the devices compute the next one. `read` blocks until they are there, counts them, and writes a line
where one is due; what the sums since the last line are travels with every checkpoint, so that a resumed run goes on counting.
"""

import math
import time
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

from kaiyuan_jax.averaging import online
from kaiyuan_jax.data import order
from kaiyuan_jax.models import flops
from kaiyuan_jax.sharding import chips, processes
from kaiyuan_jax.training import divergence, failure, metrics, state, step
from kaiyuan_jax.training.checkpoints import Checkpoints
from kaiyuan_jax.training.job import Job, say


class Record:
    """What one session of a run has measured, from the step it begins at."""

    def __init__(self, job: Job, checkpoints: Checkpoints, begin: int, progress: dict, known: list[divergence.Divergence]):
        """known: the divergences of the run so far."""
        experiment, plan = job.experiment, job.plan
        self.job, self.checkpoints = job, checkpoints
        self.flag = 0  # of training/preemption.py, the largest of all processes at the last step that was read
        self.failed = False  # whether one of them could not write a checkpoint
        self.idle = time.perf_counter()  # since when the host is not waiting for the devices
        self._pending = None  # (step, metrics on the devices) not yet read
        self.divergences = divergence.Divergences(experiment.health, known, progress.get("recent"))
        self._seen = metrics.Seen(plan.sources, progress.get("seen"))
        self._largest = metrics.Largest(progress.get("largest"))
        self._hosts = metrics.Hosts([device.process_index for device in job.mesh.devices.flat])
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
        self.idle = time.perf_counter()
        rows = order.batch(self.job.plan, done - 1)
        if self.divergences.leaves_out(done):
            self._say_left_out(done)
        elif not measured["finite"] or measured["above"]:
            self._diverged(done, weights=False)
        elif not measured["skipped"]:
            self._seen.add(rows, measured["loss_B"])
            self.divergences.count(done, float(measured["objective"]))
        self._largest.add(measured["statistics"])
        self.bar.update()
        said = measured["said"]
        self.flag, self.failed = int(said[:, step.FLAG].max()), bool(said[:, step.FAILED].any())
        self._hosts.add(said[:, step.WAIT], said[:, step.BUSY])
        if done % self.job.experiment.logging.every == 0 or done == self.job.plan.steps:
            self._line(done, measured, self.job.plan.phases[int(rows.phase[-1])].name)

    def _diverged(self, done: int, weights: bool) -> None:
        """Does what the config says of a divergence. Raises failure.DivergedError or divergence.BackOff, or goes on."""
        about = self._measured, self.job.plan, self.job.stores, self.job.folder
        before, why = len(self.divergences.found), divergence.reason(self._measured, weights)
        if self._main:
            failure.write_documents(done, *about)
        found = self.divergences.add(done, self._measured, self.job.experiment.checkpoint.every, weights)
        self.checkpoints.wait()  # so that the last good checkpoint is on disk, and named
        if found is None:
            raise failure.diverged(done, why, before, *about)
        if self._main:
            divergence.write(self.job.folder, self.divergences.found)
        processes.barrier()  # the others read it next
        first, last = found.left_out
        batches = f"batch {last}" if first == last else f"batches {first} to {last}"
        self.bar.clear()
        say(f"step {done}: {why}; {batches} left out, see {self.job.folder / f'diverged_{done}.json'}")
        if weights or self.job.experiment.health.divergence == "back_off":
            raise divergence.BackOff
        self._say_left_out(done)

    def _say_left_out(self, done: int) -> None:
        if found := self.divergences.at(done):
            self._write(done, {"diverged": found.why, "left_out": list(found.left_out), "documents": f"diverged_{done}.json"})

    def _line(self, done: int, measured: dict, phase: str) -> None:
        seen, seconds = self._seen.take(), self._clock.lap()
        speed = (done - self._line_step) * self.job.plan.batch_size * self.job.plan.sequence_length / seconds
        self._line_step = done
        line = {
            **({"loss": seen.pop("loss")} if seen else {}),
            "learning_rate": float(self.job.schedule(done - 1)),
            "gradient_norm": float(measured["gradient_norm"]) if np.isfinite(measured["gradient_norm"]) else None,
            "tokens_per_second": speed,
            **({"mfu": speed * self._flops_share} if self._flops_share else {}),
            "position": self.job.plan.skipped + done * self.job.plan.batch_size,
            "phase": phase,
            "seconds": self._clock.seconds,
            **self._hosts.take(),
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
        """Looks at the weights after step `done`, so that none that are not finite are evaluated or saved."""
        if not state.finite((now.params, now.average)):
            self._diverged(done, weights=True)

    def heldout(self, done: int, params, average) -> None:
        """Writes the held-out losses of the weights after update `done`, and of their running average where there is one."""
        line = {}
        with self._clock.paused():
            for name, weights in (("heldout", params), ("heldout_average", average)):
                if weights:
                    losses = self.job.evaluate(weights)
                    line |= {f"{name}/{source}": value for source, value in losses.items()}
                    line[f"{name}/mean"] = float(np.mean(list(losses.values())))
        self._write(done, line)

    def evaluated(self, step: int) -> bool:
        """Whether the held-out losses after update `step` are among the lines; the same on every process."""
        return processes.agree(bool(self._log and any(line["step"] == step and "heldout/mean" in line for line in self._log.lines())))

    def save(self, done: int, now: state.TrainState, write: Callable[[int, state.TrainState, dict], None], owed: bool = False) -> None:
        """Gives `write` the state after update `done` and what the sums since the last line are, once every line before is on disk.

        owed: the evaluation of this step is left to the session that goes on from here.
        """
        with self._clock.paused():
            if self._log:
                self._log.sync()
            progress = {
                "step": done,
                "position": self.job.plan.skipped + done * self.job.plan.batch_size,
                "seconds": self._clock.seconds,
                "seen": self._seen.state(),
                "largest": self._largest.state(),
                "window": online.describe(self.job.experiment.averaging, self.job.plan.steps),
                "recent": self.divergences.recent(),
                "left_out": self.divergences.left_out(done),
                "owed": owed,
                "order": self.job.order,
            }
            write(done, now, progress)

    def report(self, done: int) -> None:
        """A line for a user without a progress bar."""
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
