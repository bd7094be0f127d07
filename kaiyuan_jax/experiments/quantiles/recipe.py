"""From what windows are worth to a recipe: keep-ratio and passes of every source in every phase.

Worth. More tokens lower a loss by about b for every factor e. The cells say by how much: b = (loss at half of the budget - loss at all of
it) / ln 2 in the best window of a domain, which counts what a decaying rate brings as if tokens had. A window whose model ends above that
best one by D is therefore worth

    e = exp(-D / b)

of its tokens: reading N tokens of it gives what e N tokens of the best text would have given. Losses first shrink towards their source's
mean by the share of their variance that is noise, so that windows which differ by chance are kept alike. Between windows e is joined by
straight lines, after it was made to fall with quality (isotonic regression by pooling neighbours): a keep-ratio takes the best part of a
source, whatever a curve does in between, and the report flags where the two disagree.

Exposures. How often each percent of a source is read is `data.reuse.allot`: the passes that make the most of a domain's tokens when text of
worth e loses worth with every pass (2305.16264). Text whose worth is below the price of another pass over better text is left out.

Phases. Passes k(t) fall with t, so they are a sum of P steps, phase p reading the part of the source whose passes reach beyond (p - 1) c,

    keep_p = integral of clip(k(t) / c - (p - 1), 0, 1) dt,      c = limit / P passes

which is strategic selective repetition as published: keep-ratios that shrink from phase to phase. Domains keep the share of the tokens that
they have in the stores: what a domain is worth is no question of quality (launch/study_mixture.py). Text below the lowest window was not
measured and is left out.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize

from kaiyuan_jax import config
from kaiyuan_jax.data import reuse

BANDS = 100  # of the measured part of a source
LEAST = 1e-9  # worth
LAST = 6  # checkpoints averaged, 2511.18903


@dataclasses.dataclass(frozen=True)
class Curve:
    """What text of one source is worth, by quality."""

    source: str
    domain: str
    upto: float  # quantile from the top to which it was measured
    bands: tuple[reuse.Band, ...]  # equal parts of [0, upto], the best first


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a phase reads of a source."""

    source: str
    ratio: float  # of the store, its best part
    passes: float


def slope(before: np.ndarray, after: np.ndarray, factor: float) -> float:
    """b, the loss that a factor e of tokens takes off, from losses float[...] before and after `factor` times the tokens."""
    return float(np.mean(np.asarray(before) - np.asarray(after)) / math.log(factor))


def worth(losses, best, b: float) -> np.ndarray:
    """Share of its tokens that text is worth, 1 for the best: of a window with this loss beside the `best` one's, any shapes; b above 0."""
    return np.exp(-np.maximum(np.asarray(losses, np.float64) - best, 0) / b)


def shrunk(losses_Q: np.ndarray, error: float) -> np.ndarray:
    """Losses of the windows of a source, drawn to their mean by the share of their variance that standard errors `error` explain."""
    mean, variance = losses_Q.mean(), losses_Q.var(ddof=1)
    return mean + (losses_Q - mean) * (max(0.0, 1 - error**2 / variance) if variance else 0.0)


def falling(values) -> np.ndarray:
    """The nearest sequence (least squares) that never rises."""
    return optimize.isotonic_regression(values, increasing=False).x


def curve(source: str, domain: str, tokens: int, quantiles: Sequence[float], window: float, worth_Q: np.ndarray) -> Curve:
    """The curve of a store of so many tokens from the worth of its windows; beyond the middles of the first and the last it is flat."""
    upto = min(1.0, quantiles[-1] + window)
    edges = np.linspace(0, upto, BANDS + 1)
    middles = np.array(quantiles) + window / 2
    values = np.maximum(np.interp((edges[1:] + edges[:-1]) / 2, middles, falling(worth_Q)), LEAST)
    sides = zip(np.maximum(1 - edges[1:], 0).tolist(), (1 - edges[:-1]).tolist(), values.tolist(), strict=True)
    bands = tuple(reuse.Band(source, low, high, tokens * (high - low), value) for low, high, value in sides)
    return Curve(source, domain, upto, bands)


def phases(curve: Curve, passes: np.ndarray, count: int, limit: float) -> list[Kept]:
    """Keep-ratios of `count` phases from passes float64[BANDS] that fall along a curve; a phase that keeps nothing has ratio 0."""
    each = limit / count
    ratios = [float(np.clip(passes / each - p, 0, 1).mean()) * curve.upto for p in range(count)]
    return [Kept(curve.source, round(ratio, 4), each) for ratio in ratios]


def propose(curves: Sequence[Curve], *, tokens: float, count: int, limit: float) -> list[list[Kept]]:
    """By phase, what to keep of every source; `tokens` in all, shared by domains as the measured text is.

    Raises UserError where `tokens` is more than `limit` passes of all that was measured.
    """
    sizes = {one.source: math.fsum(band.tokens for band in one.bands) for one in curves}
    kept: dict[str, list[Kept]] = {}
    for domain in dict.fromkeys(one.domain for one in curves):
        members = [one for one in curves if one.domain == domain]
        share = math.fsum(sizes[one.source] for one in members) / math.fsum(sizes.values())
        found = reuse.allot([band for one in members for band in one.bands], tokens * share, limit=limit)
        passes = np.array([allotment.passes for allotment in found]).reshape(len(members), BANDS)
        kept |= {one.source: phases(one, passes_B, count, limit) for one, passes_B in zip(members, passes, strict=True)}
    return [[kept[one.source][p] for one in curves] for p in range(count)]


def experiment(base: config.Experiment, proposal: Sequence[Sequence[Kept]], sources: Mapping[str, config.Source], name: str):
    """The proposal as an experiment to plan and to train.

    The first phase is shuffled and the later ones ascend, as published; an ascending order wants a rate that ends near a third of the peak
    and an average of the last checkpoints (2511.18903), which are set. Model, batch and peak are those of the proxies: change them.
    """
    parts = []
    for kept in proposal:
        uses = [
            config.Use(source=one.source, window=(round(1 - one.ratio, 4), 1.0), passes=round(one.passes, 4))
            for one in kept
            if one.ratio > 0
        ]
        if uses:
            parts.append(config.Phase(name=f"phase{len(parts) + 1}", uses=uses, order="ascending" if parts else "uniform"))
    used = {use.source for part in parts for use in part.uses}
    data = dataclasses.replace(
        base.data, sources=[source for name, source in sources.items() if name in used], phases=parts, domain_limits=[]
    )
    tokens = sum(sources[one.source].planned_tokens * one.ratio * one.passes for kept in proposal for one in kept)
    steps = max(1, int(tokens // (data.batch_size * data.sequence_length)))
    schedule = config.Schedule(
        kind="wsd", peak=base.schedule.peak, end=base.schedule.peak / 3, warmup=min(base.schedule.warmup, steps // 10), decay=0.2
    )
    every = max(1, steps // 100)
    return dataclasses.replace(
        base,
        name=name,
        output="",
        data=data,
        schedule=schedule,
        checkpoint=dataclasses.replace(base.checkpoint, every=every, keep=LAST, keep_steps=()),
        averaging=config.Averaging(kind="ema", last=min(LAST, steps // every)),
    )
