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
            name: float(np.exp(value) if logged else value)
            for name, value, logged in zip(self.parameters, theta, self.logged, strict=True)
        }

    def theta(self, values: dict[str, float]) -> np.ndarray:
        """The inverse of `values`."""
        return np.array([
            np.log(values[name]) if logged else values[name] for name, logged in zip(self.parameters, self.logged, strict=True)
        ])
