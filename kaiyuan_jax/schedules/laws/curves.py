"""A loss curve and the learning-rate schedule that made it: what every law is fitted to and tested on.

Step t of a schedule is update t, counted from 0, and `rates[t]` is its rate. A loss at step s is of the weights that have felt the updates
0 to s, so a law sums the rates 0 to s, the last included (the convention of the released curves of 2503.12811). A line of our own
metrics at "step" n is of the weights after n updates: that is s = n - 1 here.

A file is a CSV or a Parquet with columns step, lr, loss, at any stride. The whole schedule behind it is given, or rebuilt from the lr
column (rebuild.py); lr may be missing where it is given. What no law could use is refused: NaN, losses that are not positive, steps
that repeat or decrease, a schedule that is not the one of the lr column. What makes a fit doubtful is said (`doubts`).
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.file import MOST_STEPS
from kaiyuan_jax.schedules.laws import rebuild

FAR = 2.5  # times the longest training curve, in steps or summed rate: beyond, a prediction is an extrapolation
TESTED = 3  # times: the released curves of 72,000 steps after training on 24,000 (docs/results/robust.md)
_OF_PROGRESS = ("L0", "A", "alpha", "c1", "s")  # parameters that a constant rate shows, by the names of the laws
ROWS_A_BYTE = 4  # of a Parquet file of ascending steps
_SAME_RATE = 1e-6  # of the peak: rates are logged as float32 or with so many digits


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One run as a law sees it."""

    name: str
    steps: np.ndarray  # int64[E], ascending, each in [0, len(rates))
    losses: np.ndarray  # float64[E], nats per token unless the file says otherwise
    rates: np.ndarray  # float64[T], the learning rate of every update of the whole schedule
    warmup: int  # updates before the first at the peak; 0 without a warm-up
    path: str = ""
    checksum: str = ""  # sha256 of the file


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What a file says: a loss at some steps, and the rate there."""

    name: str
    steps: np.ndarray  # int64[E]
    losses: np.ndarray  # float64[E]
    rates: np.ndarray | None  # float64[E]
    path: str = ""
    checksum: str = ""


def read(path: str | Path, *, loss: str = "loss", needs_rates: bool = True) -> Samples:
    """The samples of a CSV or Parquet file, checked; `loss` names the column. Raises UserError."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); must be a CSV or .parquet with columns step, lr, {loss}") from None
    wanted = ("step", "lr", loss)
    columns = _parquet(content, path, wanted) if path.suffix == ".parquet" else _csv(content, path, wanted)
    missing = [name for name in wanted if name not in columns and (needs_rates or name != "lr")]
    if missing:
        found = ", ".join(columns) or "none"
        raise UserError(f"{path}: found columns {found}, must have step, lr and {loss}; {missing[0]} is missing")
    numbers = {name: _numbers(path, name, columns[name]) for name in wanted if name in columns}
    samples = Samples(path.stem, numbers["step"], numbers[loss], numbers.get("lr"), str(path), hashlib.sha256(content).hexdigest())
    return checked(samples)


def checked(samples: Samples) -> Samples:
    """The same samples with integer steps. Raises UserError naming the first that no law could use."""
    where, steps = samples.path or samples.name, np.asarray(samples.steps, np.float64)
    if not steps.size:
        raise UserError(f"{where}: found no rows, must have at least one")
    rates = np.zeros_like(steps) if samples.rates is None else samples.rates
    for name, values, allowed, good in (
        ("step", steps, "a whole number from 0 on", (steps >= 0) & (steps == np.round(steps))),
        ("step", steps, f"below {MOST_STEPS:g} (are these tokens? give updates)", steps < MOST_STEPS),
        ("lr", rates, "a finite rate from 0 on", np.isfinite(rates) & (rates >= 0)),
        ("loss", samples.losses, "finite and above 0", np.isfinite(samples.losses) & (samples.losses > 0)),
    ):
        if not good.all():
            row = int(np.argmin(good))
            raise UserError(f"{where}: row {row + 1} has {name} {values[row]:g}, must be {allowed}; remove or mend the row")
    order = np.diff(steps)
    if (order <= 0).any():
        row = int(np.argmax(order <= 0)) + 1
        what = "repeats" if order[row - 1] == 0 else f"comes after {steps[row - 1]:g}"
        raise UserError(f"{where}: row {row + 1}: step {steps[row]:g} {what}; steps must increase: sort the rows, keep one of each step")
    if samples.rates is not None and not rates.max() > 0:
        raise UserError(f"{where}: every lr is 0, so nothing was learnt; the lr column must hold the rate of each step")
    return dataclasses.replace(samples, steps=steps.astype(np.int64))


