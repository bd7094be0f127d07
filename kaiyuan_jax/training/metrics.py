"""What a run says about itself: metrics.jsonl, TensorBoard and a progress bar.

A training line at step `s` describes the state after `s` updates and averages over the steps since the last line:

    loss, loss/<source>                nats per token (mean over rows)
    learning_rate, gradient_norm       of the last of these steps (the norm before clipping)
    tokens_per_second, mfu             wall time without evaluation and compilation; mfu = model FLOPs / peak of the devices in bf16,
                                       causal attention halved, no recomputation; absent where the device's peak is not known
    position, phase                    next row of the data; phase of the last row read
    seconds                            training time of the whole run so far, resumed or not
    input_wait                         seconds a step for which the host that waits longest waited for its batch
    longest_step                       seconds between two steps, the most since the last line, evaluation and saving included
    straggler, straggler_seconds       of several processes: whose host took longest before a step, and how much longer than the median of
                                       the others, seconds a step
    mixture/, pass/, quantile/<source> share of the rows, mean pass number (0 is the first), mean quality quantile of what was seen

in float16 also (optimizers/loss_scale.py), the means above being over the updates that were made, and absent where there was none:

    loss_scale                         factor of the objective at the next step
    skipped, nonfinite_loss            updates skipped in the run so far; those of them whose loss already was not finite

and where the step measures them (models/statistics.py; `config.logging.statistics`, or float16), largest since the last line:

    largest/<tensor>                   absolute value over all layers; largest_by_layer/<tensor> is the list; null where not finite
    headroom                           bits left below float16's largest number, the least over layers and tensors in the compute dtype

Held-out lines carry `heldout/<source>` and `heldout/mean`, and under `heldout_average/` the same of the running average once there is one.
The line of a step that diverged and was left out carries `diverged` (why), `left_out` (first and last step) and `documents` (a file).

Sums since the last line are part of every checkpoint and lines beyond the checkpoint are cut when a run resumes, so the lines of a killed
and resumed run are those of an uninterrupted one, but for what a clock measured (`CLOCKED`).
"""

import contextlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kaiyuan_jax import json_text, storage
from kaiyuan_jax.config import has_type
from kaiyuan_jax.models.headroom import headroom

CLOCKED = ("seconds", "tokens_per_second", "mfu", "input_wait", "longest_step", "straggler", "straggler_seconds")


class Seen:
    """Sums over the steps since the last metrics line, by source."""

    def __init__(self, sources: tuple[str, ...], sums: dict | None = None):
        self.sources = sources
        # one row per source: rows, loss, pass, quantile
        self._sums = np.zeros((len(sources), 4)) if sums is None else np.array(sums["by_source"], dtype=np.float64)

    def add(self, rows, loss_B: np.ndarray) -> None:
        """Counts one batch: `rows` as `data.order.batch` gives them, `loss_B` the mean loss of each row."""
        for column, values in enumerate((None, loss_B, rows.pass_, rows.quantile)):
            self._sums[:, column] += np.bincount(rows.source, weights=values, minlength=len(self.sources))

    def state(self) -> dict:
        """JSON-able; give it back as `sums`."""
        return {"by_source": self._sums.tolist()}

    def take(self) -> dict[str, float]:
        """The line's values, none where no batch was counted; starts again from zero."""
        rows, sums = self._sums[:, 0], self._sums
        if not rows.any():
            return {}
        line = {"loss": sums[:, 1].sum() / rows.sum()}
        for i, source in enumerate(self.sources):
            line[f"mixture/{source}"] = rows[i] / rows.sum()
            if rows[i]:
                line |= {f"{name}/{source}": sums[i, column] / rows[i] for column, name in ((1, "loss"), (2, "pass"), (3, "quantile"))}
        self._sums = np.zeros_like(self._sums)
        return {key: float(value) for key, value in line.items()}


class Largest:
    """Largest absolute values by tensor and layer over the steps since the last metrics line."""

    def __init__(self, values: dict[str, list] | None = None):
        self._values = {name: np.array([np.inf if v is None else v for v in by_layer]) for name, by_layer in (values or {}).items()}

    def add(self, measured: dict[str, np.ndarray]) -> None:
        """Takes one step's values, [N] or []; what is not a number counts as infinite."""
        for name, value in measured.items():
            value = np.nan_to_num(np.atleast_1d(np.asarray(value, np.float64)), nan=np.inf, posinf=np.inf)
            self._values[name] = np.maximum(self._values.get(name, 0.0), value)

    def state(self) -> dict[str, list]:
        """JSON-able, with null for infinity, every bit of the rest; give it back as `values`."""
        return {name: [float(v) if math.isfinite(v) else None for v in by_layer] for name, by_layer in self._values.items()}

    def rounded(self) -> dict[str, list]:
        """As people read it: five digits."""
        return {name: [v if v is None else float(f"{v:.5g}") for v in by_layer] for name, by_layer in self.state().items()}

    def take(self) -> dict:
        """The line's values, none where nothing was measured; starts again from nothing."""
        if not self._values:
            return {}
        bits = headroom(self._values)
        line: dict = {"headroom": bits if math.isfinite(bits) else None}
        for name, by_layer in self.rounded().items():
            line[f"largest/{name}"] = None if None in by_layer else max(by_layer)
            if len(by_layer) > 1:
                line[f"largest_by_layer/{name}"] = by_layer
        self._values = {}
        return line


