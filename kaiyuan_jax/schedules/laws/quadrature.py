"""Sums over all past changes of the learning rate, in O(log T) nodes for each evaluated step.

Every law here with a memory has the form

    sum over k = 1..s of (eta_{k-1} - eta_k) f(ln eta_k, x_k, S(k)),        x_k = eta_k + ... + eta_s = S(s) - S(k-1)

with a smooth f that may be singular at x = 0. Only steps whose rate changed are sources. From step s the sources nearby are taken as they
are and those further away in cells that grow with their distance in x: `cells` says which cell may be replaced from which distance,
`rules` by what. A step takes 78 nodes on average of the released cosine of 24,000 steps, 94 at the end of one of a million; on
white noise, where nothing is smooth, at most 4096 log2 T.

B times the sum is within 1e-6 of the oracle for B times the peak rate up to 0.3 (B = 400 to 900 at a peak of 3e-4), C from 1e-4 to 1e2,
beta up to 3 and gamma up to 1.4, for the exponential kernel, and with the factor c3 + S(k)^-s, s up to 1 and c3 from 0.1 S(T)^-s, over
falls: on every schedule that tests/schedules/laws/test_quadrature.py draws, of up to a million steps.

The limit eta_k -> 0 is a definition: ln eta_k is floored at FLOOR times the peak, in the oracle too.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from kaiyuan_jax.schedules.laws import cells, rules


@dataclasses.dataclass(frozen=True, eq=False)
class Nodes:
    """The sources as evaluated steps see them.

    Pair p of step i (start[i] <= p < start[i + 1]) adds weight[p] f(log_rate[p], x[p], begin[p]). E steps, P pairs. Where the schedule is
    rough the weight of a pair may have either sign.
    """

    step: np.ndarray  # int64[E]
    total: np.ndarray  # float64[E]: S(s), the sum of the rates 0 to s
    rate: np.ndarray  # float64[E]: eta_s
    peak: np.ndarray  # float64[E]: the highest rate of the schedule
    start: np.ndarray  # int64[E + 1]
    weight: np.ndarray  # float64[P]: eta_{k-1} - eta_k, or the weight of a quadrature node
    log_rate: np.ndarray  # float64[P]: ln eta_k, floored at ln(FLOOR peak)
    x: np.ndarray  # float64[P]: S(s) - S(k-1)
    begin: np.ndarray  # float64[P]: S(k)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """float64[E]: for every step the sum of weight * values over its pairs; `values` is float64[P], or float64[n, P] -> [n, E]."""
        padded = np.zeros((*values.shape[:-1], self.weight.size + 1))
        np.multiply(values, self.weight, out=padded[..., :-1])
        sums = np.add.reduceat(padded, self.start[:-1], axis=-1)
        sums[..., self.start[:-1] == self.start[1:]] = 0.0
        return sums


def concatenate(parts: Iterable[Nodes]) -> Nodes:
    """Several curves as one set of nodes, in order."""
    parts = list(parts)
    offsets = np.cumsum([0, *(part.weight.size for part in parts)])
    starts = [part.start[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    fields = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Nodes)
        if field.name != "start"
    }
    return Nodes(start=np.concatenate([*starts, offsets[-1:]]), **fields)


def exact(rates: np.ndarray, steps: np.ndarray, first: int = 1, falls_only: bool = False) -> Nodes:
    """Every source of every step: the oracle. Arguments as in `build`."""
    rates, steps = np.asarray(rates, np.float64), np.asarray(steps, np.int64)
    total, gap, log_rate, y = _schedule(rates, first, falls_only)
    k = np.flatnonzero(gap)
    count = np.searchsorted(k, steps, side="right")
    index = k[_runs(np.zeros_like(count), count)]
    return _nodes(rates, steps, total, count, gap[index], log_rate[index], y[index])


def build(rates: np.ndarray, steps: np.ndarray, first: int = 1, falls_only: bool = False) -> Nodes:
    """The same sums as `exact` in O(log T) nodes for each step.

    rates float64[T] of the whole schedule, none negative; steps int64[E] in [0, T), in any order. The changes at updates `first` and later
    are sources (the first after the warm-up, or 1 for all of them), with `falls_only` those alone that lower the rate.
    """
    rates, steps = np.asarray(rates, np.float64), np.asarray(steps, np.int64)
    total, gap, log_rate, y = _schedule(rates, first, falls_only)
    if not (steps.size and gap.any()):
        return _nodes(rates, steps, total, np.zeros(steps.size, np.int64), *np.zeros((3, 0)))
    tree = cells.tree(rates, gap, log_rate, y, early=falls_only)
    rule, tensor, sources = _cover(tree, gap, steps, total)
    who, k = sources
    found = [(who, gap[k], log_rate[k], y[k])]
    log_peak = math.log(rates.max())
    for n in range(1, cells.ORDER + 1):
        pick = np.flatnonzero(rule[2] == n)
        if pick.size:
            which, back = np.unique(rule[1][pick], return_inverse=True)
            weight, u, at = rules.gauss(tree, which, n)[:, back]
            found.append((np.repeat(rule[0][pick], n), weight.ravel(), u.ravel() + log_peak, at.ravel()))
    for who, cell, k in tensor:
        owner, weight, u, at = rules.tensors(k[0], gap[k[1]], log_rate[k[1]] - log_peak, y[k[1]], tree.degree)
        offset = np.searchsorted(owner, np.arange(cell.max() + 2))
        count = np.diff(offset)[cell]
        pair = _runs(offset[cell], count)
        found.append((np.repeat(who, count), weight[pair], u[pair] + log_peak, at[pair]))
    who, weight, log_rate, at = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(who.astype(np.uint16) if steps.size < 2**16 else who, kind="stable")  # 16 bits sort by radix
    return _nodes(rates, steps, total, np.bincount(who, minlength=steps.size), weight[order], log_rate[order], at[order])


def _schedule(rates, first, falls_only):
    """S(k), the gap where step k is a source and 0 elsewhere, floored ln eta_k, S(k-1), float64[T]."""
    gap = -np.diff(rates, prepend=rates[:1])
    gap[: max(first, 1)] = 0.0
    if falls_only:
        gap = np.maximum(gap, 0.0)
    log_rate = np.log(np.maximum(rates, max(cells.FLOOR * rates.max(), np.finfo(float).tiny)))
    total = np.cumsum(rates)
    return total, gap, log_rate, np.concatenate([[0.0], total[:-1]])


def _nodes(rates, steps, total, count, weight, log_rate, y):
    start = np.concatenate([[0], np.cumsum(count)])
    return Nodes(
        step=steps,
        total=total[steps],
        rate=rates[steps],
        peak=np.full(steps.size, rates.max()),
        start=start,
        weight=weight,
        log_rate=log_rate,
        x=np.repeat(total[steps], count) - y,
        begin=np.maximum(y + np.exp(log_rate), np.exp(log_rate)),  # a node of the first cell may lie before 0 by rounding
    )


def _runs(begin, count):
    """The numbers begin[i] .. begin[i] + count[i] - 1 of every i, one after the other."""
    return np.arange(count.sum()) + np.repeat(begin - np.cumsum(count) + count, count)


def _cover(tree, gap, steps, total):
    """Which cells stand for the past of which evaluated step, from the top down.

    Returns the Gauss rules as (step index, cell, order); for each level that has tensors (step index, tensor) and the (tensor, source) of
    which they are made; the sources that stay as (step index, source).
    """
    S = total[steps]
    runs = _Runs.of(gap)
    top = 2 * tree.widths[-1]
    offset = tree.index.size - top
    who, cell = np.repeat(np.arange(steps.size), top), np.tile(np.arange(top), steps.size)
    rule, tensors, sources = [], [], []
    for level in reversed(range(len(tree.widths))):
        size, width = cells.LEAF * 2**level, tree.widths[level]
        place = cell % width
        index = tree.index[offset + cell]
        keep = np.flatnonzero((place * size <= steps[who]) & (index >= 0))
        who, place, rise, cell = who[keep], place[keep], cell[keep] >= width, index[keep]
        stop = steps[who] + 1
        distance = S[who] - tree.end[cell]
        whole = np.minimum((place + 1) * size, gap.size) <= stop
        need = 1 + sum((row[cell] > distance).astype(np.int64) for row in tree.reach)
        smooth = whole & (need <= cells.ORDER)
        few = smooth & (tree.count[cell] < 2 * need)  # a rule must be worth its error
        rough = whole & ~smooth & (tree.tensor[cell] <= distance)
        pick = np.flatnonzero(smooth & ~few)
        rule.append((who[pick], cell[pick], need[pick]))
        pick = np.flatnonzero(few if level else ~rough & (few | ~smooth))
        owner, k = runs.sources(place[pick] * size, np.minimum((place[pick] + 1) * size, stop[pick]), rise[pick])
        sources.append((who[pick][owner], k))
        if rough.any():
            # A step that sees both signs of a cell as tensors sees them as one.
            seen, one = np.unique(who[rough] * width + place[rough], return_inverse=True)
            signs = np.bincount(one, weights=1 + rise[rough]).astype(np.int64)
            made, which = np.unique(seen % width * 4 + signs, return_inverse=True)
            mine = np.concatenate([np.flatnonzero(made & sign) for sign in (1, 2)])
            rising = np.arange(mine.size) >= np.count_nonzero(made & 1)
            low = made[mine] // 4 * size
            owner, k = runs.sources(low, np.minimum(low + size, gap.size), rising)
            tensors.append((seen // width, which, (mine[owner], k)))
        if level:
            split = np.flatnonzero(~(smooth | rough))
            width = tree.widths[level - 1]
            offset -= 2 * width
            cell = rise[split] * width + 2 * place[split]
            who, cell = np.repeat(who[split], 2), (cell[:, None] + np.arange(2)).ravel()
    return (
        [np.concatenate(part) for part in zip(*rule, strict=True)],
        tensors,
        [np.concatenate(part) for part in zip(*sources, strict=True)],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Runs:
    """The sources of each sign by step: before step k there are before[sign][k] of them in `order`, falls before rises."""

    order: np.ndarray
    before: np.ndarray

    @staticmethod
    def of(gap):
        falls, rises = np.flatnonzero(gap > 0), np.flatnonzero(gap < 0)
        before = np.zeros((2, gap.size + 1), np.int64)
        np.cumsum(gap > 0, out=before[0, 1:])
        np.cumsum(gap < 0, out=before[1, 1:])
        before[1] += falls.size
        return _Runs(np.concatenate([falls, rises]), before)

    def sources(self, low, high, rise):
        """(which of the ranges, source) for every source of the steps [low, high) of one sign each."""
        rise = rise.astype(np.int64)
        begin = self.before[rise, low]
        count = self.before[rise, high] - begin
        return np.repeat(np.arange(low.size), count), self.order[_runs(begin, count)]
