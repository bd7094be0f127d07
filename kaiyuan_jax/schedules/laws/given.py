"""A schedule that somebody names: the rate of every update from a file or an experiment's config.

    schedule.json, schedule.csv     knots, linear in between (schedules/file.py); a CSV has columns step, lr
    schedule.npy                    a vector with the rate of every update
    configs/x.py[:variant]          of an experiment, and runs/x/config.json of one that ran

A config needs the number of updates: `NAME@STEPS` says it, else its token budgets do.
"""

import importlib.util
from pathlib import Path

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules import build, file

KINDS = "a schedule .json or .csv (step,lr), a .npy of every rate, a run's config.json, or a config file such as configs/x.py:variant"


def rates(item: str, steps: int | None = None, flag: str = "--schedule") -> np.ndarray:
    """float64[T]: the rates of the schedule that `item` names, of `steps` updates where a config leaves that open. Raises UserError."""
    item, _, after = item.partition("@")
    if after:
        if not after.isdigit() or int(after) < 1:
            raise UserError(f"{flag}: found {after!r} after the @, must be a number of updates, such as {item}@24000")
        steps = int(after)
    if steps and steps > file.MOST_STEPS:
        raise UserError(f"{flag}: found {steps} updates, must be at most {file.MOST_STEPS:g}; are these tokens?")
    name, _, variant = item.partition(":")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{flag}: {name} is no file, must be {KINDS}")
    if path.suffix == ".py":
        found = of_experiment(_load(path, variant, flag), steps, flag)
    elif path.name == "config.json":
        found = of_experiment(config.read(path), steps, flag)
    elif path.suffix in (".json", ".csv"):
        found = file.read(str(path), flag).all_rates()
    elif path.suffix == ".npy":
        found = _vector(path, flag)
    else:
        raise UserError(f"{flag}: {name} ends in {path.suffix or 'nothing'}, must be {KINDS}")
    if not (found.size and np.isfinite(found).all() and (found >= 0).all() and found.max() > 0):
        raise UserError(f"{flag}: {name} must hold finite rates, none below 0 and one above")
    if steps and found.size != steps:
        raise UserError(
            f"{flag}: {name} is a schedule of {found.size} updates, found {steps} asked for; give one of {steps}, or leave the steps"
        )
    return found


def of_experiment(experiment: config.Experiment, steps: int | None, flag: str = "--schedule") -> np.ndarray:
    """float64[T] of an experiment's schedule over `steps` updates; None: as many as its budgets of tokens say."""
    data = experiment.data
    steps = steps or planned_steps(data)
    if not steps:
        raise UserError(f"{flag}: the experiment has a phase without a token budget, so its updates are unknown: say @STEPS or --steps")
    return build.rates(experiment.schedule, steps, batch_size=data.batch_size, sequence_length=data.sequence_length)


def planned_steps(data: config.Data) -> int:
    """Updates that the phases' budgets pay for; 0 where a phase has none (it then reads as much as its stores hold)."""
    if not data.phases or any(not phase.tokens for phase in data.phases):
        return 0
    return sum(phase.tokens // data.sequence_length for phase in data.phases) // data.batch_size


def _vector(path: Path, flag: str) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot ask for more than the file has
    except Exception as error:  # numpy says in a dozen ways that a header is none
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{flag}: {path} is no array of numbers ({said}); numpy.save writes one") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        kind = found.dtype if isinstance(found, np.ndarray) else "several arrays"
        raise UserError(f"{flag}: {path} holds {kind}, must be a vector of real numbers, the rate of each update")
    if found.ndim != 1:
        raise UserError(f"{flag}: {path} has the shape {found.shape}, must be a vector of one rate for each update")
    return found.astype(np.float64)


def _load(path: Path, variant: str, flag: str) -> config.Experiment:
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        experiment = module.get_config(variant) if variant else module.get_config()
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{flag}: {path}{':' + variant if variant else ''} cannot be loaded ({said})") from None
    if not isinstance(experiment, config.Experiment):
        raise UserError(f"{flag}: get_config() of {path} returned {type(experiment).__name__}, must return kaiyuan_jax.config.Experiment")
    return experiment
