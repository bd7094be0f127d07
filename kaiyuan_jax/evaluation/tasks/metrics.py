"""A task in a few numbers, each with an interval from drawing its items again.

    gold_bits_per_byte     loss of the right choices, bits over bytes; lower is better; moves long before anything is chosen right
    gold_log_probability   mean over items of its log-probability, nats; higher is better
    choice_probability     mean of its probability among the choices
    margin                 mean of how much likelier it is than the best wrong choice, nats
    accuracy               share of items where it is the most likely choice
    accuracy_per_byte      the same by log-probability per byte, which does not favour short choices

All metrics of a level share the drawn items, and so do two models, so that differences can be paired.
"""

import numpy as np

from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.evaluation.tasks.likelihood import Scores

METRICS = ("gold_bits_per_byte", "gold_log_probability", "choice_probability", "margin", "accuracy", "accuracy_per_byte")
CHOSEN = METRICS[2:]  # those that a task of kind "loss" does not have
SEED = 0


def ratios(scores: Scores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """metric -> (numerators float64[I], denominators float64[I]): the metric is the ratio of their sums over any set of items."""
    ones = np.ones(len(scores.level))
    found = {
        "gold_bits_per_byte": (scores.gold_nats / np.log(2), scores.gold_bytes.astype(np.float64)),
        "gold_log_probability": (-scores.gold_nats, ones),
        "choice_probability": (scores.probability, ones),
        "margin": (scores.margin, ones),
        "accuracy": (scores.correct, ones),
        "accuracy_per_byte": (scores.correct_per_byte, ones),
    }
    chosen = np.isfinite(scores.chance).all()
    return {name: found[name] for name in METRICS if chosen or name not in CHOSEN}


def summary(scores: Scores, *, resamples: int = 1000) -> dict:
    """{"task", "items": {level: int}, "chance": {level: float | None}, "levels": {level: {metric: entry}}}; level 0 is all items.

    An entry is {"value", "error", "interval"}: the bootstrap's standard error and [low, high] of 95%, None with fewer than 2 items. Chance
    is None where nothing is chosen.
    """
    found = {"task": scores.task, "items": {}, "chance": {}, "levels": {}}
    for level in (0, *np.unique(scores.level).tolist()):
        inside = scores.level == level if level else np.ones(len(scores.level), bool)
        chance = float(scores.chance[inside].mean())
        found["items"][level] = int(inside.sum())
        found["chance"][level] = chance if np.isfinite(chance) else None
        tables = {name: (over[inside], under[inside]) for name, (over, under) in ratios(scores).items()}
        found["levels"][level] = _entries(tables, resamples, f"task/{scores.task}/{level}")
    return found


def _entries(tables: dict[str, tuple[np.ndarray, np.ndarray]], resamples: int, key: str) -> dict[str, dict]:
    found = {name: {"value": bootstrap.ratio(*table), "error": None, "interval": None} for name, table in tables.items()}
    over, under = (np.stack([table[side] for table in tables.values()]) for side in (0, 1))
    if over.shape[1] > 1:
        samples = bootstrap.resampled_ratios(over, under, resamples=resamples, seed=SEED, key=key)
        for name, drawn in zip(tables, samples, strict=True):
            found[name] |= {"error": float(drawn.std(ddof=1)), "interval": bootstrap.percentiles(drawn)}
    return found
