"""Loss curves out of a folder: CSV and Parquet files, and run folders of launch/train.py.

A run's schedule is exactly known: it is the config's, over the run's steps. These are what plan.txt says, else what the token budgets pay
for, else the last step of metrics.jsonl; the first of them whose schedule has the rates that the run logged.

    training loss   the line at step n, after one at step p, is the mean over the updates p to n-1, each measured before its update; so the
                    weights had felt the updates up to p-1 to n-2, and the loss belongs to the middle, step (p + n - 3) // 2
    held-out loss   the line at step n is of the weights that have felt the updates 0 to n-1: step n-1
"""

import hashlib
import re
from pathlib import Path

import numpy as np

from kaiyuan_jax import config, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.report import load
from kaiyuan_jax.schedules.laws import curves, given

TRAIN = "train"
FILES = (".csv", ".parquet")


def find(folder: str | Path) -> dict[str, Path]:
    """The curves of a folder by name, in alphabetical order: its files and its run folders, or the folder itself where it is a run."""
    folder = storage.path(folder)
    if not folder.is_dir():
        raise UserError(f"--curves: {folder} is no folder, must be one that holds curves (.csv, .parquet with step, lr, loss) or runs")
    inside = [folder] if _is_run(folder) else [folder / name for name in storage.names(folder)]
    found: dict[str, Path] = {}
    for path in inside:
        is_run = _is_run(path)
        if not is_run and (path.suffix not in FILES or path.is_dir()):
            continue
        if not path.exists():
            raise UserError(f"--curves: {path} is a link to nothing; mend or remove it")
        name = path.resolve().name if is_run else path.stem
        if name in found:
            raise UserError(f"--curves: {found[name]} and {path} are both called {name}; rename one")
        found[name] = path
    if not found:
        raise UserError(f"--curves: {folder} holds no .csv, no .parquet and no run folder; give the folder of the curves")
    return found


def read(path: Path, loss: str = TRAIN, needs_rates: bool = True) -> tuple[curves.Samples, np.ndarray | None]:
    """The samples of a curve, and its whole schedule where it is a run (None for a file). `loss`: train, or another column or metric.

    Raises UserError for a file or run that holds no such curve.
    """
    if _is_run(path):
        return run(path, loss)
    return curves.read(path, loss="loss" if loss == TRAIN else loss, needs_rates=needs_rates), None


def run(folder: Path, loss: str = TRAIN) -> tuple[curves.Samples, np.ndarray]:
    """The samples of a run folder, and the rate of every update of the run; `loss`: train, heldout/mean, heldout/SOURCE or loss/SOURCE."""
    record = folder / "metrics.jsonl"
    lines = load.metrics(record)
    training = [line for line in lines if "loss" in line]
    if not training:
        raise UserError(f"{folder}: no training loss in metrics.jsonl; train first (launch/train.py)")
    key = "loss" if loss == TRAIN else loss
    chosen = [line for line in (training if key.startswith("loss") else lines) if key in line]
    if not chosen:
        names = sorted({name for line in lines for name in line if name.startswith(("loss/", "heldout/"))})
        raise UserError(f"{folder}: --loss={loss} is not in its metrics, must be one of train, {', '.join(names)}")
    after = np.array([line["step"] for line in chosen])
    if key.startswith("loss"):
        # a line whose updates were all skipped has no loss, and still is where the next one begins
        ends = np.array([0, *(line["step"] for line in lines if "learning_rate" in line)])
        before = ends[np.searchsorted(ends, after) - 1]
        steps = (before + after - 3) // 2
    else:
        steps = after - 1
    felt = steps >= 0  # not the loss of untrained weights
    schedule = _schedule(folder, training)
    losses = np.array([line[key] for line in chosen], np.float64)
    checksum = hashlib.sha256(record.read_bytes()).hexdigest()
    samples = curves.Samples(folder.resolve().name, steps[felt], losses[felt], None, str(folder), checksum)
    return curves.checked(samples), schedule


def _schedule(folder: Path, training: list[dict]) -> np.ndarray:
    experiment = config.read(folder / "config.json")
    done = np.array([line["step"] for line in training])
    logged = np.array([line["learning_rate"] for line in training], np.float64)
    tried = []
    for steps in dict.fromkeys([_printed(folder / "plan.txt"), given.planned_steps(experiment.data), int(done[-1])]):
        if steps < done[-1]:
            continue
        try:
            rates = given.of_experiment(experiment, steps)
        except config.ConfigError:  # this many steps have no room for the schedule
            continue
        apart = np.abs(rates[done - 1] - logged) > 1e-6 * max(rates.max(), logged.max())
        if not apart.any():
            return rates
        first = int(np.argmax(apart))
        tried.append(f"over {steps} steps it has the rate {rates[done[first] - 1]:.6g} at step {done[first]}, logged {logged[first]:.6g}")
    raise UserError(f"{folder}: its config's schedule is not the one it logged ({'; '.join(tried) or 'no number of steps fits'})")


def _printed(plan: Path) -> int:
    """The number of steps that a plan.txt names, 0 without one."""
    match = re.search(r"^\s*steps\s+([\d,]+) of", plan.read_text(encoding="utf-8"), re.MULTILINE) if plan.is_file() else None
    return int(match[1].replace(",", "")) if match else 0


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file()
