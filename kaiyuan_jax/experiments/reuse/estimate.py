"""E(K, N) of real runs, with bands: what a number would be with other held-out documents and other seeds.

A loss is the mean over sources of nats per token. In a resample the documents of every source are drawn again, the same for all runs and
steps, and the seeds are drawn again too, each with both its one-pass run and its repeated ones, since these share their text; then losses
are averaged over seeds and E is computed anew. Three seeds drawn again say little of seeds: E of each seed alone is kept beside the band.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize

from kaiyuan_jax.data.reuse import worth
from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.experiments.reuse import effective


@dataclasses.dataclass(frozen=True)
class Losses:
    """Nats per token: as measured, and in R resamples of documents."""

    tokens: np.ndarray  # int64[P], tokens read at each point
    found_SFP: np.ndarray  # seed, run (0 is the one-pass run), point
    resampled_SFPR: np.ndarray


def losses(tables: Mapping[str, tuple[np.ndarray, np.ndarray]], tokens: np.ndarray, resamples: int) -> Losses:
    """From source -> (nats float64[S, 1 + F, P, D], tokens int64[D]); sources count alike."""
    found = [nats.sum(axis=-1) / count.sum() for nats, count in tables.values()]
    drawn = [bootstrap.resampled_ratios(nats, count, resamples=resamples, seed=0, key=source) for source, (nats, count) in tables.items()]
    return Losses(tokens, np.mean(found, axis=0), np.mean(drawn, axis=0))


def reuse(tokens: np.ndarray, losses_FP: np.ndarray, fresh: Sequence[int]) -> list[np.ndarray]:
    """Of each N: E at the ends of its epochs (`epochs_of`), by the one-pass run of row 0."""
    curve = effective.Curve(tokens.astype(np.float64), losses_FP[0])
    return [effective.reuse(curve, row[tokens % n == 0], n) for row, n in zip(losses_FP[1:], fresh, strict=True)]


def epochs_of(tokens: np.ndarray, fresh: int) -> np.ndarray:
    """int64: the numbers of whole epochs of N = `fresh` tokens among the points."""
    return tokens[tokens % fresh == 0] // fresh


def summary(measured: Losses, fresh: Sequence[int], *, share: float = 0.75, seed: int = 0) -> dict:
    """Everything of reuse.json that is estimated: by N, values, bands of 95% and single seeds."""
    seeds, _, _, resamples = measured.resampled_SFPR.shape
    random = np.random.default_rng(seed)
    drawn = [
        reuse(measured.tokens, measured.resampled_SFPR[random.integers(seeds, size=seeds), :, :, r].mean(axis=0), fresh)
        for r in range(resamples)
    ]
    centre = reuse(measured.tokens, measured.found_SFP.mean(axis=0), fresh)
    alone = [reuse(measured.tokens, losses_FP, fresh) for losses_FP in measured.found_SFP]
    sizes = []
    for number, n in enumerate(fresh):
        epochs, samples_RK = epochs_of(measured.tokens, n), np.array([one[number] for one in drawn])
        sizes.append(
            {
                "fresh": int(n),
                "epochs": epochs.tolist(),
                "reuse": _finite(centre[number]),
                "bands": [_band(column) for column in samples_RK.T],
                "seeds": [_finite(one[number]) for one in alone],
                "law": [worth(float(k)) for k in epochs],
                "most": _number(centre[number], samples_RK, lambda e: float(np.max(e))),
                "saturation": _number(centre[number], samples_RK, lambda e, k=epochs: effective.saturation(k, e, share)),
                "decay": _number(centre[number], samples_RK, lambda e, k=epochs: fit_decay(k, e)),
            }
        )
    trend = _trend(measured.tokens, fresh, centre, drawn)
    return {"share": share, "law_saturation": _law_saturation(share), "sizes": sizes, "trend": trend}


def _trend(tokens: np.ndarray, fresh: Sequence[int], centre: list, drawn: list) -> dict:
    """How E grows with N after the most epochs that runs of every N were evaluated at; null where there is no such number."""
    shared = set.intersection(*(set(epochs_of(tokens, n).tolist()) for n in fresh))
    if not shared:
        return {"epochs": None, "value": None, "band": [None, None]}
    places = [epochs_of(tokens, n).tolist().index(max(shared)) for n in fresh]
    values, *samples = ([of_n[place] for of_n, place in zip(one, places, strict=True)] for one in (centre, *drawn))
    band = _band(np.array([exponent_of(fresh, one) for one in samples]))
    return {"epochs": max(shared), "value": _plain(exponent_of(fresh, values)), "band": band}


def fit_decay(epochs: np.ndarray, reuse: np.ndarray) -> float:
    """R of 1 + R (1 - exp(-(K - 1) / R)) nearest to ln E, up to where E is largest: beyond, no such R describes a falling E."""
    last = int(np.argmax(reuse)) + 1
    epochs, logs = epochs[:last], np.log(reuse[:last])
    if last < 2 or not np.isfinite(logs).all():
        return float("nan")

    def miss(log_decay: float) -> float:
        return sum((np.log(worth(float(k), np.exp(log_decay))) - value) ** 2 for k, value in zip(epochs, logs, strict=True))

    return float(np.exp(optimize.minimize_scalar(miss, bounds=(np.log(0.05), np.log(1e3)), method="bounded").x))


def exponent_of(fresh: Sequence[int], reuse: Sequence[float]) -> float:
    """How E of one number of epochs grows with N: the slope of ln E over ln N; NaN for a single N or an E that is not finite."""
    if len(fresh) < 2 or not np.isfinite(reuse).all():
        return float("nan")
    return float(np.polyfit(np.log(fresh), np.log(reuse), 1)[0])


def _law_saturation(share: float) -> float:
    epochs = np.geomspace(1, 1_000, 2_000)
    return effective.saturation(epochs, np.array([worth(float(k)) for k in epochs]), share)


def _number(centre: np.ndarray, samples_RK: np.ndarray, of) -> dict:
    return {"value": _plain(of(centre)), "band": _band(np.array([of(row) for row in samples_RK]))}


def _band(samples: np.ndarray) -> list[float | None]:
    """[low, high] of 95% of resamples, infinite ones in their place; None for what is infinite, or nothing at all."""
    samples = np.sort(samples[~np.isnan(samples)])
    if not samples.size:
        return [None, None]
    ends = np.quantile(samples, [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2], method="nearest")
    return [_plain(float(end)) for end in ends]


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _finite(values: np.ndarray) -> list[float | None]:
    return [_plain(value) for value in values]
