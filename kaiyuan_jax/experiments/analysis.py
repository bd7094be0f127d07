"""What the study says: predicted against actual, and the designed schedule against tuned ones; numbers in, JSON-able numbers out.

The law is fitted to the means over seeds of the training curves. How far its prediction of a final loss would move with other seeds is
asked directly: each seed's training curves are fitted alone and held against that seed's own unseen runs. A mean over n seeds comes
with the t interval of n - 1 degrees of freedom, which is wide for two or three seeds, and should be. Differences between schedules are
taken within a seed, where both saw the same batches and began with the same weights, and then averaged.

The runs to beat are tuned in hindsight: of each family the one with the lowest mean final loss over all seeds, by the sample of the
curves. The comparison is then made on the larger sample. This favours the baselines, by the choice among them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.schedules import build
from kaiyuan_jax.schedules.laws.curves import Curve

LEVEL = 0.95  # of every interval that is not a law's band
RESAMPLES = 2000


def seed_interval(values: Sequence[float], level: float = LEVEL) -> list[float] | None:
    """[low, high] of the mean of independent values by Student's t; None for fewer than two."""
    values = np.asarray(values, np.float64)
    if values.size < 2:
        return None
    half = special.stdtrit(values.size - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(values.size)
    return [float(values.mean() - half), float(values.mean() + half)]


def spread(values: Sequence[float]) -> dict:
    """A mean over seeds with its interval and its parts."""
    return {"mean": float(np.mean(values)), "interval": seed_interval(values), "seeds": [float(value) for value in values]}


def own_part(curve: Curve, trunk: np.ndarray) -> np.ndarray:
    """bool[E]: the points of a curve after its schedule first differs from `trunk` float64[T].

    Before, a branch of the constant run *is* the constant run, which the law was fitted to: there is nothing to predict.
    """
    return curve.steps >= (build.first_difference(curve.rates, trunk) or 0)


def errors(curve: Curve, predicted: np.ndarray, own: np.ndarray) -> dict:
    """How far a prediction float64[E] is from a curve, in nats, over its `own` points and at its end (predicted minus actual)."""
    apart = predicted - curve.losses
    return {"mae": float(np.abs(apart[own]).mean()), "worst": float(np.abs(apart[own]).max()), "final": float(apart[-1])}


def coverage(curve: Curve, low: np.ndarray, high: np.ndarray, own: np.ndarray) -> float:
    """Share of a curve's own points inside a band float64[E]."""
    return float(((low <= curve.losses) & (curve.losses <= high))[own].mean())


def tuned(finals: Mapping[str, float], families: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of each family the name with the lowest final loss."""
    return {family: min(names, key=lambda name: finals[name]) for family, names in families.items()}


def compare(first: Sequence[dict], second: Sequence[dict]) -> dict:
    """Nats per token of `first` minus `second`, mean over sources and seeds; each a list over seeds of `runs.held_out`.

    `documents` is the paired 95% bootstrap interval over documents, of the runs as they are; `seeds` holds each seed's difference, and
    `interval` the t interval over them. Only a difference that both exclude 0 from is more than chance.
    """
    by_seed = [loss(one) - loss(other) for one, other in zip(first, second, strict=True)]
    samples = []
    for source, table in first[0].items():
        for run in (*first, *second):
            if not np.array_equal(run[source]["document"], table["document"]) or not np.array_equal(run[source]["tokens"], table["tokens"]):
                raise ValueError(f"{source}: the runs were not evaluated on the same documents")
        gap = np.mean([run[source]["nats"] for run in first], axis=0) - np.mean([run[source]["nats"] for run in second], axis=0)
        samples.append(bootstrap.resampled_ratios(gap, table["tokens"], resamples=RESAMPLES, seed=0, key=source))
    return spread(by_seed) | {"documents": bootstrap.percentiles(np.mean(samples, axis=0), LEVEL)}


def loss(run: dict) -> float:
    """Held-out nats per token of one run, plain mean over sources."""
    return float(np.mean([bootstrap.ratio(table["nats"], table["tokens"]) for table in run.values()]))


def verdict(difference: dict, names: tuple[str, str]) -> str:
    """A comparison in words, claiming no more than its two intervals allow."""
    value, seeds, documents = difference["mean"], difference["interval"], difference["documents"]
    sides = [interval is not None and (interval[0] > 0 or interval[1] < 0) for interval in (seeds, documents)]
    if all(sides):
        return f"{names[0]} is {'better' if value < 0 else 'worse'} than {names[1]} here."
    if sides[0]:
        return f"No conclusion between {names[0]} and {names[1]}: other held-out documents could reverse it."
    if sides[1]:
        return f"No conclusion between {names[0]} and {names[1]}: other seeds could reverse it."
    return f"No conclusion between {names[0]} and {names[1]}: other seeds or other documents could reverse it."