def assemble(
    samples: Samples, *, rates: np.ndarray | None = None, warmup: int | None = None, assumed: int | None = None, first_step: int = 0
) -> tuple[Curve, list[str]]:
    """The curve of some samples, and what was assumed on the way, a sentence each.

    With `rates` (float64[T], every update) that is the schedule, and it must agree with the samples' rates; else it is rebuilt from them,
    with `warmup` updates in front of the first sample, or `assumed` where only a guess is at hand (rebuild.py). Samples inside the
    warm-up and before `first_step` are left out. Raises UserError.
    """
    notes: list[str] = []
    if rates is None:
        rates, notes = rebuild.rebuild(samples.steps, samples.rates, warmup, assumed)
    else:
        _agree(samples, rates)
    last = rebuild.warmup_of(rates)
    late = samples.steps >= last
    if 0 < last == len(rates) - 1:
        raise UserError(
            f"{samples.path or samples.name}: its rate still rises at its last step, {last}: all of it is warm-up, which no law here "
            "describes; train for longer, or leave the curve out"
        )
    if not late.any():
        raise UserError(
            f"{samples.path or samples.name}: all {late.size} points lie inside the warm-up of {last} updates; train for longer"
        )
    if not late.all():
        notes.append(f"points inside the warm-up of {last} updates are left out ({np.sum(~late)})")
    if not (late & (samples.steps >= first_step)).any():
        raise UserError(
            f"{samples.path or samples.name}: its last step is {samples.steps[-1]}, none is left with --first_step={first_step}"
        )
    late &= samples.steps >= first_step
    curve = Curve(samples.name, samples.steps[late], samples.losses[late], rates, last, samples.path, samples.checksum)
    return curve, notes


def _agree(samples: Samples, rates: np.ndarray) -> None:
    where = samples.path or samples.name
    if samples.steps[-1] >= len(rates):
        raise UserError(
            f"{where}: its last step is {samples.steps[-1]}, the schedule given for it has {len(rates)} updates; it must have more"
        )
    if samples.rates is None:
        return
    apart = np.abs(rates[samples.steps] - samples.rates)
    if (apart > _SAME_RATE * rates.max()).any():
        first = int(np.argmax(apart > _SAME_RATE * rates.max()))
        step = samples.steps[first]
        raise UserError(
            f"{where}: at step {step} the schedule given for it has the rate {rates[step]:.9g}, its lr column says "
            f"{samples.rates[first]:.9g} ({np.sum(apart > _SAME_RATE * rates.max())} of {apart.size} samples differ); give the schedule it "
            "was trained with"
        )


# What makes a fit doubtful


def fewest(curves: Sequence[Curve], parameters: int, law: str) -> None:
    """Raises UserError where there are fewer points than parameters."""
    points = sum(curve.steps.size for curve in curves)
    if points < parameters:
        names = ", ".join(curve.name for curve in curves)
        raise UserError(f"--train: {names} have {points} points together, {law} has {parameters} parameters; give longer or more curves")


