"""A whole schedule from samples of it: the rate of every update from the `lr` column of a loss curve.

Samples are cut into the longest stretches that one formula passes through (stretches.py). They agree with their samples to `TOLERANCE` of
the peak (rates are often logged as float32), and where the samples are exact so is the schedule. Rates that were printed with few digits
are followed within their rounding. Between two stretches

* that meet between the samples, the meeting point is the knee (a WSD decay sampled every 128 steps gives back its first step exactly);
* that do not meet, the rate jumps. Which update is the first of the new level is not in the samples: it is the later sample where the
  spacing of the samples is broken there (a run that was branched off logs at its first step), else the step in between with the most
  zeros at its end, and the middle where none ends in two zeros;
* one of which no formula describes, the rate is interpolated linearly.

Before the first sample: a rise that the samples show is continued down; else a linear warm-up is assumed, `numpy.linspace(0, peak, W)`,
so that update W-1 is the first at the peak, as in the released code of 2503.12811. After the last sample no law looks.
"""

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import stretches
from kaiyuan_jax.schedules.laws.stretches import Stretch

TOLERANCE = 2e-7  # of the peak
JUMP = 0.02  # of the peak: a smaller step between two stretches is interpolated


def rebuild(steps: np.ndarray, rates: np.ndarray, warmup: int | None = None, assumed: int | None = None) -> tuple[np.ndarray, list[str]]:
    """float64[last step + 1] and what had to be assumed, a sentence each.

    steps int64[E] ascending, rates float64[E] not negative; `warmup` updates rise from 0 to the peak. Without it they are those that the
    samples show, else `assumed`, else as many as the first sample's step. Raises UserError where `warmup` contradicts the samples.
    """
    whole, notes, straight, found = _between_samples(steps, rates, TOLERANCE * max(rates.max(), 1e-300))
    rounded = straight and _rounding(rates)
    if rounded:
        again = _between_samples(steps, rates, 1.5 * rounded)
        if not again[2]:  # formulas explain everything but the rounding, so they are nearer the rates than what was printed
            whole, notes, straight, found = again
            notes.append(f"its lr column has few digits (rates are rounded by up to {rounded:.2g}): smoothed by the shapes that it follows")
    if straight:
        begin, end, change = straight[0][0], straight[-1][1], max(change for *_, change in straight)
        notes.append(
            f"no known shape passes through {len(straight)} intervals of its lr column between steps {begin} and {end} "
            f"(those of schedules/shapes.py were tried): interpolated linearly; one interval changes the rate by up to {change:.3g}"
        )
    notes += _begin(whole, steps, rates, found[0], warmup, assumed, TOLERANCE * rates.max())
    return np.maximum(whole, 0.0), notes


def warmup_of(rates: np.ndarray) -> int:
    """Updates before the first at the top of the rise from about 0 that a schedule begins with; 0 where it begins otherwise.

    Updates at a rate of 0 before the rise belong to it: nothing is learnt in them, and no law has a loss for them.
    """
    begin = int(np.argmax(rates > 0))
    falls = np.flatnonzero(np.diff(rates[begin:]) <= 1e-12 * rates.max())
    top = begin + int(falls[0]) if falls.size else len(rates) - 1
    return top if rates[0] < 0.5 * rates[top] else 0


def _between_samples(steps, rates, tolerance):
    """The schedule from the first to the last sample, notes, the intervals (begin, end, change) that nothing describes, and stretches."""
    whole, notes, straight = np.interp(np.arange(int(steps[-1]) + 1), steps, rates, left=0.0), [], []
    found = stretches.cut(steps, rates, tolerance)
    for stretch in found:
        if not stretch.rate:
            continue
        inside = np.arange(steps[stretch.first], steps[stretch.last] + 1)
        whole[inside] = stretch.rate(inside)
    for left, right in zip(found, found[1:], strict=False):
        note = _join(whole, steps, rates, left, right, tolerance)
        if note is None:
            straight.append((steps[left.last], steps[right.first], abs(rates[left.last] - rates[right.first])))
        elif note:
            notes.append(note)
    if tolerance <= TOLERANCE * rates.max():
        whole[steps] = rates  # what was measured stays to the last digit
    return whole, notes, straight, found


