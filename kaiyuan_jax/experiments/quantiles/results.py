"""results.json: every number of the report, from cells that are trained and measured; recipe.json beside it.

Targets are the bits per byte of every task, the smoothest metric there is; the recipe is made from their plain mean, or from the tasks that
the user names. Other metrics are shown beside them.
"""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import config, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments.quantiles import recipe, statistics, work
from kaiyuan_jax.experiments.quantiles.cells import Cell, Study
from kaiyuan_jax.experiments.quantiles.measured import LOWER, Tasks
from kaiyuan_jax.models import flops

SHOWN = (*LOWER, "accuracy")  # metrics


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the recipe is to be."""

    targets: tuple[str, ...] = ()  # tasks that count; empty: all
    tokens: int = 0  # of all phases; 0: as many as were measured, so one pass on average
    phases: int = 4
    limit: float = 4.0  # passes of the best text, all phases together


def collect(study: Study, found: Sequence[Cell], measured: Tasks, folder: Path, wish: Wish) -> dict:
    """Writes results.json and recipe.json; returns what the first holds. Raises UserError for cells that diverged."""
    if bad := work.diverged(folder, found):
        raise UserError(f"{len(bad)} cells diverged: {', '.join(bad[:5])}; lower config.schedule.peak and give another --output")
    check(wish, measured, study)
    targets = wish.targets or tuple(measured.names)
    whole, half = (measures(study, found, measured, folder, part) for part in ("whole", "half"))
    tables = {key: statistics.draws(measure) for key, measure in whole.items()}
    counted = [key for key in whole if key[0] in targets and key[1] in LOWER]
    mean = statistics.combined([tables[key] for key in counted])
    before = np.mean([half[key].values for key in counted], axis=0)  # [I, Q, S]
    worths = _worths(study, mean, before)
    proposal = recipe.propose(worths["curves"], tokens=wish.tokens or worths["tokens"], count=wish.phases, limit=wish.limit)
    experiment = recipe.experiment(study.base, proposal, _sources(study, measured), f"{study.base.name}_quantiles")
    storage.replace(folder / "recipe.json", config.to_json(experiment))
    results = {
        "setting": _setting(study, measured, found),
        "texts": [_text(study, found, text) for text in study.texts],
        "measures": [_entry(*key, table, study) for key, table in tables.items()],
        "mean": _entry("mean of " + ", ".join(targets), "bits_per_byte", mean, study) | {"targets": list(targets)},
        "ranks": [_places(statistics.rank_means([tables[key] for key in counted], q), study) for q in range(len(study.quantiles))],
        "worth": worths["entries"],
        "recipe": {
            "tokens": wish.tokens or worths["tokens"],
            "limit": wish.limit,
            "upto": min(1.0, study.quantiles[-1] + study.window),
            "phases": [[dataclasses.asdict(one) for one in kept] for kept in proposal],
        },
    }
    storage.replace(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return results


def check(wish: Wish, measured: Tasks, study: Study) -> None:
    """Raises UserError for targets that are no tasks and for more tokens than the text that is measured gives, before any work."""
    for name in wish.targets:
        if name not in measured.names:
            raise UserError(f"--targets: found {name!r}, must be one of {', '.join(measured.names)}")
    unique = min(1.0, study.quantiles[-1] + study.window) * sum(text.tokens for text in study.texts)
    if wish.tokens > wish.limit * unique:
        raise UserError(
            f"--recipe_tokens: found {wish.tokens:,}, must be at most {int(wish.limit * unique):,}, --limit={wish.limit:g} passes of the "
            f"{int(unique):,} tokens that the windows span"
        )


def measures(study: Study, found: Sequence[Cell], measured: Tasks, folder: Path, part: str) -> dict[tuple[str, str], statistics.Measure]:
    """(task, metric) -> its sums in every cell at "half" or "whole" of the budget, with the sign turned where higher is better."""
    by_place = {(cell.text.name, cell.quantile, cell.seed): cell for cell in found}
    shape = (len(study.texts), len(study.quantiles), study.seeds)
    result = {}
    for task in measured.names:
        read = [
            work.table(folder, by_place[text.name, t, seed], task, part)
            for text in study.texts
            for t in study.quantiles
            for seed in range(study.seeds)
        ]
        for metric in (name for name in read[0] if name in SHOWN):
            over = np.stack([table[metric][0] for table in read]).reshape(*shape, -1).astype(np.float64)
            sign = 1 if metric in LOWER else -1
            result[task, metric] = statistics.Measure(f"{task}/{metric}", sign * over, read[0][metric][1].astype(np.float64))
    return result


def _entry(task: str, metric: str, table: statistics.Draws, study: Study) -> dict:
    """A measure in numbers with the sign of its metric; changes are from the top window, below 0 where the model is better."""
    sign = 1 if metric in LOWER else -1
    change = table.samples - table.samples[:, :1]
    inside = np.quantile(change, [(1 - statistics.LEVEL) / 2, (1 + statistics.LEVEL) / 2], axis=-1)
    return {
        "task": task,
        "metric": metric,
        "mean": (sign * table.mean).tolist(),
        "interval": np.sort(sign * table.interval, axis=-1).tolist(),
        "seeds": (sign * table.seeds).tolist(),
        "noise": table.noise.tolist(),
        "change": (table.mean - table.mean[:, :1]).tolist(),
        "change_interval": np.moveaxis(inside, 0, -1).tolist(),
        "shapes": [dataclasses.asdict(shape) for shape in statistics.shapes(table)],
        "ranking": [_places(statistics.ranking(table.mean[:, q], table.samples[:, q]), study, sign) for q in range(len(study.quantiles))],
    }


def _places(places: Sequence[statistics.Place], study: Study, sign: int = 1) -> list[dict]:
    return [dataclasses.asdict(place) | {"source": study.texts[place.source].name, "value": sign * place.value} for place in places]


def _worths(study: Study, mean: statistics.Draws, before: np.ndarray) -> dict:
    """Curves of worth by source, and the same in numbers with intervals; `before` are the losses at half of the budget [I, Q, S]."""
    entries, curves = [], []
    domains = [text.domain for text in study.texts]
    kept = np.array([recipe.shrunk(one, noise / np.sqrt(study.seeds)) for one, noise in zip(mean.mean, mean.noise, strict=True)])  # [I, Q]
    for domain in dict.fromkeys(domains):
        members = [i for i, one in enumerate(domains) if one == domain]
        best = members[int(mean.mean[members].min(1).argmin())]
        q = int(mean.mean[best].argmin())
        b = recipe.slope(before[best, q], mean.seeds[best, q], study.steps / study.half)
        if b <= 0:
            raise UserError(
                f"--tokens: the best cells of {study.texts[best].name!r} learn nothing in the second half of {study.tokens:,} tokens, so "
                "text cannot be weighed; give more tokens, or a schedule whose rate is not near zero by then"
            )
        for i in members:
            text = study.texts[i]
            drawn = recipe.worth(mean.samples[i], mean.samples[best, q], b)
            inside = np.quantile(drawn, [(1 - statistics.LEVEL) / 2, (1 + statistics.LEVEL) / 2], axis=-1)
            of_windows = recipe.worth(kept[i], kept[members].min(), b)
            entries.append(
                {"source": text.name, "domain": domain, "slope": b, "best": [study.texts[best].name, study.quantiles[q]]}
                | {"worth": recipe.worth(mean.mean[i], mean.mean[best, q], b).tolist(), "interval": inside.T.tolist()}
                | {"falling": recipe.falling(of_windows).tolist()}
            )
            curves.append(recipe.curve(text.name, domain, text.tokens, study.quantiles, study.window, of_windows))
    order = [text.name for text in study.texts]
    curves.sort(key=lambda one: order.index(one.source))
    entries.sort(key=lambda one: order.index(one["source"]))
    return {"entries": entries, "curves": curves, "tokens": round(sum(band.tokens for one in curves for band in one.bands))}


def _sources(study: Study, measured: Tasks) -> dict[str, config.Source]:
    held = {text.name: measured.heldout.get(f"heldout_{text.name}") for text in study.texts}
    return {
        text.name: config.Source(
            name=text.name,
            path=text.folder,
            heldout=held[text.name].folder if held[text.name] else "",
            domain=text.domain if text.domain.isidentifier() else "",
            quality="" if text.scored else "none",
            planned_tokens=text.tokens,
        )
        for text in study.texts
    }


def _setting(study: Study, measured: Tasks, found: Sequence[Cell]) -> dict:
    base = study.base
    return {
        "parameters": flops.parameters(base.model),
        "tokens": study.steps * base.data.batch_size * base.data.sequence_length,
        "steps": study.steps,
        "batch_size": base.data.batch_size,
        "sequence_length": base.data.sequence_length,
        "schedule": base.schedule.kind,
        "peak": base.schedule.peak,
        "quantiles": list(study.quantiles),
        "window": study.window,
        "seeds": study.seeds,
        "slices": study.slices,
        "cells": len(found),
        "rows": measured.rows,
        "tasks": measured.names,
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
    }


def _text(study: Study, found: Sequence[Cell], text) -> dict:
    one = next(cell for cell in found if cell.text == text)
    return {
        "name": text.name,
        "tokens": text.tokens,
        "scored": text.scored,
        "domain": text.domain,
        "window_tokens": one.tokens,
        "passes": one.passes,
    }
