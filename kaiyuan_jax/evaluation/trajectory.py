"""What models can do along their training: a table with one row for each run, checkpoint, task, level and metric.

    run, step, tokens      which checkpoint, and how many tokens the run had read by then
    loss                   nats per token on the held-out text of all sources, their plain mean, of this same checkpoint
    task, level, metric    heldout/<source>, heldout/mean, choice/<source> or the name of a task; level 0 is all of it, levels from 1 are
                           those of a task's difficulty, or the equal bins of held-out text by quality from the worst
    value, error           the metric, and the standard deviation of its bootstrap samples
    low, high              95% interval of the bootstrap

What is drawn again is the document or the item, and every checkpoint meets the same ones: the error says how far off other text of this
kind might lie, and two checkpoints differ more surely than their errors say. null stands for what is not known, such as an interval over
fewer than two documents. `loss` is there because tasks are best compared at equal loss where runs differ in data or size; the training
loss would not do, since an order by quality gives each part of a run text of its own difficulty.

Each checkpoint's part of a task is one small file with a key that says what it was made from (weights, settings, text). What was made
is not made again, and what was made from anything else is.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax import config, files
from kaiyuan_jax.evaluation import bootstrap, choice, heldout

MEAN = "mean"  # over sources
HELDOUT = "heldout"
LOSS = (f"{HELDOUT}/{MEAN}", "nats_per_token")  # task and metric of the column `loss`
MEASURED = [
    ("task", pa.string()), ("level", pa.int64()), ("metric", pa.string()),
    ("value", pa.float64()), ("error", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
]  # fmt: skip
SCHEMA = pa.schema([("run", pa.string()), ("step", pa.int64()), ("tokens", pa.int64()), ("loss", pa.float64()), *MEASURED])
_PART = pa.schema(MEASURED)


@dataclasses.dataclass(frozen=True)
class Score:
    """One metric of one model on one task; the columns of the table."""

    task: str
    level: int
    metric: str
    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None


def measured(task: str, level: int, metric: str, value: float, samples_R=None) -> Score:
    """A score from its value and bootstrap samples float[R], None where there are none; what is not a number becomes None."""
    interval = None if samples_R is None else bootstrap.percentiles(samples_R)
    error = None if interval is None else float(np.nanstd(samples_R, ddof=1))
    low, high = interval or (None, None)
    return Score(task, level, metric, float(value) if np.isfinite(value) else None, error, low, high)


def heldout_scores(sums: Mapping[str, heldout.DocumentSums], scored: Iterable[str], *, quantiles: int, resamples: int) -> list[Score]:
    """nats_per_token and bits_per_byte of every source and of their mean; of the sources in `scored` also bits by quality bin."""
    scores, scored, draw = [], set(scored), dict(resamples=resamples)
    for source, table in sums.items():
        task = f"{HELDOUT}/{source}"
        scores.append(_ratio(task, 0, "nats_per_token", table.nats, table.tokens, key=source, **draw))
        scores.append(_ratio(task, 0, "bits_per_byte", table.bits, table.bytes, key=source, **draw))
        bins = np.minimum((table.quantile * quantiles).astype(int), quantiles - 1) if source in scored else None
        for number in range(quantiles if source in scored else 0):
            bits, size = table.bits[bins == number], table.bytes[bins == number]
            if size.sum():
                scores.append(_ratio(task, number + 1, "bits_per_byte", bits, size, key=f"{source}/{number}", **draw))
    for metric, above, below in (("nats_per_token", "nats", "tokens"), ("bits_per_byte", "bits", "bytes")):
        tables = {name: (getattr(table, above), getattr(table, below)) for name, table in sums.items()}
        scores.append(measured(LOSS[0], 0, metric, *bootstrap.mean_of_sources(tables, seed=heldout.SEED, **draw)))
    return scores


def choice_scores(answers: Mapping[str, choice.Answers], *, resamples: int) -> list[Score]:
    """accuracy and gold_bits_per_byte of next-passage choice by source; none for a source without questions."""
    scores = []
    for source, found in answers.items():
        if len(found.document):
            task, draw = f"choice/{source}", dict(resamples=resamples, key=f"choice/{source}")
            scores.append(_ratio(task, 0, "accuracy", found.correct, np.ones(len(found.correct)), **draw))
            scores.append(_ratio(task, 0, "gold_bits_per_byte", found.gold_bits, found.gold_bytes, **draw))
    return scores


def task_scores(task: str, summary: Mapping) -> list[Score]:
    """Every metric and level of what `evaluation.tasks.summary` gives."""
    scores = []
    for level, entries in summary["levels"].items():
        for metric, entry in entries.items():
            numbers = (entry["value"], entry["error"], *(entry["interval"] or (None, None)))
            known = [number if number is not None and np.isfinite(number) else None for number in numbers]
            scores.append(Score(task, level, metric, *known))
    return scores


def _ratio(task: str, level: int, metric: str, above_D, below_D, *, resamples: int, key: str) -> Score:
    """sum above / sum below, over documents; without an error below two documents."""
    enough = np.count_nonzero(below_D) > 1
    samples = bootstrap.resampled_ratios(above_D, below_D, resamples=resamples, seed=heldout.SEED, key=key) if enough else None
    return measured(task, level, metric, bootstrap.ratio(above_D, below_D), samples)


# Files


def key(*made_from) -> str:
    """A short name of JSON-able facts, equal where they are equal."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:32]


