"""Which sequence is global row p: computed from the plan and p alone, with no index array, at any scale.

Merge. Use i of a phase gives m_i rows, its *entries*; entry e gets the key (e + u_i) / m_i with an offset u_i in (0, 1), and the phase
is the entries of all uses sorted by key, ties by use. A prefix that ends at key x holds ceil(x m_i - u_i) entries of use i, which is
x m_i to within one: every stretch of a phase holds the phase's mixture, whatever the sizes. The offsets are spread over (0, 1), so
that many small sources do not arrive together.

Lookup. With S uses and M rows in all, x M entries have keys below x, to within S. So rows [p, p + B) lie among the entries with keys in
[(p - S) / M, (p + B + S) / M): list those, about B + 2 S, sort, and slice at p minus the number of entries before them, which is
known exactly. Time and memory are O(B + S).

Inside a use, an entry becomes a sequence and a pass:
  uniform     pass after pass, each in a seeded permutation of its own
  ascending   from worst to best, the copies of a sequence next to each other (equal quality, equal place)
  descending  the reverse
  folded      K rounds, each ascending over 1/K of the entries: of every K neighbours a seeded choice gives one to each round
                (2511.18903, "Ascend + Folding")
A fraction of a pass is r of the w sequences: one chosen by hash from each of r equal strata, so that it has the quality of the whole.
Where a use has a temperature, nothing is read twice, and of better text more (sampling.py).
All four orders read exactly the same sequences the same number of times.
"""

import dataclasses

import numpy as np

from kaiyuan_jax.config_check import ORDERS
from kaiyuan_jax.data.permutation import below, hash64, permute
from kaiyuan_jax.data.recipe import PhasePlan, Plan

_GOLDEN_RATIO = 0.6180339887498949
_EXTRA, _FOLD = 1 << 40, 2 << 40  # salts that no pass number reaches


@dataclasses.dataclass(frozen=True)
class Rows:
    """R rows of training: where each comes from."""

    phase: np.ndarray  # int32[R], index into Plan.phases
    source: np.ndarray  # int32[R], index into Plan.sources
    sequence: np.ndarray  # int64[R], sequence of the source's store, tokens [jL, (j + 1)L]
    pass_: np.ndarray  # int32[R], which reading of this sequence by this use of its phase, from 0
    quantile: np.ndarray  # float64[R], share of the store's token mass that is worse (middle of the sequence)

    def __len__(self) -> int:
        return len(self.sequence)


def batch(plan: Plan, step: int) -> Rows:
    """The B rows of step `step` (0-based). Raises IndexError outside [0, plan.steps)."""
    return rows(plan, positions(plan, step))


def positions(plan: Plan, step: int) -> np.ndarray:
    """int64[B]: the global rows of step `step`. Raises IndexError outside [0, plan.steps)."""
    if not 0 <= step < plan.steps:
        raise IndexError(f"step {step} is outside this plan: it has steps 0 to {plan.steps - 1}")
    first = plan.skipped + step * plan.batch_size
    return np.arange(first, first + plan.batch_size)


def rows(plan: Plan, positions: np.ndarray) -> Rows:
    """Where the given global rows (any integers in [0, plan.positions), in any order) come from; O(R + S) time and memory."""
    positions = np.asarray(positions, np.int64)
    if positions.size and not (positions.min() >= 0 and positions.max() < plan.positions):
        raise IndexError(f"rows {positions.min()} to {positions.max()} are not all inside this plan of {plan.positions} rows")
    starts = np.array([phase.start for phase in plan.phases])
    phase_of = (np.searchsorted(starts, positions, side="right") - 1).astype(np.int32)
    result = Rows(
        phase_of,
        np.empty(positions.size, np.int32),
        np.empty(positions.size, np.int64),
        np.empty(positions.size, np.int32),
        np.empty(positions.size, np.float64),
    )
    for number in np.unique(phase_of):
        here = np.flatnonzero(phase_of == number)
        phase = plan.phases[number]
        use, entry = lookup(phase, _shuffle(phase, positions[here] - phase.start))
        columns = {name: column[use] for name, column in phase.columns.items()}
        sequence, pass_ = _place(columns, entry)
        if (sampled := np.flatnonzero(columns["sampled"])).size:
            sequence[sampled] = _sampled(phase, use[sampled], sequence[sampled])
        result.source[here] = columns["source"]
        result.sequence[here] = sequence
        result.pass_[here] = pass_
        result.quantile[here] = (sequence + 0.5) / columns["sequences"]
    return result


def offsets(count: int) -> np.ndarray:
    """float64[count]: the u_i of the merge, fixed, distinct and evenly spread in (0, 1)."""
    return np.arange(1, count + 1) * _GOLDEN_RATIO % 1.0


