"""From `config.Schedule` and a number of steps to the learning rate of every update.

Step s in [0, steps) is update s, the (s+1)-th; the schedule gives the rate of that update.

* Warm-up: `peak * s / warmup`, so that update 0 has rate 0 and update `warmup` is the first at the peak (as in optax).
* A decay over D steps that ends the run leaves the peak after update steps-1-D and reaches `end` exactly at update steps-1.
* Steps outside [0, steps) get the rate of the nearest step inside.

Every kind but `power` is a list of segments. A segment [start, stop] holds `begin` at start and `end` at stop, and what a shape
says in between; neighbours share a knot where the rate is continuous, and lie one step apart where it jumps:

    constant   0 -> peak, peak
    cosine     0 -> peak, peak -> end over all the rest
    wsd        0 -> peak, peak, peak -> end over the last `decay` of the steps                      MiniCPM, 2404.06395
    wsdc       the same, then `end` over the last `tail` of the steps                               PLM, 2503.12167
    wsd_s      equal cycles on one branch: each ends in a decay over the last `decay` of *its* steps, the next resumes from the
               decayed weights and jumps back to the peak, or climbs for `rewarmup` of its steps    2410.05192
    piecewise  0 -> first begin, then the pieces, each with its share of the steps after warm-up; a piece has its `begin` at its
               first update and its `end` at its last
    power      min(peak, batch a tokens^b) of the tokens seen before the update, after a warm-up    2408.13359
    file       the straight lines between the knots of `path`, which decides every rate: peak, end and warm-up are not read
"""

import dataclasses
import functools
import math

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.schedules import file, shapes

KINDS = ("constant", "cosine", "wsd", "wsd_s", "wsdc", "power", "piecewise", "file")


@dataclasses.dataclass(frozen=True)
class Segment:
    """Rates from `begin` at step `start` to `end` at step `stop`, both included."""

    start: int
    stop: int
    begin: float
    end: float
    shape: str = "linear"

    def rate(self, step):
        if self.begin == self.end or self.start == self.stop:
            return self.end
        return shapes.rate(self.shape, (step - self.start) / (self.stop - self.start), self.begin, self.end)


def build(schedule: config.Schedule, steps: int, *, batch_size: int, sequence_length: int):
    """The learning rate as an optax schedule: step -> float32, of the step's shape.

    The step may be a Python int, a numpy array or a jax array (traced, batched); numpy in gives numpy out and touches no device.
    `batch_size` (rows) and `sequence_length` (tokens) matter to kind "power" alone. Raises `ConfigError` with every problem.
    """
    continuous = _continuous(schedule, steps, batch_size, sequence_length)

    def learning_rate(step):
        step = step if hasattr(step, "__array_namespace__") else np.asarray(step)
        xp = shapes.namespace(step)
        return xp.asarray(continuous(xp.clip(step, 0, steps - 1)), dtype=xp.float32)

    return learning_rate


def rates(schedule: config.Schedule, steps: int, *, batch_size: int, sequence_length: int) -> np.ndarray:
    """float64[steps]: the rate of every update before it is rounded to float32. Raises `ConfigError` with every problem."""
    return np.asarray(_continuous(schedule, steps, batch_size, sequence_length)(np.arange(steps)), np.float64)


def first_difference(first: np.ndarray, second: np.ndarray) -> int | None:
    """The first update at which two schedules float[T] give training other rates, which are float32 there; None where there is none."""
    different = np.flatnonzero(np.float32(first) != np.float32(second))
    return int(different[0]) if different.size else None


def _continuous(schedule, steps, batch_size, sequence_length):
    if found := problems(schedule, steps):
        raise config.ConfigError("\n".join(found))
    if schedule.kind == "file":  # one lookup, however many knots
        return file.read(schedule.path).rate
    if schedule.kind == "power":
        return functools.partial(_power, schedule, batch_size=batch_size, sequence_length=sequence_length)
    return functools.partial(_along, segments(schedule, steps))


def _along(parts, step):
    xp = shapes.namespace(step)
    value = xp.full(step.shape, parts[0].begin)
    for part in parts:
        value = xp.where(step >= part.start, part.rate(step), value)
    return value


def segments(schedule: config.Schedule, steps: int) -> tuple[Segment, ...]:
    """The pieces of any kind but "power", in order; together they cover steps 0 to steps-1."""
    last, peak, end, shape = steps - 1, schedule.peak, schedule.end, schedule.shape
    if schedule.kind == "file":
        return _lines(file.read(schedule.path))
    if schedule.kind == "piecewise":
        return _pieces(schedule, steps)
    if schedule.kind == "wsd_s":
        return _cycles(schedule, steps)
    warmup = Segment(0, schedule.warmup, 0.0, peak)
    if schedule.kind == "constant":
        parts = (warmup, Segment(schedule.warmup, last, peak, peak))
    elif schedule.kind == "cosine":
        parts = (warmup, Segment(schedule.warmup, last, peak, end, "cosine"))
    else:
        tail = _count(schedule.tail, steps) if schedule.kind == "wsdc" else 0
        knee = last - tail - _count(schedule.decay, steps)
        parts = (
            warmup,
            Segment(schedule.warmup, knee, peak, peak),
            Segment(knee, last - tail, peak, end if knee < last - tail else peak, shape),
            Segment(last - tail + 1, last, end, end),
        )
    return tuple(part for part in parts if part.start <= part.stop)


