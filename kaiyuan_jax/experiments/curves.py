"""Held-out loss curves of runs, as the laws read them, and their means over seeds.

A held-out line of metrics.jsonl at "step" n is of the weights after n updates, which is step n - 1 of a schedule. The beginning of a run is
left out: there the loss falls to that of guessing tokens by their frequency, stays and leaves it again, which no power of a sum describes.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws.curves import Curve


def lines(folder: Path) -> list[dict]:
    """The complete lines of a run's metrics.jsonl, which may be being written; none where there is no file."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def read(folder: Path, rates: np.ndarray, *, warmup: int, first: int) -> Curve:
    """The held-out loss (nats per token, mean over sources) of a run over its schedule `rates`, float64[T], from `first` updates on.

    Raises UserError for a run that has not come to its end.
    """
    points = [(line["step"], line["heldout/mean"]) for line in lines(folder) if "heldout/mean" in line]
    if not points or points[-1][0] != len(rates):
        reached = points[-1][0] if points else 0
        raise UserError(f"{folder}: its held-out losses reach step {reached} of {len(rates)}; run --stage=train first")
    steps, losses = np.array(points).T
    late = steps >= first
    return Curve(folder.name, steps[late].astype(np.int64) - 1, losses[late], rates, warmup)


def mean(name: str, curves: Sequence[Curve]) -> Curve:
    """The mean of curves of one schedule that have their points at the same steps."""
    first = curves[0]
    return Curve(name, first.steps, np.mean([curve.losses for curve in curves], axis=0), first.rates, first.warmup)


def write(path: Path, curve: Curve) -> None:
    """A CSV with step, lr, loss, as launch/fit_law.py reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", "lr", "loss"])
        for step, loss in zip(curve.steps, curve.losses, strict=True):
            table.writerow([int(step), f"{curve.rates[step]:.9g}", f"{loss:.6f}"])


def checksum(path: Path) -> str:
    """The sha256 of a file, as a law.json keeps it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
