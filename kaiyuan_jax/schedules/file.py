"""A learning-rate schedule kept in a file: a rate at each knot, linear in between.

A `schedule.json` says `steps`, the number of updates of the run, and `knots`, a list of [step, rate]. The first knot is step 0, the last
is step `steps` - 1, and the rate of every update is read off the straight lines between them; a jump is two knots one step apart. What
else the file holds (`peak`, `warmup`, the loss law it was designed with, its predicted loss) is for readers: the knots alone decide.

A CSV with the columns `step` and `lr`, one row a knot, is read as the same thing; other columns are left alone, so the table of a loss
curve that begins at step 0 is a schedule too.
"""

import csv
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import files, json_text, storage
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.schedules import shapes

SCHEMA = 1
MOST_STEPS = 10**8  # of a run: beyond, somebody counts tokens
UNITS = {"step": "updates, counted from 0", "rate": "learning rate of the update", "predicted_final_loss": "unit of the law's curves"}
FIELD = "config.schedule.path"


@dataclasses.dataclass(frozen=True, eq=False)
class ScheduleFile:
    path: str
    knots: np.ndarray  # int64[K], ascending from 0 to steps - 1
    rates: np.ndarray  # float64[K], 0 or more
    facts: dict  # what else the file says, by key

    @property
    def steps(self) -> int:
        return int(self.knots[-1]) + 1

    def rate(self, step):
        """The rate at a step, float64 (float32 where `step` is a jax array); outside the run that of the nearest step inside."""
        return shapes.namespace(step).interp(step, self.knots, self.rates)

    def all_rates(self) -> np.ndarray:
        """float64[T], the rate of every update."""
        return self.rate(np.arange(self.steps))


def read(path: str, field: str = FIELD) -> ScheduleFile:
    """The schedule in a file. `field` is what the errors name: `ConfigError`, one line, for whatever keeps it from being a schedule."""
    try:
        version = storage.version(path)
    except OSError:
        raise ConfigError(f"{field}: no file {path!r}; give a schedule.json (launch/design_schedule.py) or a CSV with step,lr") from None
    return _read(path, field, version)


def problems(path: str, steps: int) -> list[str]:
    """What keeps the file from being the schedule of a run of so many steps, one line; empty if nothing does."""
    try:
        found = read(path)
    except ConfigError as error:
        return [str(error)]
    if found.steps == steps:
        return []
    return [
        f"{FIELD}: {path} is a schedule of {found.steps:,} steps, the run has {steps:,}; design it again with --steps={steps}, or give "
        f"the run {found.steps / steps:.6g} times its tokens"
    ]


def write(path: str | Path, knots: Sequence[int], rates: Sequence[float], **facts) -> None:
    """Writes a schedule.json of these knots with further JSON-able `facts` (peak, warmup, law, predicted_final_loss, ...)."""
    pairs = [[int(step), float(rate)] for step, rate in zip(knots, rates, strict=True)]
    tree = {"schema": SCHEMA, "steps": pairs[-1][0] + 1, "knots": None, "units": UNITS, **facts}
    _check(str(path), "schedule", *np.array(pairs, np.float64).T)
    lines = ",\n    ".join(json.dumps(pair) for pair in pairs)  # one knot a line
    text = json.dumps(tree, indent=2, ensure_ascii=False).replace('"knots": null', f'"knots": [\n    {lines}\n  ]', 1)
    files.replace(path, text + "\n")


