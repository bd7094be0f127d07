"""One fitted law, and the three ways of fitting it.

`reference` follows the released procedure of 2503.12811 step for step, `converged` finds the minimum of its objective, `robust` is the
default: made to predict schedules that the training curves do not show.
"""

import dataclasses
import importlib
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import fading, multi_power
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law

PROTOCOLS = ("robust", "converged", "reference")


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A law with the parameters that a protocol found."""

    law: Law
    protocol: str
    theta: np.ndarray  # float64[P]
    objective: float  # sum over the training points of the Huber losses of the log residuals, delta 1e-3
    train: tuple[str, ...]  # names of the training curves
    covariance: np.ndarray | None = None  # float64[P, P] of theta
    details: dict = dataclasses.field(default_factory=dict)  # JSON-able: what the protocol has to say about itself
    bands: dict = dataclasses.field(default_factory=dict)  # JSON-able: what a forecast's band needs beyond the covariance

    @property
    def values(self) -> dict[str, float]:
        """The parameters by name, logarithms undone."""
        return self.law.values(self.theta)


def fit(law: Law, curves: Sequence[Curve], protocol: str = "robust", seed: int = 0) -> Fit:
    """Fits `law` to training `curves`; `seed` decides the random starts of the protocols that have some.

    Raises UserError for an unknown protocol, for a law that the protocol does not know, and where no parameters were found.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: found {protocol!r}, must be one of {', '.join(PROTOCOLS)}")
    # By name, because each of these modules returns a Fit and so imports this one.
    module = importlib.import_module(f"{__package__}.{protocol}")
    found = module.fit(law, curves) if protocol == "reference" else module.fit(law, curves, seed=seed)
    if not (np.isfinite(found.theta).all() and np.isfinite(found.objective)):
        raise UserError(
            f"protocol: {protocol} found no finite parameters of {found.law.name} for {', '.join(found.train)}; look at their losses, "
            "train on more or longer curves, or take another law"
        )
    return found


def fitted_law(law: Law, protocol: str) -> Law:
    """The law that a protocol fits where `law` is asked for: `robust` lets the gain of a multi-power law fade."""
    return fading.LAW if protocol == "robust" and law in (multi_power.LAW, multi_power.AFTER_WARMUP) else law