def problems(schedule: config.Schedule, steps: int) -> list[str]:
    """What makes the schedule impossible over so many steps, one line each; empty if nothing does."""
    if schedule.kind not in KINDS:
        return [f"config.schedule.kind: found {schedule.kind!r}, must be one of {', '.join(KINDS)}"]
    if steps < 1:
        return [f"config.schedule: the run has {steps} steps, needs at least 1; plan more tokens or a smaller batch"]
    if schedule.kind == "file":
        return file.problems(schedule.path, steps)
    found = []
    if not 0 <= schedule.warmup < steps:
        found.append(f"config.schedule.warmup: found {schedule.warmup} steps, must be 0 to {steps - 1} in a run of {steps} steps")
    if schedule.kind == "power":
        return found
    if schedule.kind == "wsd_s" and schedule.cycles > steps:
        found.append(f"config.schedule.cycles: found {schedule.cycles}, must be at most the {steps} steps of the run")
    if not found and schedule.kind in ("wsd", "wsdc", "wsd_s"):
        found += _room(schedule, steps)
    if schedule.kind == "piecewise":
        total = sum(piece.fraction for piece in schedule.pieces)
        if not schedule.pieces:
            found.append("config.schedule.pieces: found none, kind 'piecewise' needs at least one config.Piece")
        elif abs(total - 1) > 1e-6:
            found.append(f"config.schedule.pieces: the fractions sum to {total:g}, must sum to 1 (they share the steps after warm-up)")
    ways = [(f"config.schedule.pieces[{i}]", piece.shape, piece.begin, piece.end) for i, piece in enumerate(schedule.pieces)]
    if schedule.kind != "piecewise":
        ways = [] if schedule.kind in ("constant", "cosine") else [("config.schedule", schedule.shape, schedule.peak, schedule.end)]
    for field, shape, begin, end in ways:
        if shape not in shapes.NAMES:
            found.append(f"{field}.shape: found {shape!r}, must be one of {', '.join(shapes.NAMES)}")
        elif shape in shapes.RATES and not min(begin, end) > 0:
            found.append(f"{field}: shape {shape!r} from {begin:g} to {end:g} needs both rates above 0; raise them or use sqrt_cube")
    return found


def _room(schedule, steps):
    cycle = steps // max(1, schedule.cycles) if schedule.kind == "wsd_s" else steps
    where = "cycle" if cycle < steps else "run"
    parts = {"warmup": schedule.warmup, "decay": _count(schedule.decay, cycle)}
    if schedule.kind == "wsdc":
        parts["tail"] = _count(schedule.tail, steps)
    found = []
    if sum(parts.values()) > cycle - 1:
        sizes = " + ".join(f"{name} {size}" for name, size in parts.items())
        most = (cycle - 1 - sum(parts.values()) + parts["decay"]) / cycle
        hint = f"lower config.schedule.decay to {math.floor(1000 * most) / 1000:g} or less" if most > 0.001 else "shorten the others"
        found.append(f"config.schedule: {sizes} steps, must be at most {cycle - 1} in a {where} of {cycle} steps; {hint}")
    climb = _count(schedule.rewarmup, cycle)
    if schedule.kind == "wsd_s" and schedule.cycles > 1 and climb + parts["decay"] > cycle - 1:
        sizes = f"{climb} steps + decay {parts['decay']} steps"
        found.append(f"config.schedule.rewarmup: {sizes}, must be at most {cycle - 1} in a cycle of {cycle} steps")
    return found


def _cycles(schedule, steps):
    parts, resume = [], 0.0
    bounds = [round(i * steps / schedule.cycles) for i in range(schedule.cycles + 1)]
    for first, after in zip(bounds, bounds[1:], strict=False):
        climb = _count(schedule.rewarmup, after - first) if first else schedule.warmup
        decay = _count(schedule.decay, after - first)
        knee = after - 1 - decay
        if climb:
            parts.append(Segment(max(first - 1, 0), first + climb, resume, schedule.peak))
        resume = schedule.end if decay else schedule.peak
        parts.append(Segment(first + climb, knee, schedule.peak, schedule.peak))
        parts.append(Segment(knee, after - 1, schedule.peak, resume, schedule.shape))
    return tuple(part for part in parts if part.start <= part.stop)


def _pieces(schedule, steps):
    parts, done = [Segment(0, schedule.warmup, 0.0, schedule.pieces[0].begin)], 0.0
    bound = schedule.warmup
    for piece in schedule.pieces:
        done += piece.fraction
        after = schedule.warmup + round(done * (steps - schedule.warmup))
        if after > bound:
            parts.append(Segment(bound, after - 1, piece.begin, piece.end, piece.shape))
        bound = after
    return tuple(parts)


def _lines(found: file.ScheduleFile):
    if found.steps == 1:
        return (Segment(0, 0, float(found.rates[0]), float(found.rates[0])),)
    ends = zip(found.knots[:-1], found.knots[1:], found.rates[:-1], found.rates[1:], strict=True)
    return tuple(Segment(int(start), int(stop), float(begin), float(end)) for start, stop, begin, end in ends)


def _power(schedule, step, batch_size, sequence_length):
    # Tokens seen before the update; before the first one the power is infinite, and the peak (or the warm-up) decides.
    xp = shapes.namespace(step)
    scale = batch_size * schedule.power_scale * (batch_size * sequence_length) ** schedule.power_exponent

    def rate(at):
        return xp.clip(scale * xp.clip(at, 1, None) ** schedule.power_exponent, None, schedule.peak)

    step = xp.asarray(step, dtype=float)
    warm = xp.asarray(float(schedule.warmup))
    return xp.where(step < warm, rate(warm) * step / max(1, schedule.warmup), rate(step))


def _count(share: float, steps: int) -> int:
    # At most all but the first step, so that a share of 1 decays over a whole run or cycle.
    return min(max(1, round(share * steps)), max(1, steps - 1)) if share > 0 else 0
