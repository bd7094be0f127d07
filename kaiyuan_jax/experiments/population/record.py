"""What a population writes while it trains: `metrics/<name>.jsonl` of every member, and `speed.jsonl` of all together.

A member's line at step s: loss and loss/<source> (mean over the rows since the last line, nats per token), learning_rate and gradient_norm
of the last of these steps, tokens (of this member so far), mixture/, pass/ and quantile/<source> as training/metrics.py has them. Held-out
lines carry heldout/<source> and heldout/mean, null for a member that has diverged. The line of the update at which it diverged carries
`diverged`; it has no losses after that. Nothing in them is from a clock, so that a killed and resumed population writes the same lines.
"""

import json
import math
import os
import time

import jax
import numpy as np
from tqdm import tqdm

from kaiyuan_jax import storage
from kaiyuan_jax.data import order
from kaiyuan_jax.experiments.population.members import Members
from kaiyuan_jax.training import metrics


class Record:
    """The host's side of one session, from step `begin` on; lines after it are cut."""

    def __init__(self, members: Members, folder, begin: int, progress: dict):
        self.members, self.diverged = members, list(progress.get("diverged", [0] * len(members)))
        self._rates = members.rates()
        seen = progress.get("seen", [None] * len(members))
        self._seen = [metrics.Seen(plan.sources, sums) for plan, sums in zip(members.plans, seen, strict=True)]
        storage.make_folder(folder / "metrics")
        paths = [*(folder / "metrics" / f"{name}.jsonl" for name in members.names), folder / "speed.jsonl"]
        for path in paths:
            metrics.truncate(path, begin)
        *self._files, self._speed = [open(path, "a", encoding="utf-8") for path in paths]
        self._begin, self._pending = (time.perf_counter(), begin), None
        self.bar = tqdm(total=members.steps, initial=begin, desc=f"{len(members)} members", unit="step", disable=None, dynamic_ncols=True)

    def add(self, done: int, measured: dict) -> None:
        """The metrics of update `done`, still on the devices; `read` was called for the one before."""
        self._pending = done, measured

    def read(self) -> None:
        """Reads the pending metrics, which blocks until their step is computed; writes lines where they are due."""
        if self._pending is None:
            return
        (done, measured), self._pending = self._pending, None
        measured, rows = jax.device_get(measured), {}
        for i, plan in enumerate(self.members.plans):
            if not self.diverged[i] and not measured["finite"][i]:
                self._diverge(i, done, "loss or gradient is not finite")
            if not self.diverged[i] and not measured["skipped"][i]:
                if id(plan) not in rows:
                    rows[id(plan)] = order.batch(plan, done - 1)
                self._seen[i].add(rows[id(plan)], measured["loss_B"][i])
        self.bar.update()
        if done % self.members.first.logging.every == 0 or done == self.members.steps:
            self._lines(done, measured)

    def overflowed(self, done: int, finite_M: np.ndarray) -> None:
        """Marks members whose weights are no longer finite although loss and gradient were."""
        for i in np.flatnonzero(~finite_M):
            if not self.diverged[i]:
                self._diverge(int(i), done, "weights are not finite")

    def heldout(self, done: int, losses_M: list[dict[str, float]]) -> None:
        """Writes the held-out losses of all members after update `done`, nats per token by source."""
        for i, losses in enumerate(losses_M):
            values = losses | {"mean": float(np.mean(list(losses.values())))}
            marked = {"diverged": self.diverged[i]} if self.diverged[i] else {}
            self._write(i, done, {f"heldout/{source}": None if marked else value for source, value in values.items()} | marked)

    def progress(self, done: int) -> dict:
        """What a checkpoint after update `done` says of the record, once all lines are on disk."""
        for file in (*self._files, self._speed):
            os.fsync(file.fileno())
        return {"step": done, "seen": [seen.state() for seen in self._seen], "diverged": self.diverged}

    def close(self) -> None:
        self.bar.close()
        for file in (*self._files, self._speed):
            file.close()

    def _diverge(self, i: int, done: int, why: str) -> None:
        self.diverged[i] = done
        self._write(i, done, {"diverged": done, "why": why})
        tqdm.write(f"{self.members.names[i]}: step {done}: {why}; its weights stay as they were, the others go on")

    def _lines(self, done: int, measured: dict) -> None:
        losses = []
        for i, (plan, seen) in enumerate(zip(self.members.plans, self._seen, strict=True)):
            if self.diverged[i]:
                continue
            values, norm = seen.take(), float(measured["gradient_norm"][i])
            losses += [values["loss"]] if values else []
            line = {
                **({"loss": values.pop("loss")} if values else {}),
                "learning_rate": float(self._rates[i](done - 1)),
                "gradient_norm": norm if math.isfinite(norm) else None,
                "tokens": done * plan.batch_size * plan.sequence_length,
                **values,
            }
            self._write(i, done, line)
        now, plan, (before, since) = time.perf_counter(), self.members.plans[0], self._begin
        speed = len(self.members) * (done - since) * plan.batch_size * plan.sequence_length / (now - before)
        self._begin = now, done
        self._speed.write(json.dumps({"step": done, "tokens_per_second": speed}) + "\n")
        self._speed.flush()
        said = f"loss {min(losses):.3f} to {max(losses):.3f}, " if losses else ""
        self.bar.set_postfix_str(f"{said}{speed:,.0f} tokens/s", refresh=False)

    def _write(self, i: int, done: int, line: dict) -> None:
        self._files[i].write(json.dumps({"step": done, **line}, ensure_ascii=False) + "\n")
        self._files[i].flush()
