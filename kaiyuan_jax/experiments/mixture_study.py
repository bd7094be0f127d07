"""The study of mixtures: proxies, the regression on them, and new models on the mixture it proposes beside others.

    OUTPUT/proxies/     a population: mixtures drawn at random, which are fitted, and others, which are predicted
    OUTPUT/confirm/     a population: the proposed mixture, equal shares, and the shares of the config, at seeds that no proxy had
    OUTPUT/results.json

The target is the mean loss over held-out sources, every source with the same weight.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.experiments import analysis, mixture, proxies

CANDIDATES, TOP, RESAMPLES = 50_000, 50, 200
FIRST_NEW_SEED = 1000  # of the runs that confirm


@dataclasses.dataclass(frozen=True)
class Study:
    base: config.Experiment
    fitted: int  # proxies that the regression sees
    unseen: int  # and that it predicts
    seeds: int  # of the runs that confirm
    rows: int  # held-out sequences of each source
    folder: Path

    @property
    def sources(self) -> list[str]:
        return [source.name for source in self.base.data.sources]

    @property
    def stores(self) -> dict[str, str]:
        return {source.name: source.heldout for source in self.base.data.sources if source.heldout}

    @property
    def tokens(self) -> int:
        return self.base.data.phases[0].tokens

    def mixtures(self) -> np.ndarray:
        """float64[fitted + unseen, S], drawn around equal shares."""
        return mixture.draw(np.ones(len(self.sources)), self.fitted + self.unseen, seed=0)

    def proxies(self) -> list[config.Experiment]:
        """All begin with the same weights and differ in the mixture alone."""
        return [mixture.member(self.base, f"mixture_{n}", row, tokens=self.tokens, seed=0) for n, row in enumerate(self.mixtures())]

    def confirming(self, proposed: Sequence[float]) -> list[config.Experiment]:
        return [
            mixture.member(self.base, f"{name}_seed{seed}", row, tokens=self.tokens, seed=FIRST_NEW_SEED + seed)
            for name, row in self.contenders(proposed).items()
            for seed in range(self.seeds)
        ]

    def contenders(self, proposed: Sequence[float]) -> dict[str, np.ndarray]:
        """Name -> mixture."""
        shares = {use.source: use.share for use in self.base.data.phases[0].uses}
        given = np.array([shares.get(source, 0.0) for source in self.sources])
        found = {"proposed": np.asarray(proposed, np.float64), "equal": np.full(len(self.sources), 1 / len(self.sources))}
        if given.sum() and not np.allclose(given, found["equal"]):
            found["config"] = np.maximum(given, mixture.LEAST) / np.maximum(given, mixture.LEAST).sum()
        return found


def check(study: Study) -> None:
    """Raises ConfigError for fewer than two sources, one without a held-out store, or no budget; UserError for too few proxies to fit."""
    if len(study.sources) < 2:
        raise config.ConfigError(f"config.data.sources: found {len(study.sources)}, a mixture needs at least two")
    if missing := [name for name in study.sources if name not in study.stores]:
        raise config.ConfigError(f"config.data.sources {missing[0]!r}.heldout: empty; every source of the mixture needs a held-out store")
    if not study.tokens:
        raise config.ConfigError("config.data.phases[0].tokens: found 0, must be the budget of a proxy")
    if study.fitted < mixture.FEWEST:
        raise config.UserError(
            f"--unseen: found {study.unseen} of {study.fitted + study.unseen} proxies, must leave at least {mixture.FEWEST} to be fitted"
        )


def regress(study: Study, found: proxies.Losses) -> dict:
    """The regressions, their errors on mixtures that they did not see, and the proposed mixture with its interval."""
    mixtures_NS = study.mixtures()
    losses_NI = np.array([[proxies.loss(found[f"mixture_{n}"][source]) for source in study.stores] for n in range(len(mixtures_NS))])
    seen, unseen = slice(None, study.fitted), slice(study.fitted, None)
    weights_I = np.full(losses_NI.shape[1], 1 / losses_NI.shape[1])
    fits = {name: mixture.fit(mixtures_NS[seen], losses_NI[seen], name) for name in mixture.FEATURES}
    chosen = min(fits, key=lambda name: float(((fits[name].left_out_NI - losses_NI[seen]) ** 2).sum()))
    candidates_NS = mixture.draw(np.ones(len(study.sources)), CANDIDATES, seed=1)
    proposed_S = mixture.best(fits[chosen], candidates_NS, weights_I, TOP)
    draws = dict(resamples=RESAMPLES, seed=2)
    interval_2S = mixture.interval(
        mixtures_NS[seen], losses_NI[seen], fits[chosen], candidates_NS[: CANDIDATES // 10], weights_I, TOP // 10, **draws
    )
    return {
        "sources": study.sources,
        "chosen": chosen,
        "proposed": proposed_S.tolist(),
        "interval": interval_2S.T.tolist(),
        "mixtures": mixtures_NS.tolist(),
        "losses": losses_NI.tolist(),
        "fitted": study.fitted,
        "models": {name: _errors(one, mixtures_NS, losses_NI, seen, unseen, weights_I) for name, one in fits.items()},
        "predicted": {name: float(fits[chosen].predict(row[None])[0] @ weights_I) for name, row in study.contenders(proposed_S).items()},
        "best_proxy": mixtures_NS[int((losses_NI @ weights_I)[seen].argmin())].tolist(),
    }


def _errors(fitted: mixture.Fit, mixtures_NS, losses_NI, seen: slice, unseen: slice, weights_I) -> dict:
    predicted_NI = fitted.predict(mixtures_NS)
    found = {"penalty": fitted.penalty, "left_out": mixture.errors(fitted.left_out_NI @ weights_I, losses_NI[seen] @ weights_I)}
    found["predicted"] = (predicted_NI @ weights_I).tolist()
    if len(losses_NI[unseen]):
        found["unseen"] = mixture.errors(predicted_NI[unseen] @ weights_I, losses_NI[unseen] @ weights_I)
        found["unseen_by_source"] = [mixture.errors(predicted_NI[unseen, i], losses_NI[unseen, i]) for i in range(losses_NI.shape[1])]
    return found


def confirm(study: Study, found: proxies.Losses, contenders: Mapping[str, Sequence[float]]) -> dict:
    """Losses of the contenders and their differences to equal shares, paired by seed."""
    by_name = {name: [found[f"{name}_seed{seed}"] for seed in range(study.seeds)] for name in contenders}
    losses = {name: [proxies.mean_loss(one) for one in own] for name, own in by_name.items()}
    return {
        name: {
            "mixture": list(map(float, contenders[name])),
            "loss": analysis.spread(losses[name]),
            "less_equal": analysis.spread(np.subtract(losses[name], losses["equal"])),
            "by_source": {source: float(np.mean([proxies.loss(one[source]) for one in own])) for source in study.stores},
        }
        for name, own in by_name.items()
    }
