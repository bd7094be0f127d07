"""How well a law predicts loss curves: the measures of 2503.12811, and two for what schedules are chosen by.

Over the points of one curve, with error e = prediction - loss:

    r2      1 - sum e^2 / sum (loss - mean loss)^2           mae, rmse     of e, in the loss's unit
    prede   mean |e| / loss                                  worste        max |e| / loss
    final_loss_error   mean prediction - mean loss over the last `FINAL` points: above 0 where the law promises too little

Over several curves: the plain mean of each, whatever their lengths. Two curves that end at the same step are a pair a-b; its gap is the
final loss of a less that of b, and its gap error the predicted gap less the actual one.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law

KEYS = ("r2", "mae", "rmse", "prede", "worste", "final_loss_error")
FINAL = 5  # points averaged at the end of a curve: single points of logged losses are noisy


def predictions(law: Law, theta: np.ndarray, curves: Sequence[Curve]) -> list[np.ndarray]:
    """float64[E] for each curve."""
    if not curves:
        return []
    together = law.evaluate(law.prepare(curves), theta)
    return np.split(together, np.cumsum([curve.steps.size for curve in curves])[:-1])


def of_curve(losses: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The six measures; r2 is NaN for a curve whose losses are all the same."""
    error = predicted - losses
    spread = np.sum((losses - losses.mean()) ** 2)
    relative = np.abs(error) / losses
    return {
        "r2": float(1 - np.sum(error**2) / spread) if spread else float("nan"),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "prede": float(relative.mean()),
        "worste": float(relative.max()),
        "final_loss_error": final(predicted) - final(losses),
    }


def mean(of_curves: Iterable[dict[str, float]]) -> dict[str, float] | None:
    """The plain mean over curves; None without any."""
    rows = list(of_curves)
    return {key: float(np.mean([row[key] for row in rows])) for key in KEYS} if rows else None


def final(losses: np.ndarray) -> float:
    """The mean of the last `FINAL` points."""
    return float(losses[-FINAL:].mean())


def gap(first: Curve, second: Curve, predicted: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """The gap of the pair first-second: its error, and both sides of it."""
    actual = final(first.losses) - final(second.losses)
    promised = final(predicted[0]) - final(predicted[1])
    return {"gap_error": promised - actual, "actual_gap": actual, "predicted_gap": promised}


def same_end(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """Pairs of curves whose last points lie within one spacing of their points, names in alphabetical order.

    A total number of steps is not in a file of samples; runs of the same length whose logs are out of phase end that close.
    """
    found = []
    for first in curves:
        for second in curves:
            strides = [np.median(np.diff(curve.steps)) if curve.steps.size > 1 else 0 for curve in (first, second)]
            if first.name < second.name and abs(first.steps[-1] - second.steps[-1]) <= max(strides):
                found.append((first.name, second.name))
    return sorted(found)


def named_pair(text: str, names: Sequence[str]) -> tuple[str, str]:
    """`a-b` as two of the names, which may hold hyphens themselves. Raises UserError."""
    cuts = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "-"]
    for first, second in cuts:
        if first in names and second in names and first != second:
            return first, second
    raise UserError(f"--pairs: found {text!r}, must be two different curves with a hyphen between; the curves are {', '.join(names)}")


def measure(law: Law, theta: np.ndarray, train: Sequence[Curve], test: Sequence[Curve], pairs: Sequence[tuple[str, str]]) -> dict:
    """`mean` and `curves` over the test curves, `train` over the others, `pairs` by name: the `metrics` of a law.json."""
    curves = [*train, *test]
    predicted = {curve.name: values for curve, values in zip(curves, predictions(law, theta, curves), strict=True)}
    rows = {curve.name: of_curve(curve.losses, predicted[curve.name]) for curve in curves}
    by_name = {curve.name: curve for curve in curves}
    tested = {curve.name: rows[curve.name] for curve in test}
    return {
        "mean": mean(tested.values()),
        "curves": tested,
        "train": {curve.name: rows[curve.name] for curve in train},
        "pairs": {f"{a}-{b}": gap(by_name[a], by_name[b], (predicted[a], predicted[b])) for a, b in pairs},
    }
