"""From a recipe (phases, selection, repetition, budgets) to a plan: a few integers per phase and source, and nothing else.

A source of T tokens holds n = (T - 1) // L sequences in ascending quality. A *use* of it in a phase takes a window of quality (lo, hi),
which is the range [a, b) = [round(lo n), round(hi n)) of w = b - a sequences, and reads it p times: q = floor(p) whole passes and
r = round((p - q) w) more sequences, m = q w + r rows in all. A quality filter is a window that ends at 1, a probe of one quantile is a
narrow window, repetition is p > 1, subsampling is p < 1.

A use with a temperature reads no sequence twice, and better ones more often: its m rows are shared out over 100 parts of the window
(sampling.py), which adds 100 integers.

A budget of `tokens` gives the phase exactly tokens // L rows. With shares each use gets its share of them; without, every use is
thinned by one factor. Both are apportioned by largest remainder, so that the rows add up exactly.

Phases follow one another on one axis of rows. Their total is rarely a multiple of the batch size: the remainder is left out at the
very start of the run, so that the end, where an ascending order has its best text, is whole.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.config_check import ORDERS, data_problems
from kaiyuan_jax.data import sampling
from kaiyuan_jax.data.permutation import seed_of


@dataclasses.dataclass(frozen=True)
class UsePlan:
    """What a phase takes of one source: `entries` rows from sequences [begin, end) of a store of `sequences`."""

    source: int  # index into Plan.sources
    begin: int
    end: int
    sequences: int
    entries: int
    order: str
    folds: int
    seed: int
    taken: tuple[int, ...] = ()  # rows of each part of the window (sampling.edges), where it is sampled with a temperature

    @property
    def width(self) -> int:
        return self.end - self.begin

    @property
    def passes(self) -> float:
        return self.entries / self.width


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """`entries` rows from global row `start` on."""

    name: str
    start: int
    entries: int
    order: str
    shuffle_window: int  # rows
    seed: int
    uses: tuple[UsePlan, ...]

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The integers of the uses as int64[S] arrays, for computing many rows at once."""
        fields = ("source", "begin", "width", "sequences", "entries", "folds", "seed")
        columns = {field: np.array([getattr(use, field) for use in self.uses], np.int64) for field in fields}
        columns["sampled"] = np.array([bool(use.taken) for use in self.uses], np.int64)
        for number in np.flatnonzero(columns["sampled"]):  # its m strata are ordered like m sequences, and then become sequences
            columns["begin"][number], columns["width"][number] = 0, max(1, self.uses[number].entries)
        columns["passes"], columns["extra"] = np.divmod(columns["entries"], columns["width"])  # q whole passes and r sequences once more
        columns["order"] = np.array([ORDERS.index(use.order) for use in self.uses], np.int64)
        return columns

    @functools.cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Of the sampled uses, one after the other, every part of which something is read, int64[P]: its first stratum, counted over all of
        them, its first sequence, how many it has, how many of them are read, and where that starts.
        """
        found: dict[str, list] = {"first": [], "begin": [], "width": [], "taken": [], "start": []}
        first = 0
        for use in self.uses:
            cuts = sampling.edges(use.width) if use.taken else ()
            for part, taken in enumerate(use.taken):
                if taken:
                    width = int(cuts[part + 1] - cuts[part])
                    row = (first, use.begin + cuts[part], width, taken, seed_of(use.seed, "part", part) % width)
                    for name, value in zip(found, row, strict=True):
                        found[name].append(value)
                    first += taken
        return {name: np.array(values, np.int64) for name, values in found.items()}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole run as integers. Step k reads global rows [skipped + k B, skipped + (k + 1) B)."""

    sequence_length: int  # L, tokens
    batch_size: int  # B, rows
    seed: int
    sources: tuple[str, ...]
    phases: tuple[PhasePlan, ...]

    @property
    def positions(self) -> int:
        """Rows of all phases."""
        return sum(phase.entries for phase in self.phases)

    @property
    def steps(self) -> int:
        return self.positions // self.batch_size

    @property
    def skipped(self) -> int:
        """Rows left out at the start so that whole batches end exactly at the last row."""
        return self.positions % self.batch_size

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.steps * self.batch_size * self.sequence_length


