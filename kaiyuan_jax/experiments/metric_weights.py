"""The study of metric-weighted averages: does it pay to weigh checkpoints by their held-out loss, rather than all alike?

Every member of a population is averaged over its last k checkpoints with the weights of each scheme (averaging/weights.py). Held-out
documents are cut in two by their number: the losses that decide weights are those of the even ones, and the averages are judged on the odd
ones, because a scheme that chooses on what it is judged by looks better than it is.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.averaging import weights
from kaiyuan_jax.evaluation.heldout import DocumentSums
from kaiyuan_jax.experiments import analysis, population, proxies

LAST, BASE = "last checkpoint", "sma"


def schemes(temperatures: Sequence[float], losses_KM: np.ndarray) -> dict[str, np.ndarray]:
    """Scheme -> weights float64[K, M], newest checkpoint first, from the losses of each checkpoint of each member."""
    last, members = losses_KM.shape
    found = {LAST: np.eye(last)[0], "best checkpoint": None, BASE: None, "ema 0.2": None}
    found[BASE] = weights.weights(config.Averaging(kind="sma", last=last))
    found["ema 0.2"] = weights.weights(config.Averaging(kind="ema", last=last, alpha=0.2))
    found = {name: np.repeat(vector[:, None], members, axis=1) for name, vector in found.items() if vector is not None}
    found["best checkpoint"] = (np.arange(last)[:, None] == losses_KM.argmin(axis=0)).astype(np.float64)
    for temperature in sorted(temperatures, reverse=True):
        columns = [weights.metric_weights(losses_K, temperature) for losses_K in losses_KM.T]
        found[f"metric {temperature:g}"] = np.stack(columns, axis=1)
    return found


def average(checkpoints: Sequence, weights_KM: np.ndarray):
    """Stacked parameters [M, ...]: of every member the sum over K checkpoints, each by its own weight."""

    def leaf(*leaves):
        shaped = [weight_M.reshape(-1, *[1] * (one.ndim - 1)).astype(np.float32) for weight_M, one in zip(weights_KM, leaves, strict=True)]
        return sum(weight * one for weight, one in zip(shaped, leaves, strict=True))

    return jax.tree.map(leaf, *checkpoints)


def half(sums: Mapping[str, DocumentSums], odd: int) -> float:
    """Nats per token, mean over sources, of the documents with even (0) or odd (1) numbers."""
    return float(np.mean([proxies.loss(one, one.document % 2 == odd) for one in sums.values()]))


def study(trained: population.Population, *, last: int, temperatures: Sequence[float], rows: int, stores: Mapping[str, str]) -> dict:
    """Losses of every scheme on the judging half. Raises UserError for fewer than `last` checkpoints, and for members that diverged."""
    if len(trained.steps) < last:
        kept = ", ".join(map(str, trained.steps))
        raise config.UserError(f"--last: found {last}, {trained.folder} keeps the checkpoints {kept}; lower it, or keep more")
    if trained.diverged:
        raise config.UserError(f"{trained.folder}: diverged: {', '.join(trained.diverged)}; name a population in which none has")
    steps = trained.steps[::-1][:last]
    checkpoints = [trained.parameters({step: 1.0}) for step in steps]

    def measured(params_M):
        return population.evaluate(trained, params_M, rows=rows, stores=dict(stores))

    of_checkpoints = [measured(params_M) for params_M in checkpoints]
    chosen_KM = np.array([[half(sums, 0) for sums in members] for members in of_checkpoints])
    judged, given = {}, schemes(temperatures, chosen_KM)
    for name, weights_KM in given.items():
        found = of_checkpoints[0] if name == LAST else measured(average(checkpoints, weights_KM))
        judged[name] = [half(sums, 1) for sums in found]
    return {
        "population": trained.folder.name,
        "members": trained.names,
        "steps": steps,
        "spread_of_checkpoints": float(np.ptp(chosen_KM, axis=0).mean()),
        "schemes": {
            name: {
                "loss": analysis.spread(losses),
                "less_sma": analysis.spread(np.subtract(losses, judged[BASE])),
                "less_last": analysis.spread(np.subtract(losses, judged[LAST])),
                "effective_checkpoints": float((1 / (given[name] ** 2).sum(axis=0)).mean()),
            }
            for name, losses in judged.items()
        },
    }