def doubts(curves: Sequence[Curve], parameters: Sequence[str]) -> list[str]:
    """What a fit to these curves cannot know, or should not mix; a sentence each. `parameters` are the law's, all of them."""
    found = []
    held = [name for name in parameters if name not in _OF_PROGRESS]
    if held and all(_constant_after_warmup(curve) for curve in curves):
        found.append(
            f"every training curve keeps its rate after the warm-up: no decay seen, so {', '.join(held)} cannot be identified and any "
            "forecast of a decay is a guess; add a curve whose rate falls"
        )
    peaks = [curve.rates.max() for curve in curves]
    if max(peaks) > (1 + _SAME_RATE) * min(peaks):
        low, high = curves[int(np.argmin(peaks))], curves[int(np.argmax(peaks))]
        found.append(
            f"peak rates differ ({low.name} {min(peaks):.3g}, {high.name} {max(peaks):.3g}): the law is for one model, batch and peak; fit "
            "each peak on its own"
        )
    for curve in curves:
        if curve.warmup and curve.steps[0] < 1.5 * curve.warmup and np.sum(curve.steps < 1.5 * curve.warmup) > 0.2 * curve.steps.size:
            found.append(
                f"{curve.name}: {np.mean(curve.steps < 1.5 * curve.warmup):.0%} of its points lie within half a warm-up of the peak, where "
                "runs differ most from one another and from any law"
            )
    return found


def extrapolation(name: str, rates: np.ndarray, longest: tuple[int, float]) -> str:
    """A warning where a schedule goes far beyond the training curves, else "". `longest`: their most updates and summed rate (`reach`)."""
    steps, summed = len(rates) / longest[0], rates.sum() / longest[1]
    if max(steps, summed) <= FAR:
        return ""
    return (
        f"{name}: {len(rates):,} updates and a summed rate of {rates.sum():.4g} are {steps:.1f} and {summed:.1f} times those of the "
        f"longest training curve: an extrapolation (tested up to {TESTED} times, where 90% bands held as little as 56% of a curve)"
    )


def reach(curves: Sequence[Curve]) -> tuple[int, float]:
    """The most updates, and the largest sum of rates, that one of the curves has a loss for."""
    return max(int(c.steps[-1]) + 1 for c in curves), max(float(c.rates[: c.steps[-1] + 1].sum()) for c in curves)


def _constant_after_warmup(curve: Curve) -> bool:
    seen = curve.rates[curve.warmup : curve.steps[-1] + 1]
    return bool(np.ptp(seen) <= _SAME_RATE * seen.max())


# Columns of files


def _once(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise UserError(f"{path}: has two columns {twice[0]}, must have one; remove or rename the other")


def _csv(content: bytes, path: Path, wanted: Sequence[str]) -> dict[str, Sequence]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV ({error}); must be a CSV or .parquet with columns step, lr, loss") from None
    rows = [row for row in rows if row]
    if not rows:
        raise UserError(f"{path}: empty, must be a CSV with a header row such as step,lr,loss")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    _once(path, header, wanted)
    for number, row in enumerate(body, 1):
        if len(row) != len(header):
            raise UserError(
                f"{path}: row {number} has {len(row)} cells, must have the {len(header)} of the header; is its last line cut short?"
            )
    return dict(zip(header, zip(*body, strict=True), strict=True)) if body else dict.fromkeys(header, ())


def _parquet(content: bytes, path: Path, wanted) -> dict[str, Sequence]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        held = pq.ParquetFile(io.BytesIO(content))
        names, rows = held.schema_arrow.names, held.metadata.num_rows
        _once(path, names, wanted)
        if rows > ROWS_A_BYTE * len(content):
            raise UserError(f"{path}: says {rows:,} rows in {len(content):,} bytes; a decompression bomb? give the curve as a CSV")
        table = held.read(columns=[name for name in names if name in wanted])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names of columns
        said = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: cannot be read ({said}); must be a Parquet file with columns step, lr, loss") from None
    return {name: table[name].to_pylist() if name in wanted else () for name in names}


def _numbers(path, name: str, values: Sequence) -> np.ndarray:
    found = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            found[row] = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{path}: row {row + 1} has {name} {value!r}, must be a number; remove or mend the row") from None
    return found