def _rounding(rates) -> float:
    """By how much rates were rounded when they were written with few significant digits, 0 where they have as many as float32 or more."""
    digits = max(len(repr(float(rate)).split("e")[0].replace(".", "").strip("0")) for rate in rates)
    return 0.0 if digits > 7 else 0.5 * 10.0 ** (np.floor(np.log10(rates.max())) - digits + 1)


# Between stretches, and in front of the first


def _join(whole, steps, rates, left: Stretch, right: Stretch, tolerance) -> str | None:
    """Fills the updates between two stretches. Returns a note on a jump, nothing to say (""), or None: they stay interpolated."""
    begin, end = int(steps[left.last]), int(steps[right.first])
    if end == begin + 1:
        return ""
    if left.rate and right.rate:
        between = np.arange(begin, end + 1)
        before, after = left.rate(between), right.rate(between)
        apart = before - after
        # Where they touch (a cosine and its end) they are within the tolerance before they meet: the closest meeting counts.
        meetings = (np.abs(apart) <= 1e-5 * tolerance, np.sign(apart) != np.sign(apart[0]), np.abs(apart) <= tolerance)
        meet = next((np.flatnonzero(found) for found in meetings if found.any()), np.zeros(0, int))
        if meet.size:
            whole[begin + 1 : end] = np.where(between < between[meet[0]], before, after)[1:-1]
            return ""
        if abs(apart[-1]) > JUMP * rates.max():
            at, why = _jump(steps, left.last)
            whole[begin + 1 : end] = np.where(between < at, before, after)[1:-1]
            unsure = abs(apart[-1]) * max(at - begin - 1, end - at)
            return (
                f"the rate jumps from {rates[left.last]:.3g} to {rates[right.first]:.3g} between its samples at steps {begin} and {end}: "
                f"taken at {at}, {why}; the summed rate is unsure by at most {unsure / whole[:end].sum():.2%}"
            )
    return None


def _jump(steps, last: int) -> tuple[int, str]:
    """The first update of the new level, and why that one."""
    begin, end = int(steps[last]), int(steps[last + 1])
    stride = int(np.median(np.diff(steps)))
    regular_after = last + 2 < len(steps) and steps[last + 2] - end == stride
    if end - begin != stride and regular_after:
        return end, "where the spacing of the samples begins anew"
    for unit in 10 ** np.arange(18, 1, -1, dtype=np.int64):
        multiples = np.arange(-(-(begin + 1) // unit) * unit, end + 1, unit)
        if multiples.size:
            return int(multiples[np.argmin(np.abs(multiples - (begin + end) / 2))]), "the roundest step"
    return (begin + end + 1) // 2, "the middle"


def _begin(whole, steps, rates, stretch: Stretch, warmup: int | None, assumed: int | None, tolerance) -> list[str]:
    first = int(steps[0])
    if first == 0 and not warmup:
        return []
    formula = stretch.rate or (lambda at: np.full(np.shape(at), rates[0]))
    rising = rates[stretch.last] > rates[0] + tolerance and abs(formula(np.zeros(1))[0]) <= 0.02 * rates[stretch.last]
    if warmup is None and rising:
        whole[:first] = np.maximum(formula(np.arange(first)), 0)
        return []
    guess = first if assumed is None else min(assumed, first)
    length = (guess if guess > 1 else 0) if warmup is None else warmup
    if length > first:
        expected = np.linspace(0, rates.max(), length)[first]
        if abs(expected - rates[0]) > 1e-6 * rates.max():
            raise UserError(
                f"--warmup={warmup}: at step {first} the rate would be {expected:.6g}, the curve says {rates[0]:.6g}; give the steps of "
                f"the linear rise from 0, at most {first + 1}"
            )
        whole[:first] = np.linspace(0, rates.max(), length)[:first]
        return []
    top = max(length - 1, 0)
    whole[top:first] = formula(np.arange(top, first))
    whole[:length] = np.linspace(0, whole[top], length)
    if warmup is not None or not length:
        return []
    return [f"the samples begin after the warm-up: a linear one of {length} updates is assumed (--warmup says otherwise)"]