def facts_of(data: config.Data) -> tuple[dict[str, int], dict[str, bool]]:
    """(tokens, scored) by source name: from the store where it is on this machine, else from `planned_tokens` (then scored unless
    its quality is "none").
    """
    from kaiyuan_jax.data.store import StoreError, open_store  # here, because a plan of absent stores needs none of what it imports

    tokens, scored, problems = {}, {}, []
    for source in data.sources:
        if source.path and pathlib.Path(source.path).exists():
            try:
                store = open_store(source.path)
            except StoreError as error:
                problems.append(f"config.data.sources {source.name!r}: {error}")
                continue
            tokens[source.name], scored[source.name] = store.tokens, store.scored
        elif source.planned_tokens > 0:
            tokens[source.name], scored[source.name] = source.planned_tokens, source.quality != "none"
        else:
            problems.append(
                f"config.data.sources {source.name!r}: no store at {source.path!r} and planned_tokens is 0; "
                "prepare the store, correct the path, or give planned_tokens to plan without it"
            )
    _raise(problems)
    return tokens, scored


def resolve(data: config.Data, tokens: Mapping[str, int], scored: Mapping[str, bool]) -> Plan:
    """The plan of a recipe over sources of the given sizes (tokens by source name).

    Raises `ConfigError` with every problem found, one a line. A store that is not scored is sorted by a hash, so orders by quality mean
    nothing there: its uses become uniform, which also gives each copy of a repeated sequence a place of its own.
    """
    _raise(list(data_problems(data)))
    problems: list[str] = []
    names = [source.name for source in data.sources]
    phases, start = [], 0
    for number, phase in enumerate(data.phases):
        found: list[str] = []
        plan = _phase(number, phase, start, data, names, tokens, scored, found)
        problems += found
        if not found:
            phases.append(plan)
            start += plan.entries
    _raise(problems)
    plan = Plan(data.sequence_length, data.batch_size, data.seed, tuple(names), tuple(phases))
    if plan.steps == 0:
        raise ConfigError(
            f"config.data.batch_size: found {data.batch_size}, but all phases together give {plan.positions} rows of "
            f"{data.sequence_length} tokens; lower batch_size or sequence_length, or add data or passes"
        )
    return plan


def _phase(number, phase, start, data, names, tokens, scored, problems) -> PhasePlan | None:
    where = f"config.data.phases[{number}]"
    windows = [_window(f"{where}.uses[{i}]", use, data, tokens, problems) for i, use in enumerate(phase.uses)]
    if problems:
        return None
    available = [_round(_exact(use.passes) * (end - begin)) for use, (begin, end, _) in zip(phase.uses, windows, strict=True)]
    entries = _entries(where, phase, available, windows, data.sequence_length, problems)
    if problems:
        return None
    seen: dict[str, int] = {}
    uses = []
    for use, (begin, end, sequences), m in zip(phase.uses, windows, entries, strict=True):
        occurrence = seen[use.source] = seen.get(use.source, -1) + 1
        seed = seed_of(data.seed, "use", number, use.source, occurrence)
        taken: tuple[int, ...] = ()
        if use.temperature and not scored.get(use.source, True):
            problems.append(
                f"{where}.uses: {use.source!r} has temperature {use.temperature:g}, but its store is not scored, so it has no better text; "
                "set temperature to 0, or prepare the store with a quality"
            )
        elif use.temperature:
            taken = sampling.counts(begin, end, sequences, m, use.temperature, seed)
        uses.append(
            UsePlan(
                source=names.index(use.source),
                begin=begin,
                end=end,
                sequences=sequences,
                entries=m,
                order=(use.order or phase.order) if scored.get(use.source, True) else "uniform",
                folds=phase.folds,
                seed=seed,
                taken=taken,
            )
        )
    return PhasePlan(phase.name, start, sum(entries), phase.order, phase.shuffle_window, seed_of(data.seed, "phase", number), tuple(uses))


