"""Stretches of a schedule: which samples of a rate one formula passes through.

A family maps some samples, steps and rates, to a formula through all of them within a tolerance, or to None. From the first sample on
the family that reaches farthest wins, and among equals the closest: short stretches of two shapes can look alike. The families are the
shapes of schedules/shapes.py with every number unknown:

    constant, linear, exponential (ln rate is linear), inverse (1/rate is linear)    least squares
    cosine: mean, two amplitudes, frequency                                          Gauss-Newton
    sqrt, sqrt_cube, square: a + b d^p, d the distance to an origin                  Gauss-Newton for the origin
        in front of the stretch (p = 1/2) or behind it (3/2, 2)
"""

import dataclasses
from collections.abc import Callable

import numpy as np

Formula = Callable[[np.ndarray], np.ndarray]  # steps -> rates
MOST = 1500  # samples on which families are recognised: the work grows with their square
_SAME = 1e-3  # of the tolerance: a slow decay sampled densely is no constant


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Samples `first` to `last` (included) follow `rate`; None where a sample stands alone."""

    first: int
    last: int
    rate: Formula | None


def cut(steps: np.ndarray, rates: np.ndarray, tolerance: float) -> list[Stretch]:
    """The samples as stretches in order, each of the longest that a family passes through within `tolerance`, or one sample alone.

    Beyond `MOST` samples the families are recognised on every so many-th, and what is found is checked on all.
    """
    if len(steps) <= MOST:
        return _cut(steps, rates, tolerance, (*_LINES, *_CURVES))
    stride = -(-len(steps) // MOST)
    thin = np.unique(np.append(np.arange(0, len(steps), stride), len(steps) - 1))
    coarse = [s for s in _cut(steps[thin], rates[thin], tolerance, (*_LINES, *_CURVES)) if s.rate]
    found, first, ends = [], 0, [*(int(thin[s.first]) for s in coarse[1:]), len(steps)]
    for i, stretch in enumerate(coarse):
        begin = max(first, int(thin[coarse[i - 1].last]) + 1 if i else 0)
        if grown := _grown(stretch, thin, steps, rates, tolerance, begin, ends[i]):
            found += [*_between(steps, rates, tolerance, first, grown.first, 2 * stride), grown]
            first = grown.last + 1
    return found + _between(steps, rates, tolerance, first, len(steps), 2 * stride)


def _grown(stretch: Stretch, thin, steps, rates, tolerance, begin: int, end: int) -> Stretch | None:
    """A stretch of the samples `thin` as one of all samples, grown as far as it holds within [begin, end); None if it does not hold."""
    first, last = int(thin[stretch.first]), int(thin[stretch.last])
    rate = stretch.rate(steps[begin:end])
    limit = tolerance if rate[first - begin] != rate[last - begin] else _SAME * tolerance
    off = np.flatnonzero(~(np.abs(rate - rates[begin:end]) <= limit)) + begin
    if ((off >= first) & (off <= last)).any():
        return None
    before, after = off[off < first], off[off > last]
    first, last = (before[-1] + 1 if before.size else begin), (after[0] - 1 if after.size else end - 1)
    return Stretch(int(first), int(last), stretch.rate)


def _between(steps, rates, tolerance, begin: int, end: int, most: int) -> list[Stretch]:
    """The samples [begin, end) that no stretch was found for: lines where they are few, else each alone."""
    if end - begin > most:
        return [Stretch(i, i, None) for i in range(begin, end)]
    found = _cut(steps[begin:end], rates[begin:end], tolerance, _LINES)
    return [Stretch(begin + s.first, begin + s.last, s.rate) for s in found]


def _cut(steps, rates, tolerance, families) -> list[Stretch]:
    found, first, curved = [], 0, 0
    while first < len(steps):
        last, formula, error = first, None, np.inf
        # Schedules are a few shapes after one another: where many stretches were none of the curved ones, these cost too much to try,
        # and so does trying on all samples.
        few = len(found) < 8 + 4 * curved
        for family, fewest in families if few else _LINES:
            if last == len(steps) - 1 and error <= 1e-6 * tolerance:
                break
            reach, fitted = _reach(family, steps, rates, first, max(last, first + fewest - 1), tolerance, few)
            if fitted and reach >= last:  # the longest, and among equals the closest: short stretches of two shapes can look alike
                apart = np.abs(fitted(steps[first : reach + 1]) - rates[first : reach + 1]).max()
                if reach > last or apart < error:
                    last, formula, error, is_curved = reach, fitted, apart, fewest == _CURVED
        curved += formula is not None and is_curved
        found.append(Stretch(first, last, formula))
        first = last + 1
    return found


def _reach(family, steps, rates, first: int, least: int, tolerance, whole: bool) -> tuple[int, Formula | None]:
    """The last sample up to which a family passes through all samples from `first` on, if that is `least` or later.

    `whole`: all that are left are tried first. Rounded samples at the flat top of a cosine say nothing about it, all of them do.
    """
    end = len(steps) - 1
    if whole and least <= end and (formula := family(steps[first:], rates[first:], tolerance)) is not None:
        return end, formula
    good, bad, best = first, len(steps), None
    trial = least
    while trial < bad and good < bad - 1:
        formula = family(steps[first : trial + 1], rates[first : trial + 1], tolerance)
        if formula is None:
            bad = trial
            if best is None:
                return first, None
        else:
            good, best = trial, formula
        trial = (good + bad) // 2 if bad < len(steps) else min(first + 2 * max(good - first, 1), len(steps) - 1)
        trial = max(trial, good + 1)
    return good, best


def _constant(steps, rates, tolerance) -> Formula | None:
    if np.abs(rates - rates[0]).max() > _SAME * tolerance:
        return None
    return lambda at: np.full(np.shape(at), rates[0])


def _straight(forth, back):
    """The family whose `forth` (an increasing or decreasing transform of the rate) is linear in the step."""

    def family(steps, rates, tolerance) -> Formula | None:
        if back is not None and rates.min() <= 0:
            return None
        value, middle = forth(rates), steps.mean()
        slope = (value - value.mean()) @ (steps - middle) / np.sum((steps - middle) ** 2)

        def formula(at):
            line = value.mean() + slope * (at - middle)
            return line if back is None else back(line)

        return formula if np.abs(formula(steps) - rates).max() <= tolerance else None

    return family


def _inverse(line):
    return np.divide(1.0, line, out=np.full(np.shape(line), np.inf), where=np.asarray(line) > 0)


def _cosine(steps, rates, tolerance) -> Formula | None:
    """Gauss-Newton for mean, two amplitudes and frequency, begun at the frequency that a recurrence over equal spacings gives."""
    middle, span = (steps[0] + steps[-1]) / 2, float(steps[-1] - steps[0])
    thin = np.unique(np.linspace(0, len(steps) - 1, 256).astype(np.int64))
    u, r = (steps[thin] - middle) / span, rates[thin]
    grid = np.interp(np.linspace(-0.5, 0.5, 65), u, r)
    # x(u-h) + x(u+h) = 2 cos(w h) x(u) + constant, with h a quarter of the stretch
    centre, sides = grid[16:-16], grid[:-32] + grid[32:]
    centred = centre - centre.mean()
    if not centred @ centred > 0:
        return None
    w = np.arccos(np.clip(centred @ (sides - sides.mean()) / (2 * centred @ centred), -1, 1)) / 0.25
    if not 1e-3 < w < 12:
        return None
    for step in range(30):
        cosine, sine = np.cos(w * u), np.sin(w * u)
        columns = np.stack([np.ones_like(u), cosine, sine], axis=1)
        amplitudes = np.linalg.lstsq(columns, r, rcond=None)[0]
        slope = u * (amplitudes[2] * cosine - amplitudes[1] * sine)
        change = np.linalg.lstsq(np.column_stack([columns, slope]), r - columns @ amplitudes, rcond=None)[0][3]
        w += change
        if not 1e-3 < w < 12:
            return None
        if abs(change) < 1e-15 * w or (step > 8 and abs(change) < 1e-12 * w):
            break
    mean, a, b = amplitudes
    half, phase = np.hypot(a, b), np.arctan2(b, a)
    angles = w * (steps - middle) / span - phase
    falling = angles.min() > -1e-3 and angles.max() < np.pi + 1e-3

    def formula(at):
        angle = w * (np.asarray(at) - middle) / span - phase
        return mean + half * np.cos(np.clip(angle, 0, np.pi) if falling else angle)  # a decay stays at its top and bottom

    return formula if np.abs(formula(steps) - rates).max() <= tolerance else None


def _power(exponent: float, origin_first: bool):
    """The family a + b d^exponent, d the distance to an origin in front of the stretch or behind it; beyond the origin it stays at a."""

    def family(steps, rates, tolerance) -> Formula | None:
        begin, span = steps[0], float(steps[-1] - steps[0])
        thin = np.unique(np.linspace(0, len(steps) - 1, 256).astype(np.int64))
        u, r = (steps[thin] - begin) / span, rates[thin]
        if origin_first:
            u = 1 - u  # count from the other end: the origin is then at 1 or later
        beyond = np.concatenate([[0.0], np.geomspace(1e-4, 30, 30)])
        shapes = (1 + beyond[:, None] - u) ** exponent
        shapes -= shapes.mean(axis=1, keepdims=True)
        explained = (shapes @ r) ** 2 / np.sum(shapes**2, axis=1)  # of the squares of r around its mean
        origin = 1 + beyond[int(np.argmax(explained))]
        for step in range(40):
            columns = _columns(u, origin, exponent)
            a, b = np.linalg.lstsq(columns, r, rcond=None)[0]
            if step == 5 and np.abs(columns @ [a, b] - r).max() > 100 * tolerance:
                return None
            slope = b * exponent * np.maximum(origin - u, 1e-9) ** (exponent - 1)
            change = np.linalg.lstsq(np.column_stack([columns, slope]), r - columns @ [a, b], rcond=None)[0][2]
            closest = origin + change if origin + change >= 1 else (origin + 1) / 2  # the origin lies outside the stretch
            if abs(closest - origin) < 1e-15 * origin:
                break
            origin = closest

        def formula(at):
            v = (np.asarray(at) - begin) / span
            return (_columns(1 - v if origin_first else v, origin, exponent) @ [a, b]).reshape(np.shape(at))

        return formula if np.abs(formula(steps) - rates).max() <= tolerance else None

    return family


def _columns(u, origin, exponent):
    return np.stack([np.ones(np.size(u)), np.maximum(origin - np.ravel(u), 0.0) ** exponent], axis=1)


_LINES = (  # with the fewest samples that say something
    (_constant, 2),
    (_straight(lambda rate: rate, None), 3),
    (_straight(np.log, np.exp), 3),
    (_straight(lambda rate: 1 / rate, _inverse), 3),
)
_CURVED = 6
_CURVES = ((_cosine, _CURVED), (_power(0.5, True), _CURVED), (_power(1.5, False), _CURVED), (_power(2.0, False), _CURVED))