class Hosts:
    """What the hosts took of each step since the last metrics line."""

    def __init__(self, process_of: list[int]):
        """process_of: number of the process that each device of the mesh belongs to, in the mesh's order."""
        _, self._first = np.unique(process_of, return_index=True)
        self._begin()

    def _begin(self) -> None:
        self._steps, self._sums, self._marked, self._longest = 0, np.zeros((2, self._first.size)), time.perf_counter(), 0.0

    def add(self, waits: np.ndarray, busy: np.ndarray) -> None:
        """Takes one step's seconds by device, as they are read."""
        now = time.perf_counter()
        self._longest, self._marked = max(self._longest, now - self._marked), now
        self._steps += 1
        self._sums += np.stack([waits, busy])[:, self._first]

    def take(self) -> dict:
        """The line's values; starts again from zero."""
        waits, busy = self._sums / max(self._steps, 1)
        line = {"input_wait": float(waits.max()), "longest_step": self._longest}
        if busy.size > 1:
            slowest = int(busy.argmax())
            line |= {"straggler": slowest, "straggler_seconds": float(busy[slowest] - np.median(np.delete(busy, slowest)))}
        self._begin()
        return line


class Clock:
    """Seconds of training, which stand still inside `with clock.paused():`."""

    def __init__(self, seconds: float = 0.0):
        self._begin = time.perf_counter() - seconds
        self._marked = seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = self.seconds
        lap, self._marked = now - self._marked, now
        return lap

    @contextlib.contextmanager
    def paused(self):
        stopped = time.perf_counter()
        yield
        self._begin += time.perf_counter() - stopped


class Log:
    """metrics.jsonl and TensorBoard of one run folder; lines after `step` are cut first, a new board is given those that stay.

    Nothing can be appended to a file of an object store: there the lines are written on this machine and put whole by `sync` and `close`.
    """

    def __init__(self, folder: str | Path, step: int, tensorboard: bool):
        self._folder = folder = storage.path(folder)
        self._spool = tempfile.TemporaryDirectory(prefix="kaiyuan_jax_lines_") if storage.is_remote(folder) else None
        here = Path(self._spool.name) if self._spool else folder
        self._path = here / "metrics.jsonl"
        if self._spool and (folder / "metrics.jsonl").exists():
            storage.copy(folder / "metrics.jsonl", self._path)
        truncate(self._path, step)
        self._file = open(self._path, "a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            begun = bool(storage.names(folder / "tensorboard"))
            self._board = SummaryWriter(str(here / "tensorboard"), purge_step=step + 1, max_queue=50)
            for line in [] if begun else read(self._path):  # taken over from another run, or written before there was a board
                self._show(line.pop("step"), line)

    def write(self, step: int, values: dict) -> None:
        """One line; numbers also go to TensorBoard."""
        self._file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")
        self._file.flush()
        self._show(step, values)

    def lines(self) -> list[dict]:
        """All lines so far."""
        return read(self._path)

    def _show(self, step: int, values: dict) -> None:
        if self._board:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Puts the lines where they stay, before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())
        if self._spool:
            if self._board:
                self._board.flush()
            storage.copy(self._spool.name, self._folder)

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()
        if self._spool:
            storage.copy(self._spool.name, self._folder)
            self._spool.cleanup()


def truncate(path: Path, step: int) -> None:
    """Cuts lines of later steps, and a last line that a kill left unfinished, off a local file."""
    if path.exists():
        with open(path, "rb+") as file:
            file.truncate(_until(step, file))


def copy(source: Path, target: Path, step: int) -> None:
    """The lines of another run up to a step, as the beginning of a new file; local or remote."""
    content = storage.read(source)
    storage.replace(target, content[: _until(step, io.BytesIO(content))])


def read(path: str | Path) -> list[dict]:
    """Every line of a metrics.jsonl, local or remote, but those that a broken disk or an editor has spoiled."""
    return [line for text in storage.read(storage.path(path)).splitlines() if (line := _line(text))]


def _line(text: bytes) -> dict | None:
    """The values of a line, with a step among them; None where it is no such line."""
    try:
        line = json_text.parse(text)
    except json_text.JSONError:
        return None
    return line if isinstance(line, dict) and has_type(line.get("step"), int) else None


def _until(step: int, lines: Iterable[bytes]) -> int:
    """Bytes of the complete lines up to a step; a line that cannot be read ends them, as one cut short does."""
    kept = 0
    for text in lines:
        line = _line(text)
        if not text.endswith(b"\n") or line is None or line["step"] > step:
            break
        kept += len(text)
    return kept
