"""From a population of proxies to mixture weights: a regression of held-out losses on mixtures (RegMix, arXiv 2407.01492).

Small models are trained on mixtures r drawn at random, r_j the share of source j, equal in all else. For every held-out source i

    loss_i(r) = a_i + sum_j b_ij r_j + c_ij log(r_j + d)              "logarithmic", d = 1/100
    loss_i(r) = a_i + sum_j b_ij r_j                                  "linear", the paper's simpler model

is fitted by ridge regression on standardised features: losses fall with the logarithm of the text seen, and the more steeply the less there
is. One penalty for all targets is chosen by the leave-one-out error, which needs no refits: the residual of a proxy left out is its
residual over 1 - H_nn, H the matrix that makes fitted values of losses. (The paper's gradient-boosted trees want hundreds of proxies.)

The best mixture is searched for without a gradient, as in the paper: many mixtures are drawn like those of the proxies, and the mean of the
best of them by the predicted target is taken. Its interval comes from refits to proxies drawn again with replacement: it says how well the
proxies determine the mixture if the form of the regression is right, and nothing of how far another size of model would agree.
"""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax import config

FEWEST = 4  # proxies of a regression
LEAST = 0.002  # share of a source in any mixture that is trained on, so that every source is read
OFFSET = 0.01  # d, inside the logarithm
PENALTIES = np.logspace(-4, 3, 29)
FEATURES = {
    "linear": lambda mixtures_NS: mixtures_NS,
    "logarithmic": lambda mixtures_NS: np.concatenate([mixtures_NS, np.log(mixtures_NS + OFFSET)], axis=-1),
}


def draw(prior: Sequence[float], count: int, seed: int, spread: tuple[float, float] = (0.5, 4.0)) -> np.ndarray:
    """float64[count, S]: mixtures around `prior`, Dirichlet with concentrations S k prior, log k even over log `spread`."""
    random, prior = np.random.default_rng(seed), np.asarray(prior, np.float64)
    scales = np.exp(random.uniform(*np.log(spread), size=count))
    gammas = random.standard_gamma(scales[:, None] * len(prior) * prior / prior.sum())
    mixtures = np.maximum(gammas / np.maximum(gammas.sum(axis=1, keepdims=True), 1e-300), LEAST)
    return mixtures / mixtures.sum(axis=1, keepdims=True)


def member(base: config.Experiment, name: str, mixture: Sequence[float], *, tokens: int, seed: int) -> config.Experiment:
    """The base experiment on one phase of this mixture of its sources; passes are those that its first phase allows."""
    made, first = copy.deepcopy(base), base.data.phases[0]
    passes = {use.source: use.passes for use in first.uses}
    uses = [
        config.Use(source=source.name, share=float(share), passes=passes.get(source.name, 1.0))
        for source, share in zip(base.data.sources, mixture, strict=True)
    ]
    made.name, made.output, made.seed, made.data.seed = name, "", seed, seed
    made.data.phases = [dataclasses.replace(first, name="mixture", uses=uses, tokens=tokens)]
    return made


@dataclasses.dataclass(frozen=True)
class Fit:
    """A regression of I losses on mixtures of S sources."""

    features: str
    penalty: float
    center_F: np.ndarray
    scale_F: np.ndarray
    coefficients_FI: np.ndarray  # of standardised features
    intercept_I: np.ndarray
    left_out_NI: np.ndarray  # what each proxy's losses are predicted to be by the others, at this penalty

    def predict(self, mixtures_NS) -> np.ndarray:
        """float64[N, I]: losses."""
        standard_NF = (FEATURES[self.features](np.asarray(mixtures_NS, np.float64)) - self.center_F) / self.scale_F
        return standard_NF @ self.coefficients_FI + self.intercept_I


def fit(mixtures_NS, losses_NI, features: str = "logarithmic", penalties: Sequence[float] = PENALTIES) -> Fit:
    """The ridge regression whose penalty, of those given, has the least leave-one-out error, summed over targets.

    Raises UserError for fewer than FEWEST proxies.
    """
    mixtures_NS, losses_NI = np.asarray(mixtures_NS, np.float64), np.asarray(losses_NI, np.float64)
    if len(mixtures_NS) < FEWEST:
        raise config.UserError(f"mixture: found {len(mixtures_NS)} proxies, a regression needs at least {FEWEST}")
    raw_NF = FEATURES[features](mixtures_NS)
    center_F, scale_F = raw_NF.mean(axis=0), np.maximum(raw_NF.std(axis=0), 1e-12)
    standard_NF, intercept_I = (raw_NF - center_F) / scale_F, losses_NI.mean(axis=0)
    left, values, right = np.linalg.svd(standard_NF, full_matrices=False)
    apart_NI, best = losses_NI - intercept_I, None
    for penalty in penalties:
        shrink = values**2 / (values**2 + penalty)
        residual_NI = apart_NI - (left * shrink) @ (left.T @ apart_NI)
        influence_N = 1 / len(raw_NF) + (left**2 * shrink).sum(axis=1)
        missed_NI = residual_NI / np.maximum(1 - influence_N, 1e-9)[:, None]
        if best is None or (missed_NI**2).sum() < best[0]:
            coefficients_FI = right.T @ ((values / (values**2 + penalty))[:, None] * (left.T @ apart_NI))
            best = ((missed_NI**2).sum(), float(penalty), coefficients_FI, losses_NI - missed_NI)
    _, penalty, coefficients_FI, left_out_NI = best
    return Fit(features, penalty, center_F, scale_F, coefficients_FI, intercept_I, left_out_NI)


def best(fitted: Fit, candidates_NS, weights_I, top: int) -> np.ndarray:
    """float64[S]: the mean of the `top` candidates with the lowest predicted loss, weighted over targets by `weights_I`."""
    predicted = fitted.predict(candidates_NS) @ np.asarray(weights_I, np.float64)
    return np.asarray(candidates_NS)[np.argsort(predicted, kind="stable")[:top]].mean(axis=0)


def interval(mixtures_NS, losses_NI, fitted: Fit, candidates_NS, weights_I, top: int, *, resamples: int, seed: int) -> np.ndarray:
    """float64[2, S]: the central 95% of the best mixture's shares over proxies drawn again with replacement, at the fit's penalty."""
    random, count, found = np.random.default_rng(seed), len(mixtures_NS), []
    for _ in range(resamples):
        chosen = random.integers(count, size=count)
        again = fit(mixtures_NS[chosen], losses_NI[chosen], fitted.features, [fitted.penalty])
        found.append(best(again, candidates_NS, weights_I, top))
    return np.quantile(found, [0.025, 0.975], axis=0)


def errors(predicted_N, actual_N) -> dict:
    """How well losses of mixtures that were not fitted are predicted, beside predicting their mean for all."""
    apart = np.asarray(predicted_N) - actual_N
    return {
        "mean_absolute": float(np.abs(apart).mean()),
        "of_the_mean": float(np.abs(actual_N - np.mean(actual_N)).mean()),
        "rank_correlation": rank_correlation(predicted_N, actual_N),
    }


def rank_correlation(first, second) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])
