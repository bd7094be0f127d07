"""Which differences between models are more than chance.

Two kinds of chance are kept apart, because a difference can survive one and not the other:

    documents   had other held-out documents been drawn, the difference would move: the paired bootstrap interval over documents
    seeds       had the same recipe been run with other seeds, it would move too: the seed spread, the largest difference (maximum minus
                minimum) between runs that differ in nothing but their seeds

A group is a recipe and a kind of model (final checkpoint, or an average), with one model for each repeated seed; a group's value is
the mean over its repeats. Averaging is compared inside each run, where the seed is the same on both sides: its yardstick is the
spread of the *gain* between repeats, or the seed spread where no averaged recipe was repeated. A claim is made only where a
difference passes both tests.
"""

import dataclasses

import numpy as np

from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.report.load import FINAL, Model, Run, recipes

RESAMPLES = 2000
SEED = 0


@dataclasses.dataclass(frozen=True)
class Group:
    """The repeats of one recipe, looked at as one kind of model."""

    recipe: str
    kind: str
    models: tuple[Model, ...]

    @property
    def bits(self) -> float:
        return float(np.mean([model.bits for model in self.models]))

    @property
    def spread(self) -> float | None:
        """Maximum minus minimum over the repeats; None for a single run."""
        bits = [model.bits for model in self.models]
        return max(bits) - min(bits) if len(bits) > 1 else None

    @property
    def label(self) -> str:
        return f"{self.recipe}, {self.models[0].label}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One comparison in bits per byte: `value` below 0 means that the first of the two is better."""

    title: str
    value: float
    interval: list[float] | None
    noise: float | None
    repeats: tuple[int, int]

    @property
    def excludes_zero(self) -> bool:
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def exceeds_noise(self) -> bool:
        return self.noise is not None and abs(self.value) > self.noise

    @property
    def holds(self) -> bool:
        return self.excludes_zero and self.exceeds_noise

    @property
    def text(self) -> str:
        """The comparison in words, claiming no more than both tests allow."""
        direction = "better" if self.value < 0 else "worse"
        if self.interval is None:
            documents = "no paired interval (the two were not evaluated on the same documents)"
        else:
            low, high = self.interval
            documents = f"95% interval over documents {low:+.4f} to {high:+.4f}, which {'excludes' if self.excludes_zero else 'includes'} 0"
        if self.noise is None:
            seeds = "seed noise unknown, as no recipe was repeated"
        elif self.exceeds_noise:
            seeds = f"exceeds the seed noise of {self.noise:.4f}" + (f" ({abs(self.value) / self.noise:.1f} times)" if self.noise else "")
        else:
            seeds = f"does not exceed the seed noise of {self.noise:.4f}"
        if self.holds:
            end = f"{direction.capitalize()} here, at this size and on this text."
        elif not self.exceeds_noise:
            end = "No conclusion: runs of one recipe may differ as much."
        else:
            end = "No conclusion: other held-out documents could reverse it."
        runs = " (means of {} and {} runs)".format(*self.repeats) if max(self.repeats) > 1 else ""
        return f"{self.value:+.4f} bits per byte{runs}; {seeds}; {documents}. {end}"


def groups(runs: list[Run]) -> list[Group]:
    """All groups that were evaluated, recipe by recipe, the final checkpoint first."""
    found = []
    for recipe, repeats in recipes(runs).items():
        kinds = dict.fromkeys(model.kind for run in repeats for model in run.models)
        for kind in sorted(kinds, key=lambda kind: kind != FINAL):
            models = tuple(model for run in repeats if (model := run.model(kind)))
            found.append(Group(recipe, kind, models))
    return found


def seed_noise(found: list[Group]) -> tuple[float, Group] | None:
    """The largest spread between repeats of one recipe and kind, and where it was seen; None where nothing was repeated."""
    spreads = [(group.spread, index) for index, group in enumerate(found) if group.spread is not None]
    if not spreads:
        return None
    spread, index = max(spreads)
    return spread, found[index]


