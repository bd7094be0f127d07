"""Which metric tells models apart earliest: signal and noise of every metric of every task, out of runs with several seeds.

Input is the table of `evaluation.trajectory`; runs that differ in their seed alone are named alike but for _seed<k>. With K seeds, a metric
has at step n the mean m(n) and the variance s2(n) over seeds. All signs are turned so that larger is better. Then

    noise          sigma = sqrt(mean of s2(n) over steps and recipes): one number for each metric, with steps x recipes x (K - 1) degrees
    doubling n     z = (m(2n) - m(n)) / (sigma sqrt(2 / K)): a model against itself with twice the tokens, by how many standard errors
    separated at   the first n from which z > 2 at every doubling, until the last one: from there on the metric ranks such models right
    in order       share of neighbouring checkpoints of one seed of which the later is better: 1/2 is noise
    recipes        sd of recipes' means at the last step they share, less what the noise gives (sigma^2 / K), over sigma: 0 is noise

So "model" is the same recipe with more tokens, of which we know which is better. The seeds meet the same items: what other items would say
is the error of the table, given beside sigma as `item_error`.
"""

import collections
import itertools
import re
from collections.abc import Iterable

import numpy as np

from kaiyuan_jax.config import UserError

LOWER_IS_BETTER = ("nats_per_token", "bits_per_byte", "gold_bits_per_byte")
SURE = 2.0  # standard errors


def measure(rows: Iterable[dict], trajectory: str) -> list[dict]:
    """Signal and noise of each (task, level, metric); `trajectory` is the recipe whose checkpoints are compared, "" the one with most.

    rows: of trajectory.parquet. Raises UserError where no recipe has two seeds, or none of the name has two checkpoints.
    """
    values: dict[tuple, dict] = collections.defaultdict(dict)  # (task, level, metric) -> (recipe, step, seed) -> value
    tokens, errors = {}, collections.defaultdict(list)
    for row in rows:
        if row["value"] is not None:
            recipe, seed = split(row["run"])
            sign = -1.0 if row["metric"] in LOWER_IS_BETTER else 1.0
            key = row["task"], row["level"], row["metric"]
            values[key][recipe, row["step"], seed] = sign * row["value"]
            errors[key].append(np.nan if row["error"] is None else row["error"])
            tokens[recipe, row["step"]] = row["tokens"]
    recipes = _complete(values)
    kept = trajectory or max(recipes, key=lambda recipe: len(recipes[recipe][0]), default="")
    if kept not in recipes or len(recipes[kept][0]) < 2 or len(recipes[kept][1]) < 2:
        raise UserError(
            f"--trajectory: {kept or 'no recipe'!r} has not two checkpoints of two runs that are named alike but for _seed0, _seed1, ...; "
            f"found {', '.join(sorted(recipes)) or 'none'}"
        )
    return [_measured(key, found, recipes, kept, tokens, errors[key]) for key, found in sorted(values.items())]


def split(run: str) -> tuple[str, int]:
    """(recipe, seed) of a run's name; a name without a seed is a recipe of one."""
    match = re.fullmatch(r"(.+)_seed(\d+)", run)
    return (match[1], int(match[2])) if match else (run, 0)


def _complete(values) -> dict[str, tuple[list[int], list[int]]]:
    """recipe -> (steps, seeds), for recipes of several seeds: those steps that every seed has in every metric."""
    places = [set(found) for found in values.values()]
    common = set.intersection(*places) if places else set()
    seeds, recipes = collections.defaultdict(set), {}
    for recipe, _, seed in set().union(*places):
        seeds[recipe].add(seed)
    for recipe, some in seeds.items():
        steps = sorted({step for found, step, _ in common if found == recipe and all((recipe, step, seed) in common for seed in some)})
        if steps and len(some) > 1:
            recipes[recipe] = steps, sorted(some)
    return recipes


def _measured(key, found, recipes, kept, tokens, errors) -> dict:
    tables = {name: np.array([[found[name, step, seed] for seed in seeds] for step in steps]) for name, (steps, seeds) in recipes.items()}
    noise = float(np.sqrt(np.mean(np.concatenate([table.var(axis=1, ddof=1) for table in tables.values()]))))
    steps, seeds = recipes[kept]
    table_SK = tables[kept]
    means, standard_error = dict(zip(steps, table_SK.mean(axis=1), strict=True)), noise * np.sqrt(2 / len(seeds))
    doublings = [
        {"step": step, "tokens": tokens[kept, step], "gain": float(means[2 * step] - means[step]),
         "z": float((means[2 * step] - means[step]) / standard_error) if standard_error else None}
        for step in steps if 2 * step in means
    ]  # fmt: skip
    sure = list(itertools.takewhile(lambda doubling: (doubling["z"] or 0.0) > SURE, reversed(doublings)))
    last = max(steps)
    finals = [table[recipes[name][0].index(last)].mean() for name, table in tables.items() if last in recipes[name][0]]
    excess = np.var(finals, ddof=1) - noise**2 / len(seeds) if len(finals) > 1 else np.nan
    return {
        "task": key[0],
        "level": key[1],
        "metric": key[2],
        "first": float(table_SK[0].mean()),
        "last": float(table_SK[-1].mean()),
        "noise": noise,
        "item_error": float(np.nanmean(errors)) if np.isfinite(errors).any() else None,
        "doublings": doublings,
        "separated_at": sure[-1]["tokens"] if sure else None,
        "in_order": float(np.mean(np.diff(table_SK, axis=0) > 0)),
        "recipes": len(finals),
        "recipe_spread": float(np.sqrt(max(excess, 0.0)) / noise) if noise and np.isfinite(excess) else None,
    }


def by_metric(measured: Iterable[dict], level: int = 0) -> list[dict]:
    """One row a metric over all tasks of a kind (held-out text, tasks): medians, and in how many tasks it separates.

    The mean over sources (heldout/mean) is no source of its own and is left out.
    """
    groups = collections.defaultdict(list)
    for row in measured:
        if row["level"] == level and not row["task"].endswith("/mean"):
            groups[row["task"].partition("/")[0] if row["task"].startswith(("heldout/", "choice/")) else "tasks", row["metric"]].append(row)
    rows = []
    for (kind, metric), some in groups.items():
        z = np.array([[doubling["z"] or 0.0 for doubling in row["doublings"]] for row in some])
        at = [row["separated_at"] for row in some if row["separated_at"] is not None]
        rows.append(
            {
                "kind": kind,
                "metric": metric,
                "tasks": len(some),
                "median_z": np.median(z, axis=0).tolist() if z.size else [],
                "separating": len(at),
                "median_separated_at": float(np.median(at)) if at else None,
                "in_order": float(np.mean([row["in_order"] for row in some])),
            }
        )
    return sorted(rows, key=lambda row: -float(np.mean(row["median_z"])) if row["median_z"] else 0.0)
