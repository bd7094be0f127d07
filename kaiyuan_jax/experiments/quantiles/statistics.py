"""What the cells of a benchmark say of one measure, and how sure that is.

A measure of a cell is a ratio of sums over held-out documents or items, v = sum_d n_d / sum_d w_d, such as bits over bytes. With I sources,
Q quantiles and S seeds there are v_iqs. Cells of a seed share their initial weights, so the model is

    v_iqs = m_iq + g_s + h_is + e_iqs

with g_s what a seed does to all cells, h_is what it does to a source, e the rest. g cancels in every comparison. The variance of e is
estimated for each source from (Q - 1)(S - 1) degrees of freedom, that of h from (I - 1)(S - 1), both pooled over windows: three seeds of
one cell alone would say next to nothing of it.

Everything is then asked of R draws of the table m: documents drawn again, the same for all cells, plus normal noise with the variances of
e and h over S, which are drawn too (scaled inverse chi-square, so that the margins are Student's t). Intervals of differences, of ranks and
of worth are percentiles of these draws.

Measures of one cell are of one model: what its seed does to one task it mostly does to the next. So over several measures noise does not
average out as documents do. That of their mean is estimated from the cells' means, and mean ranks take noise that all measures have in
common, which can only make them less sure.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.evaluation import bootstrap

LEVEL = 0.95
DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Measure:
    """One metric of one task in every cell; lower is better (accuracies are given as errors)."""

    name: str
    numerators: np.ndarray  # float64[I, Q, S, D]
    denominators: np.ndarray  # float64[D]

    @property
    def values(self) -> np.ndarray:
        """float64[I, Q, S]."""
        return self.numerators.sum(-1) / self.denominators.sum()


@dataclasses.dataclass(frozen=True)
class Draws:
    """A measure as a table of means over seeds, and what it could have been."""

    key: tuple[int, ...]  # of the random numbers of its noise
    documents: np.ndarray  # float64[I, Q, R], documents drawn again and no other noise
    mean: np.ndarray  # float64[I, Q]
    samples: np.ndarray  # float64[I, Q, R]
    seeds: np.ndarray  # float64[I, Q, S], what the mean is of
    noise: np.ndarray  # float64[I], standard deviation of e

    @property
    def interval(self) -> np.ndarray:
        """float64[I, Q, 2]."""
        return np.moveaxis(np.quantile(self.samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1), 0, -1)


def draws(measure: Measure, *, seed: int = 0) -> Draws:
    """Raises ValueError below two seeds or two quantiles, where nothing can be said of noise."""
    values = measure.values
    _, quantiles, seeds = values.shape
    if seeds < 2 or quantiles < 2:
        raise ValueError(f"{measure.name}: found {seeds} seeds and {quantiles} quantiles, needs two of each to tell noise from effect")
    documents = bootstrap.resampled_ratios(
        measure.numerators.mean(2), measure.denominators, resamples=DRAWS, seed=seed, key=measure.name
    )  # [I, Q, R]
    return _noisy((seed, *measure.name.encode()), documents, values)


def combined(parts: Sequence[Draws]) -> Draws:
    """The plain mean of several measures, every one with the same weight."""
    documents, seeds = (np.mean([getattr(part, field) for part in parts], axis=0) for field in ("documents", "seeds"))
    return _noisy(parts[0].key, documents, seeds)


def _noisy(key: tuple[int, ...], documents: np.ndarray, values: np.ndarray) -> Draws:
    """Draws of documents float64[I, Q, R] with the noise that cells float64[I, Q, S] show."""
    random = np.random.default_rng(key)
    sources, quantiles, seeds = values.shape
    mean = values.mean(2)
    apart = values - mean[..., None]
    by_source = apart.mean(1)  # [I, S]: g + h
    freedom = (quantiles - 1) * (seeds - 1)
    variance = ((apart - by_source[:, None]) ** 2).sum((1, 2)) / freedom  # [I]
    within = np.sqrt(_drawn(random, variance[:, None], freedom) / seeds)[:, None] * random.standard_normal((sources, quantiles, DRAWS))
    samples = documents + within
    if sources > 1:
        freedom = (sources - 1) * (seeds - 1)
        between = ((by_source - by_source.mean(0)) ** 2).sum() / freedom
        between = max(0.0, between - variance.mean() / quantiles)  # what e leaves in a mean over quantiles is no effect of the source
        scale = np.sqrt(_drawn(random, np.full((sources, 1), between), freedom) / seeds)[:, None]
        samples = samples + scale * random.standard_normal((sources, 1, DRAWS))
    return Draws(key, documents, mean, samples, values, np.sqrt(variance))


def _drawn(random, variance: np.ndarray, freedom: int) -> np.ndarray:
    """float64[..., R] variances that could have given an estimate float64[..., 1] with so many degrees of freedom."""
    return variance * freedom / random.chisquare(freedom, (*variance.shape[:-1], DRAWS))


# Quality and performance


@dataclasses.dataclass(frozen=True)
class Inversion:
    """Two windows of a source of which the better by quality is the worse one."""

    better: int  # index of the quantile that quality puts first
    worse: int
    difference: float  # how much worse it is, above 0
    interval: tuple[float, float]  # of that difference alone
    score: float  # in standard errors
    flagged: bool  # beyond what the largest of all pairs of this curve reaches by chance


@dataclasses.dataclass(frozen=True)
class Shape:
    """How a measure follows quality in one source."""

    correlation: float  # Spearman's, of quality and performance: 1 where better text always makes the better model
    correlation_interval: tuple[float, float]
    inversions: tuple[Inversion, ...]  # all pairs the wrong way round, largest score first
    p: float  # chance of a largest score like this where all windows are equal
    gain: float  # of the top window over the last one, above 0 where quality pays
    gain_interval: tuple[float, float]


def shapes(table: Draws) -> list[Shape]:
    """One for each source.

    The test of monotony: of all Q (Q - 1) / 2 pairs the largest inversion in standard errors is held against the largest that centred draws
    give, which is what noise alone gives where all windows are equal; so at most 5% of curves have a flag by chance, whatever Q is.
    """
    return [_shape(mean, samples) for mean, samples in zip(table.mean, table.samples, strict=True)]


def _shape(mean_Q: np.ndarray, samples_QR: np.ndarray) -> Shape:
    pairs = list(itertools.combinations(range(len(mean_Q)), 2))
    first, second = np.array(pairs).T
    difference, drawn = mean_Q[first] - mean_Q[second], samples_QR[first] - samples_QR[second]  # above 0: lower quality does better
    error = np.maximum(drawn.std(axis=1), np.finfo(np.float64).tiny)  # accuracies of two windows may be equal in every draw
    score = difference / error
    chance = ((drawn - drawn.mean(1, keepdims=True)) / error[:, None]).max(0)
    critical = np.quantile(chance, LEVEL)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    found = [
        Inversion(int(a), int(b), float(difference[k]), (float(low[k]), float(high[k])), float(score[k]), bool(score[k] > critical))
        for k, (a, b) in enumerate(pairs)
        if difference[k] > 0
    ]
    place = np.arange(len(mean_Q))
    ranked = _spearman(place, samples_QR.T)
    gains = samples_QR[-1] - samples_QR[0]
    return Shape(
        correlation=float(_spearman(place, mean_Q[None])[0]),
        correlation_interval=_central(ranked),
        inversions=tuple(sorted(found, key=lambda one: -one.score)),
        p=float((chance >= score.max()).mean()),
        gain=float(mean_Q[-1] - mean_Q[0]),
        gain_interval=_central(gains),
    )


def _spearman(place_Q: np.ndarray, values_RQ: np.ndarray) -> np.ndarray:
    """Rank correlation of float[R, Q] with places: measures rise as quality falls where quality decides."""
    ranks = values_RQ.argsort(1).argsort(1).astype(np.float64)
    ranks -= ranks.mean(1, keepdims=True)
    centred = place_Q - place_Q.mean()
    return (ranks @ centred) / np.sqrt((centred**2).sum() * (ranks**2).sum(1))


def _central(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# Sources


@dataclasses.dataclass(frozen=True)
class Place:
    """A source among the others."""

    source: int
    value: float
    behind: float  # the best one's lead over it
    behind_interval: tuple[float, float]
    best: float  # share of the draws in which it is the best
    rank: tuple[float, float]  # interval of its rank, 1 the best


def ranking(mean_I: np.ndarray, samples_IR: np.ndarray) -> list[Place]:
    """Sources from the best to the worst by a value of each, lower better, float64[I] and its draws float64[I, R]."""
    order = np.argsort(mean_I, kind="stable")
    ranks = samples_IR.argsort(0).argsort(0) + 1
    lead = samples_IR - samples_IR[order[0]]
    return [
        Place(
            source=int(i),
            value=float(mean_I[i]),
            behind=float(mean_I[i] - mean_I[order[0]]),
            behind_interval=_central(lead[i]),
            best=float((ranks[i] == 1).mean()),
            rank=_central(ranks[i]),
        )
        for i in order
    ]


def rank_means(tables: Sequence[Draws], quantile: int) -> list[Place]:
    """Sources by their mean rank over several measures at one quantile."""
    means = np.mean([table.mean[:, quantile].argsort().argsort() + 1 for table in tables], axis=0)
    alike = [_noisy(tables[0].key, table.documents, table.seeds).samples for table in tables]
    samples = np.mean([drawn[:, quantile].argsort(0).argsort(0) + 1 for drawn in alike], axis=0)
    return ranking(means, samples)