def difference(
    first: tuple[Model, ...], second: tuple[Model, ...], source: str | None = None, low: float = 0.0, high: float = 1.0
) -> tuple[float, list[float] | None]:
    """Mean bits per byte of `first` minus that of `second`, and its paired 95% interval over documents.

    Of one source (where [low, high) may name one of its quality bins), or the mean over all sources. The interval is None unless all
    models saw the same documents.
    """
    value = float(np.mean([bits(m, source, low, high) for m in first]) - np.mean([bits(m, source, low, high) for m in second]))
    samples = [paired_samples(first, second, name, low, high) for name in ([source] if source else first[0].result["heldout"])]
    if any(sample is None for sample in samples):
        return value, None
    return value, bootstrap.percentiles(np.mean(samples, axis=0))


def bits(model: Model, source: str | None = None, low: float = 0.0, high: float = 1.0) -> float:
    """Held-out bits per byte as the evaluation wrote it: the mean over sources, of one source, or of one quality bin of it."""
    if source is None:
        return model.bits
    entry = model.result["heldout"][source]
    if (low, high) != (0.0, 1.0):
        entry = next(found for found in entry["quantiles"] if (found["low"], found["high"]) == (low, high))
    return entry["bits_per_byte"]


def paired_samples(first, second, source: str, low: float = 0.0, high: float = 1.0) -> np.ndarray | None:
    """Bootstrap samples float64[R] of the difference on documents of quality quantile [low, high); None without pairs."""
    tables = [_documents(model, source) for model in (*first, *second)]
    if any(table is None for table in tables):
        return None
    document, _, size, quantile = tables[0]
    if not all(np.array_equal(table[0], document) and np.array_equal(table[2], size) for table in tables):
        return None
    inside = (quantile >= low) & (quantile < high)
    if np.count_nonzero(size[inside]) < 2:
        return None
    bits_MD = np.array([table[1][inside] for table in tables])  # M models, D documents
    gap_D = bits_MD[: len(first)].mean(axis=0) - bits_MD[len(first) :].mean(axis=0)
    return bootstrap.resampled_ratios(gap_D, size[inside], resamples=RESAMPLES, seed=SEED, key=f"{source}/{low}")


def against_baseline(found: list[Group], baseline: Group) -> list[Verdict]:
    """Every group against the baseline."""
    noise = seed_noise(found)
    verdicts = []
    for group in found:
        if group is not baseline:
            value, interval = difference(group.models, baseline.models)
            repeats = len(group.models), len(baseline.models)
            verdicts.append(Verdict(f"{group.label} against {baseline.label}", value, interval, noise and noise[0], repeats))
    return verdicts


def averaging_gains(runs: list[Run]) -> list[tuple[str, str, list[tuple[Model, Model]]]]:
    """(recipe, kind of average, [(average, final) of each run that has both])."""
    gains = []
    for recipe, repeats in recipes(runs).items():
        for kind in dict.fromkeys(model.kind for run in repeats for model in run.models if model.kind != FINAL):
            pairs = [(run.model(kind), run.model(FINAL)) for run in repeats if run.model(kind) and run.model(FINAL)]
            if pairs:
                gains.append((recipe, kind, pairs))
    return gains


def averaging(runs: list[Run]) -> list[Verdict]:
    """What averaging did inside each recipe, average minus final checkpoint."""
    gains, noise = averaging_gains(runs), seed_noise(groups(runs))
    changes = [[a.bits - b.bits for a, b in pairs] for _, _, pairs in gains]
    spreads = [max(change) - min(change) for change in changes if len(change) > 1]
    yardstick = max(spreads) if spreads else noise and noise[0]
    verdicts = []
    for recipe, _, pairs in gains:
        averages, finals = zip(*pairs, strict=True)
        value, interval = difference(averages, finals)
        verdicts.append(
            Verdict(f"{recipe}: {averages[0].label} against its final checkpoint", value, interval, yardstick, (len(pairs),) * 2)
        )
    return verdicts


def _documents(model: Model, source: str):
    try:
        return tuple(model.arrays[f"heldout/{source}/{field}"] for field in ("document", "bits", "bytes", "quantile"))
    except KeyError:
        return None