def lookup(phase: PhasePlan, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(use, entry), int64[R] each, of rows of the phase given by their rank in the merge."""
    entries = phase.columns["entries"]
    uses, total = len(entries), phase.entries
    margin = uses + 2  # two ranks more than needed, so that rounding of keys at the edges of the window changes nothing
    arranged = np.argsort(positions, kind="stable")
    ranks = positions[arranged]
    # Runs of ranks: a new one only where the gap costs more than listing what lies between.
    first = np.flatnonzero(np.diff(ranks, prepend=ranks[0] - 1 if ranks.size else 0) > 2 * margin)
    first = np.union1d(first, [0]).astype(np.int64)
    last = np.append(first[1:], ranks.size) - 1
    run_of = np.repeat(np.arange(first.size), last - first + 1)
    begin_RS = _entries_below((ranks[first] - margin) / total, entries)
    end_RS = _entries_below((ranks[last] + 1 + margin) / total, entries)
    counts = (end_RS - begin_RS).ravel()
    use = np.repeat(np.tile(np.arange(uses), first.size), counts)
    entry = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - begin_RS.ravel(), counts)
    key = (entry + offsets(uses)[use]) / entries[use]
    sizes_R = counts.reshape(first.size, uses).sum(axis=1)
    if first.size == 1:
        ordered = np.argsort(key, kind="stable")  # candidates are listed use by use, so ties stay in that order
    else:
        ordered = np.lexsort((key, np.repeat(np.arange(first.size), sizes_R)))
    shift_R = np.cumsum(sizes_R) - sizes_R - begin_RS.sum(axis=1)
    chosen = np.empty(ranks.size, np.int64)
    chosen[arranged] = ordered[ranks + shift_R[run_of]]
    return use[chosen], entry[chosen]


def _entries_below(x_R, entries_S):
    """int64[R, S]: how many entries of each use have a key below x; exact but for keys that equal x to rounding."""
    return np.clip(np.ceil(x_R[:, None] * entries_S - offsets(len(entries_S))), 0, entries_S).astype(np.int64)


def _shuffle(phase: PhasePlan, positions):
    if phase.shuffle_window < 2:
        return positions
    block = positions // phase.shuffle_window
    start = block * phase.shuffle_window
    size = np.minimum(phase.shuffle_window, phase.entries - start)
    return start + permute(positions - start, size, _derived(phase.seed, block))


def _place(columns, entry):
    """(sequence, pass) of entries whose uses have the given columns."""
    sequence, pass_ = np.empty_like(entry), np.empty_like(entry)
    for number, name in enumerate(ORDERS):
        here = np.flatnonzero(columns["order"] == number)
        if here.size:
            mine = columns if here.size == entry.size else {key: column[here] for key, column in columns.items()}
            sequence[here], pass_[here] = _PLACES[name](mine, entry[here])
    return columns["begin"] + sequence, pass_


def _uniform(columns, entry):
    width, passes, extra = columns["width"], columns["passes"], columns["extra"]
    pass_ = entry // width
    partial = pass_ == passes
    index = permute(entry - pass_ * width, np.where(partial, extra, width), _derived(columns["seed"], pass_))
    if partial.any():
        index = np.where(partial, _extra_sequence(columns, np.where(partial, index, 0)), index)
    return index, pass_


def _ascending(columns, entry):
    sequence, copy, _ = _sorted_entry(columns, entry)
    return sequence, copy


def _descending(columns, entry):
    sequence, copy, copies = _sorted_entry(columns, columns["entries"] - 1 - entry)
    return sequence, copies - 1 - copy


def _folded(columns, entry):
    # Entries in ascending order form groups of K neighbours and a last one of t < K; the last t rounds take one from that too.
    rounds = columns["folds"]
    groups, short = np.divmod(columns["entries"], rounds)
    plain = (rounds - short) * groups  # entries of the rounds that do not visit the short group
    late = entry >= plain
    size = groups + late
    index = entry - late * plain
    round_ = index // np.maximum(size, 1)
    group = index - round_ * size
    round_ += late * (rounds - short)
    last = group == groups
    slot = np.where(last, round_ - (rounds - short), round_)
    member = permute(slot, np.where(last, short, rounds), _derived(_derived(columns["seed"], _FOLD), group))
    return _ascending(columns, group * rounds + member)


_PLACES = {"uniform": _uniform, "ascending": _ascending, "descending": _descending, "folded": _folded}


def _sorted_entry(columns, entry):
    """(sequence, copy, copies) at a place in ascending order, where sequence s stands q times, or q + 1 times if it is an extra.

    Stratum k starts at sequence floor(k w / r) and so at entry q floor(k w / r) + k, which k m / r exceeds by less than q: the stratum
    of an entry is floor(entry r / m) or the next.
    """
    width, passes, extra, total = columns["width"], columns["passes"], columns["extra"], columns["entries"]
    some = extra > 0
    strata = np.maximum(extra, 1)
    stratum = _scaled(entry, extra, total)
    stratum += some & (entry >= passes * _scaled(stratum + 1, width, strata) + stratum + 1)
    start = _scaled(stratum, width, strata)
    index = entry - passes * start - stratum
    chosen = np.where(some, _extra_sequence(columns, stratum) - start, width)
    behind = index > chosen * passes + passes
    inside = (index >= chosen * passes) & ~behind
    offset = (index - behind) // np.maximum(passes, 1)
    copy = np.where(inside, index - chosen * passes, index - behind - offset * passes)
    return start + np.where(inside, chosen, offset), copy, passes + inside


def _sampled(phase, use, stratum):
    """The sequence of its source that a stratum of a use with a temperature gives."""
    sizes = np.where(phase.columns["sampled"], phase.columns["entries"], 0)
    place = stratum + (np.cumsum(sizes) - sizes)[use]
    part = np.searchsorted(phase.parts["first"], place, side="right") - 1
    found = {name: column[part] for name, column in phase.parts.items()}
    return found["begin"] + ((place - found["first"]) * found["width"] + found["start"]) // found["taken"]


def _extra_sequence(columns, stratum):
    """The sequence that stratum k of the r strata of a use gives to the fractional pass."""
    strata = np.maximum(columns["extra"], 1)
    start = _scaled(stratum, columns["width"], strata)
    size = _scaled(stratum + 1, columns["width"], strata) - start
    return start + below(hash64(stratum, _derived(columns["seed"], _EXTRA)), size)


def _scaled(k, w, r):
    """floor(k w / r), exact although k w may pass 2^63: a float quotient, corrected by the remainder, which wraps to its true value."""
    guess = (k * (w / r)).astype(np.int64)
    return guess + (k * w - guess * r) // r


def _derived(seed, salt):
    return (hash64(salt, seed) >> np.uint64(1)).astype(np.int64)