def part(folder: str | Path, run: str, step: int, task: str) -> Path:
    """The file of one checkpoint's part of a task."""
    return Path(folder) / "parts" / run / f"{step}.{task.replace('/', '_')}.parquet"


def is_made(path: Path, made_from: str) -> bool:
    """Whether a part is there and was made from what this key names."""
    try:
        return (pq.read_metadata(path).metadata or {}).get(b"key") == made_from.encode()
    except (OSError, pa.ArrowException):  # none, or one of a disk that broke: it is made again
        return False


def write(path: Path, scores: Sequence[Score], made_from: str) -> None:
    """Puts one part in place, whole or not at all."""
    table = pa.Table.from_pylist([dataclasses.asdict(score) for score in scores], schema=_PART.with_metadata({"key": made_from}))
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, table)


def collect(folder: str | Path, checkpoints: Iterable[tuple[str, int, int]], tasks: Sequence[str]) -> Path:
    """<folder>/trajectory.parquet (SCHEMA) of the parts of these checkpoints (run, step, tokens), in this order; returns its path.

    tasks: names given to `part`; the held-out one, which the losses are from, among them. Raises UserError for a part that is missing.
    """
    tables = []
    for run, step, tokens in checkpoints:
        try:
            found = pa.concat_tables([pq.read_table(part(folder, run, step, task)).cast(_PART) for task in tasks])
        except (OSError, ValueError, pa.ArrowException) as error:
            raise config.UserError(f"{folder}: a part of {run}, step {step} cannot be read ({_short(error)}); run again") from None
        rows = found.to_pylist()
        loss = next((row["value"] for row in rows if (row["task"], row["metric"]) == LOSS), None)
        tables.append(pa.Table.from_pylist([dict(run=run, step=step, tokens=tokens, loss=loss) | row for row in rows], schema=SCHEMA))
    path = Path(folder) / "trajectory.parquet"
    _put(path, pa.concat_tables(tables) if tables else SCHEMA.empty_table())
    return path


def read(path: str | Path) -> pa.Table:
    """The rows of a trajectory.parquet. Raises UserError where a file has not exactly these columns."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise config.UserError(f"{path}: cannot be read ({_short(error)}); run launch/evaluate_trajectory.py") from None
    if not table.schema.equals(SCHEMA):
        found = ", ".join(table.column_names)
        raise config.UserError(f"{path}: has columns {found}, must have {', '.join(SCHEMA.names)}; run launch/evaluate_trajectory.py")
    return table


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _put(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    files.replace(path, buffer.getvalue())
