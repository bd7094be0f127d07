"""The study of quality sampling: the same budget out of one store, taken all alike, with a temperature, or from the best text alone.

A budget is a small share of each store, so every setting could read it without repeating anything; settings of a seed begin with the same
weights. Stores in which noise was put where a score says it is (experiments/noise.py) show whether the machinery finds an effect that must
be there. What is measured is the loss on held-out text of all qualities, and on its best fifth: text like the best may well teach less
about the rest, and an average over all hides what is gained on the best.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.data import order, recipe
from kaiyuan_jax.experiments import analysis, proxies

ALIKE, BEST = "all alike", "best alone"
BEST_QUALITY = 0.8  # held-out documents at or above this quantile are the best fifth


@dataclasses.dataclass(frozen=True)
class Cell:
    """One store, one setting, one seed."""

    store: str
    setting: str
    seed: int
    experiment: config.Experiment


def settings(temperatures: Sequence[float]) -> list[str]:
    """The settings of a store, from the flattest to the steepest."""
    return [ALIKE, *(f"temperature {value:g}" for value in sorted(temperatures, reverse=True)), BEST]


def cells(base: config.Experiment, stores: Mapping[str, tuple[str, str]], temperatures: Sequence[float], seeds: int) -> list[Cell]:
    """Every cell; stores: name -> (training store, held-out store). Raises ConfigError for a store smaller than the budget."""
    return [
        Cell(name, setting, seed, experiment(base, name, *folders, setting, seed))
        for name, folders in stores.items()
        for setting in settings(temperatures)
        for seed in range(seeds)
    ]


def experiment(base: config.Experiment, name: str, train: str, heldout: str, setting: str, seed: int) -> config.Experiment:
    """The run of one cell; its budget is that of the base experiment's first phase."""
    source = config.Source(name=name, path=train, heldout=heldout)
    tokens = base.data.phases[0].tokens
    use = config.Use(source=name)
    if setting == BEST:
        facts = recipe.facts_of(config.Data(sources=[source]))
        sequences = (facts[0][name] - 1) // base.data.sequence_length
        use.window = (round(1 - min(1.0, (tokens // base.data.sequence_length + 1) / sequences), 6), 1.0)
    elif setting != ALIKE:
        use.temperature = float(setting.removeprefix("temperature "))
    phase = config.Phase(name="sample", uses=[use], order="uniform", tokens=tokens)
    data = dataclasses.replace(base.data, sources=[source], phases=[phase])
    return proxies.with_seed(base, f"{name}_{setting.replace(' ', '_')}_seed{seed}", seed, data)


def quality_read(made: config.Experiment) -> dict:
    """Quantiles of the text that a run reads: their mean, and the share of it in the worse half of the store."""
    plan = recipe.resolve(made.data, *recipe.facts_of(made.data))
    quantile = order.rows(plan, np.arange(plan.positions)).quantile
    return {"mean_quantile": float(quantile.mean()), "worse_half": float((quantile < 0.5).mean())}


def collect(found: proxies.Losses, made: Sequence[Cell], temperatures: Sequence[float]) -> list[dict]:
    """A row a store and setting: losses with intervals over seeds, and their differences to `all alike`."""
    rows = []
    for store in dict.fromkeys(cell.store for cell in made):
        by_setting = {
            setting: [(cell, found[cell.experiment.name][store]) for cell in made if (cell.store, cell.setting) == (store, setting)]
            for setting in settings(temperatures)
        }
        base = [sums for _, sums in by_setting[ALIKE]]
        for setting, own in by_setting.items():
            sums = [one for _, one in own]
            best = [proxies.loss(one, one.quantile >= BEST_QUALITY) for one in sums]
            base_best = [proxies.loss(one, one.quantile >= BEST_QUALITY) for one in base]
            rows.append(
                {
                    "store": store,
                    "setting": setting,
                    "loss": analysis.spread([proxies.loss(one) for one in sums]),
                    "difference": None if setting == ALIKE else proxies.compare(sums, base),
                    "best_fifth": analysis.spread(best),
                    "best_fifth_difference": None if setting == ALIKE else analysis.spread(np.subtract(best, base_best)),
                    "read": quality_read(own[0][0].experiment),
                }
            )
    return rows
