"""The interface of every loss law: a formula over a learning-rate schedule, its parameters, its derivatives.

A law maps prepared curves (`prepare`: what the schedules look like from each evaluated step, independent of the parameters) and a vector
theta to one loss per evaluated step. theta holds the parameters of `Law.parameters` in order, as natural logarithms where `logged` says
so: these are positive and span decades. Several curves are prepared together and come back as one long vector, in order.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kaiyuan_jax.schedules.laws.curves import Curve


@dataclasses.dataclass(frozen=True)
class Law:
    name: str
    parameters: tuple[str, ...]
    logged: tuple[bool, ...]
    formula: str
    source: str  # paper and equation
    prepare: Callable[[Sequence[Curve]], Any]  # curves -> what `evaluate` and `jacobian` read; E steps in all
    evaluate: Callable[[Any, np.ndarray], np.ndarray]  # (prepared, theta float64[P]) -> loss float64[E]
    jacobian: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]  # -> loss float64[E], d loss / d theta float64[E, P]
    starts: Callable[[Sequence[Curve], np.random.Generator, int], np.ndarray]  # curves, generator, n -> float64[n, P] starting points

    def values(self, theta: np.ndarray) -> dict[str, float]:
        """The parameters by name, logarithms undone."""
        return {
            name: float(np.exp(value) if logged else value) for name, value, logged in zip(self.parameters, theta, self.logged, strict=True)
        }

    def theta(self, values: dict[str, float]) -> np.ndarray:
        """The inverse of `values`."""
        return np.array(
            [np.log(values[name]) if logged else values[name] for name, logged in zip(self.parameters, self.logged, strict=True)]
        )


def power_starts(curves: Sequence[Curve], generator: np.random.Generator, count: int, arguments: Sequence[np.ndarray]) -> np.ndarray:
    """Random (L0, ln A, alpha) of L0 + A u^-alpha, float64[count, 3], for `arguments` u float64[E] of every curve.

    L0 lies 2 to 20% below the lowest loss, alpha in 0.2 to 1, and A lets the power pass through some point of some curve: the same
    choice in any units of rate, step and loss.
    """
    losses = np.concatenate([curve.losses for curve in curves])
    log_u = np.log(np.concatenate(arguments))
    L0 = losses.min() * (1 - generator.uniform(0.02, 0.2, count))
    alpha = generator.uniform(0.2, 1.0, count)
    point = generator.integers(losses.size, size=count)
    return np.stack([L0, np.log(losses[point] - L0) + alpha * log_u[point], alpha], axis=1)


def summed_rates(curve: Curve) -> np.ndarray:
    """S float64[E] at the curve's steps: the sum of the rates of the updates 0 to s."""
    return np.cumsum(curve.rates)[curve.steps]


def gain_starts(curves: Sequence[Curve], generator: np.random.Generator, count: int) -> np.ndarray:
    """Random ln B, float64[count]: falling from the peak to zero gains 1 to 10% of the lowest loss in the long run."""
    peak = max(curve.rates.max() for curve in curves)
    lowest = min(curve.losses.min() for curve in curves)
    return np.log(lowest / peak) + generator.uniform(np.log(0.01), np.log(0.1), count)