def _window(where, use, data, tokens, problems) -> tuple[int, int, int] | None:
    """(begin, end, sequences of the store), or None with a problem added."""
    if use.source not in tokens:
        problems.append(f"{where}.source: the size of {use.source!r} is not known; prepare its store or give planned_tokens")
        return None
    lo, hi = use.window
    sequences = max(0, (tokens[use.source] - 1) // data.sequence_length)
    begin, end = (_round(_exact(edge) * sequences) for edge in (lo, hi))
    if begin == end:
        problems.append(
            f"{where}.window: ({lo}, {hi}) of the {tokens[use.source]} tokens of {use.source!r} holds no whole sequence of "
            f"{data.sequence_length} tokens; widen the window, shorten sequence_length, or drop the use"
        )
        return None
    return begin, end, sequences


def _entries(where, phase, available: Sequence[int], windows, length: int, problems) -> list[int]:
    """Rows of each use, from shares or by thinning all evenly to the budget."""
    rows = phase.tokens // length
    if phase.tokens and rows == 0:
        problems.append(f"{where}.tokens: found {phase.tokens}, must be at least one sequence of {length} tokens")
        return []
    shares = [use.share for use in phase.uses]
    if any(shares):
        entries = apportion(rows, [_exact(share) for share in shares])
        for i, (use, m, most, (begin, end, _)) in enumerate(zip(phase.uses, entries, available, windows, strict=True)):
            if m > most:
                fits = math.floor(most / _exact(use.share)) * length
                problems.append(
                    f"{where}.uses[{i}].share: {use.share} of {phase.tokens} tokens is {m * length} tokens of {use.source!r}, but its "
                    f"window and passes {use.passes:g} give {most * length}; set passes to at least {_up(m / (end - begin))}, or the "
                    f"phase's tokens to at most {fits}"
                )
        return entries
    total = sum(available)
    if total == 0:
        problems.append(
            f"{where}.uses: passes are so small that no source gives a single sequence; raise passes or shorten sequence_length"
        )
        return list(available)
    if not phase.tokens:
        return list(available)
    if rows > total:
        problems.append(
            f"{where}.tokens: found {phase.tokens}, but selection and repetition give {total * length}; lower tokens, widen windows, "
            f"or multiply passes by {_up(rows / total)}"
        )
        return []
    return apportion(rows, available)


def apportion(total: int, weights: Sequence) -> list[int]:
    """Splits `total` in proportion to the weights by largest remainder (ties to the first), exactly; weights are ints or Fractions."""
    whole = sum(weights)
    quotas = [Fraction(total) * weight / whole for weight in weights]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How often a range of quality of one source is read over the run (Kaiyuan-2B section 4: a step function of the quantile)."""

    low: float
    high: float
    passes: float  # mean number of times a sequence in [low, high) is read


@dataclasses.dataclass(frozen=True)
class Portion:
    """What one source gives to one phase."""

    phase: str
    source: str
    tokens: int
    share: float  # of the phase's tokens
    passes: float  # mean over the window
    window: tuple[float, float]
    order: str


def exposures(plan: Plan) -> dict[str, list[Exposure]]:
    """By source, from worst to best text: the steps of the exposure function, neighbours of equal passes joined."""
    result = {}
    for index, name in enumerate(plan.sources):
        uses = [use for phase in plan.phases for use in phase.uses if use.source == index]
        if not uses:
            result[name] = []
            continue
        sequences = uses[0].sequences
        spans = [span for use in uses for span in _spans(use)]
        edges = sorted({0, sequences}.union(*({begin, end} for begin, end, _ in spans)))
        steps: list[Exposure] = []
        for low, high in zip(edges, edges[1:], strict=False):
            passes = math.fsum(density for begin, end, density in spans if begin <= low and high <= end)
            if steps and math.isclose(steps[-1].passes, passes, abs_tol=1e-9):
                steps[-1] = dataclasses.replace(steps[-1], high=high / sequences)
            else:
                steps.append(Exposure(low / sequences, high / sequences, passes))
        result[name] = steps
    return result


def _spans(use: UsePlan) -> list[tuple[int, int, float]]:
    """(begin, end, mean number of times a sequence in between is read) of the parts of a use that are read alike."""
    if not use.taken:
        return [(use.begin, use.end, use.passes)]
    cuts = (use.begin + sampling.edges(use.width)).tolist()
    return [(low, high, taken / (high - low)) for low, high, taken in zip(cuts, cuts[1:], use.taken, strict=False)]


def portions(plan: Plan) -> list[Portion]:
    """What each use gives to each phase, in the order of the recipe."""
    return [
        Portion(
            phase=phase.name,
            source=plan.sources[use.source],
            tokens=use.entries * plan.sequence_length,
            share=use.entries / phase.entries,
            passes=use.passes,
            window=(use.begin / use.sequences, use.end / use.sequences),
            order=use.order,
        )
        for phase in plan.phases
        for use in phase.uses
    ]


def _exact(value: float) -> Fraction:
    # The decimal the user wrote: 0.3 of 5 sequences is 1.5, not a hair below it.
    return Fraction(repr(float(value)))


def _round(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def _up(value: float) -> str:
    # Four significant digits, rounded up, so that the suggested value is enough.
    digits = 3 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits) / 10**digits:g}"


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))