def thinned(knots: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same schedule without the inner knots of its constant stretches."""
    inner = np.zeros(rates.size, bool)
    inner[1:-1] = (rates[1:-1] == rates[:-2]) & (rates[1:-1] == rates[2:])
    return knots[~inner], rates[~inner]


def lines(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots (int64[K], float64[K]) that give every one of float64[T] rates back to rounding: straight stretches are one line."""
    bends = np.ones(rates.size, bool)
    bends[1:-1] = np.abs(rates[2:] - 2 * rates[1:-1] + rates[:-2]) > 4 * np.finfo(np.float64).eps * rates.max()
    return np.flatnonzero(bends), rates[bends]


@functools.lru_cache(maxsize=8)
def _read(path: str, field: str, version: tuple) -> ScheduleFile:
    # A plan asks for the schedule a dozen times.
    try:
        with storage.path(path).open("rb") as file:
            content = file.read(json_text.LIMIT + 1)
        text = content.decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field}: {path} cannot be read ({error})") from None
    if len(content) > json_text.LIMIT:
        raise ConfigError(f"{field}: {path} is larger than {json_text.LIMIT >> 20} MiB, which no schedule is; give one of fewer knots")
    if path.lower().endswith(".csv"):
        knots, rates, facts = *_table(path, field, text), {}
    else:
        knots, rates, facts = _tree(path, field, text)
    _check(path, field, knots, rates)
    if "steps" in facts and facts["steps"] != int(knots[-1]) + 1:
        raise ConfigError(f"{field}: {path} says {facts['steps']} steps, but its last knot is step {int(knots[-1])}; it must be steps - 1")
    return ScheduleFile(path, *thinned(knots.astype(np.int64), rates), facts)


def _table(path, field, text):
    rows = csv.DictReader(text.splitlines())
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    if twice := [name for name in ("step", "lr") if rows.fieldnames.count(name) > 1]:
        raise ConfigError(f"{field}: {path} has two columns {twice[0]}, must have one; remove or rename the other")
    if not {"step", "lr"} <= set(rows.fieldnames):
        raise ConfigError(f"{field}: {path} has the columns {', '.join(rows.fieldnames) or '(none)'}, a schedule needs step,lr")
    values = []
    for row in rows:
        try:
            values.append((float(row["step"]), float(row["lr"])))
        except (TypeError, ValueError):
            raise ConfigError(f"{field}: {path}, line {rows.line_num}: found {row['step']!r},{row['lr']!r}, must be two numbers") from None
    return np.array(values, np.float64).reshape(-1, 2).T


def _tree(path, field, text):
    try:
        tree = json_text.parse(text)
    except json_text.JSONError as error:
        raise ConfigError(f"{field}: {path} is not JSON ({error}); a schedule is .json or .csv") from None
    if isinstance(tree, dict) and tree.get("schema", SCHEMA) != SCHEMA:
        raise ConfigError(f"{field}: {path} has schema {tree['schema']!r}, this version reads {SCHEMA}; design the schedule again")
    if not isinstance(tree, dict) or not isinstance(tree.get("knots"), list):
        keys = ", ".join(tree)[:80] if isinstance(tree, dict) else type(tree).__name__
        raise ConfigError(f"{field}: {path} has no list 'knots' (found {keys}); launch/design_schedule.py writes a schedule.json")
    for i, knot in enumerate(tree["knots"]):
        if not (isinstance(knot, list) and len(knot) == 2 and all(_is_number(value) for value in knot)):
            raise ConfigError(f"{field}: {path}, knots[{i}]: found {json.dumps(knot)[:60]}, must be [step, rate]")
    knots, rates = np.array(tree.pop("knots"), np.float64).reshape(-1, 2).T
    return knots, rates, tree


def _check(path, field, knots, rates) -> None:
    if knots.size == 0:
        raise ConfigError(f"{field}: {path} holds no knots, a schedule needs at least one")
    bad = np.flatnonzero(~(np.abs(knots) < 2**53) | (knots != np.floor(knots)))
    bad = bad if bad.size else np.flatnonzero(np.diff(knots, prepend=-1) <= 0)
    if bad.size:
        at = bad[0]
        before = f" after {knots[at - 1]:g}" if at else ""
        raise ConfigError(f"{field}: {path}, knot {at}: found step {knots[at]:g}{before}, steps must be whole numbers, ascending")
    if knots[-1] >= MOST_STEPS:
        raise ConfigError(f"{field}: {path} has step {knots[-1]:g}, must be below {MOST_STEPS:g}; are these tokens? give updates")
    if knots[0] != 0:
        raise ConfigError(f"{field}: {path} begins at step {knots[0]:g}, must begin at step 0; add the warm-up, such as a row 0,0.0")
    bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if bad.size:
        raise ConfigError(f"{field}: {path}, step {knots[bad[0]]:g}: found rate {rates[bad[0]]:g}, must be finite and 0 or more")
    if not rates.max() > 0:
        raise ConfigError(f"{field}: {path}: every rate is 0, so nothing would be learnt; give the rates of the schedule")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not
