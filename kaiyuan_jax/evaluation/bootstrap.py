"""Intervals by resampling documents.

Tokens of one document are not independent, documents nearly are; so the unit that is drawn again is the document. A loss is a ratio
of sums over documents, sum_d n_d / sum_d w_d (nats over tokens, bits over bytes, right answers over questions). One resample draws D
documents with replacement, which is a vector of counts c_d ~ Multinomial(D, 1/D), and gives sum_d c_d n_d / sum_d c_d w_d: all
resamples are one matrix product.

Two models that were read on the same documents share the counts (same documents, same seed), so the noise common to both cancels in their
difference: the paired interval is the percentile interval of the differences. A mean over sources draws each source on its own.
"""

import zlib

import numpy as np

LEVEL = 0.95
CHUNK = 4_000_000  # counts held in memory at a time


def resampled_ratios(numerators, denominators, *, resamples: int, seed: int, key: str = "") -> np.ndarray:
    """Ratios of sums in bootstrap resamples of documents.

    numerators: float[..., D]; denominators: float[D] or float[..., D], not negative. Returns float64[..., resamples]; NaN where a
    resample has no weight at all. The draws depend on (D, resamples, seed, key) alone: equal arguments pair two models. Raises
    ValueError for D = 0.
    """
    numerators, denominators = np.broadcast_arrays(np.asarray(numerators, np.float64), np.asarray(denominators, np.float64))
    documents = numerators.shape[-1]
    if documents == 0:
        raise ValueError("bootstrap: found 0 documents, needs at least 1")
    random = np.random.default_rng([seed, zlib.crc32(key.encode())])
    step = max(1, CHUNK // documents)
    ratios = []
    for start in range(0, resamples, step):
        counts = random.multinomial(documents, np.full(documents, 1 / documents), size=min(step, resamples - start)).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append((numerators @ counts.T) / (denominators @ counts.T))
    return np.concatenate(ratios, axis=-1)


def percentiles(samples, level: float = LEVEL) -> list[float] | None:
    """[low, high] of the central `level` of bootstrap samples float[R]; None when none of them is a number."""
    samples = np.asarray(samples, np.float64)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def ratio(numerators, denominators) -> float:
    """sum numerators / sum denominators; NaN without weight."""
    weight = float(np.sum(denominators))
    return float(np.sum(numerators)) / weight if weight else float("nan")


def ratio_interval(numerators, denominators, *, resamples: int, seed: int, key: str = "") -> list[float] | None:
    """Percentile interval of a ratio of sums over documents float[D]; None below 2 documents, where resampling says nothing."""
    if np.count_nonzero(denominators) < 2:
        return None
    return percentiles(resampled_ratios(numerators, denominators, resamples=resamples, seed=seed, key=key))


def mean_of_sources(tables: dict[str, tuple], *, resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """Plain mean over sources of each source's ratio, every source with the same weight whatever its size.

    tables: source -> (numerators [D_i], denominators [D_i]). Returns (estimate, float64[resamples]), sources drawn apart from one another.
    """
    estimate = float(np.mean([ratio(*table) for table in tables.values()]))
    samples = np.mean([resampled_ratios(*table, resamples=resamples, seed=seed, key=source) for source, table in tables.items()], axis=0)
    return estimate, samples
