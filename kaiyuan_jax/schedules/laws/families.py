"""Named schedules beside the best one: what each would reach if it were tuned as well, which of them the best one is, and how sure that is.

Every family falls from the ceiling to an end rate at or above the floor, in a shape of schedules/shapes.py. `cosine` and `linear` fall over
all steps that are free; the WSD families fall over their last `decay` steps. End rate and decay are tuned under the same law as the best
schedule, so what is left between them is the shape. Tuning looks at the law on lines between close knots (minimize.py), where a schedule
costs 0.2 ms; the losses reported are those of the whole schedule.

A law is fitted, so its optimum is uncertain. `sensitivity` asks other parameters that fit nearly as well, drawn from the fit's uncertainty,
what they think of the schedule: its regret is how much worse it is, under each of them, than the schedule they would have designed.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import optimize

from kaiyuan_jax.schedules import shapes
from kaiyuan_jax.schedules.laws import minimize
from kaiyuan_jax.schedules.laws.law import Law
from kaiyuan_jax.schedules.laws.minimize import Design, Problem

# name -> (shape, whether the decay is tuned or lasts for all free steps)
FAMILIES = {
    "cosine": ("cosine", False),
    "linear": ("linear", False),
    "WSD linear": ("linear", True),
    "WSD cosine": ("cosine", True),
    "WSD 1-sqrt": ("sqrt", True),
    "WSD sqrt-cube": ("sqrt_cube", True),
    "WSD square": ("square", True),
    "WSD exponential": ("exponential", True),
    "WSD inverse": ("inverse", True),
}
_FINE = 240  # lines that stand for a family while it is tuned
_FINE_DIFFERENCED = 60
_COARSE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # shares of the free steps where tuning a decay begins


@dataclasses.dataclass(frozen=True)
class Family:
    """A tuned schedule: the ceiling up to step `knee`, then `shape` down to `end`, or ((T - t) / (T - knee))^power where power is given."""

    name: str
    shape: str
    knee: int
    end: float  # rate of the last update
    power: float = 0.0
    loss: float = np.nan  # predicted after the last update

    def rate(self, step: np.ndarray, problem: Problem) -> np.ndarray:
        last = problem.steps - 1
        return _rate(self.shape, self.power, (step - self.knee) / (last - self.knee), problem.ceiling, self.end)

    def rates(self, problem: Problem) -> np.ndarray:
        """float64[T]: the whole schedule."""
        return np.concatenate([problem.head, self.rate(np.arange(problem.head.size, problem.steps), problem)])

    def decay(self, problem: Problem) -> float:
        """Share of all updates that decay, as `config.Schedule.decay` counts it."""
        return (problem.steps - 1 - self.knee) / problem.steps


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a designed schedule looks like."""

    knee: int  # the last step at which it holds 99% of the ceiling
    power_knee: int  # the law's best schedule end + (ceiling - end) ((T - t) / (T - knee))^power
    power: float
    power_end: float
    error: float  # root mean square distance from that one over the decay, as a share of the ceiling
    nearest: str  # the family whose predicted loss is nearest


def tuned(law: Law, theta: np.ndarray, problem: Problem) -> list[Family]:
    """Every family, the best first. Raises UserError for a law that cannot design a schedule."""
    knots = _fine(law, problem)
    value = _value(law, theta, problem, knots)
    found = []
    for name, (shape, shorter) in FAMILIES.items():
        lowest = max(problem.floor, 1e-9 * problem.ceiling if shape in shapes.RATES else 0.0)
        family = dataclasses.replace(_tune(value, problem, knots, shape, lowest, shorter), name=name)
        found.append(dataclasses.replace(family, loss=minimize.final_loss(law, theta, family.rates(problem))))
    return sorted(found, key=lambda family: family.loss)


def _rate(shape, power, r, begin, end):
    if power:
        return end + (begin - end) * (1 - np.clip(r, 0, 1)) ** power
    return shapes.rate(shape, r, begin, end)


def _fine(law, problem):
    return minimize.graded(problem, _FINE if law.name in minimize.FIRST_SOURCE else _FINE_DIFFERENCED)


def _value(law, theta, problem, knots) -> Callable:
    if law.name in minimize.FIRST_SOURCE:
        objective = minimize.objective(law, theta, problem, knots)
        return lambda rates: objective(rates)[0]
    minimize.refuse(law)
    return lambda rates: minimize.final_loss(law, theta, problem.rates(knots, rates))


def _tune(value, problem, knots, shape, lowest, shorter) -> Family:
    """The member of a family with the lowest loss: ln decay (if `shorter`), end rate, and ln power where `shape` is None."""
    free, last = problem.steps - 1 - problem.first, problem.steps - 1

    def member(point):
        point = list(point)
        decay = free * np.exp(-abs(point.pop(0))) if shorter else free
        end = lowest + (problem.ceiling - lowest) * min(abs(point.pop(0)), 1.0) ** 3  # the cube root, because the end is near the floor
        return last - max(decay, 1.0), end, np.exp(point[0]) if point else 0.0

    def loss(point):
        knee, end, power = member(point)
        return value(_rate(shape, power, (knots - knee) / (last - knee), problem.ceiling, end))

    places = [[-np.log(share)] for share in _COARSE] if shorter else [[]]
    powers = [[]] if shape else [[np.log(1.0)], [np.log(1.5)]]
    grid = [np.array([*place, end, *power]) for place in places for end in (0.0, 0.2, 0.5) for power in powers]
    start = min(grid, key=loss)
    moves = np.diag([*[0.15] * shorter, 0.08, *[0.2] * (shape is None)])
    options = dict(initial_simplex=np.vstack([start, start + moves]), xatol=1e-3, fatol=1e-8, maxfev=80 * start.size)
    knee, end, power = member(optimize.minimize(loss, start, method="Nelder-Mead", options=options).x)
    return Family("", shape or "", min(max(round(knee), problem.first), last - 1), float(end), float(power))


def shape_of(law: Law, theta: np.ndarray, problem: Problem, design: Design, families: list[Family]) -> Shape:
    """What a designed schedule looks like: the law's best power decay, how far the schedule lies from it, and the best of the families."""
    steps = np.arange(problem.first, problem.steps)
    rates = problem.rates(design.knots, design.values)[problem.first :]
    knots = _fine(law, problem)
    power = _tune(_value(law, theta, problem, knots), problem, knots, None, problem.floor, True)
    error = np.sqrt(np.mean((power.rate(steps, problem) - rates)[steps >= min(power.knee, knee_of(design, problem))] ** 2))
    return Shape(knee_of(design, problem), power.knee, power.power, power.end, error / problem.ceiling, families[0].name)


def knee_of(design: Design, problem: Problem) -> int:
    """The last step at which a design holds 99% of the ceiling."""
    steps = np.arange(problem.first, problem.steps)
    return int(steps[np.flatnonzero(np.interp(steps, design.knots, design.values) >= 0.99 * problem.ceiling)[-1]])


@dataclasses.dataclass(frozen=True, eq=False)
class Sensitivity:
    """What other parameters that fit nearly as well say; float64[n], one entry a draw."""

    loss: np.ndarray  # predicted for the schedule
    regret: np.ndarray  # of it against the schedule that the draw itself would design, nats
    knee: np.ndarray  # of that schedule


def sensitivity(law: Law, thetas: np.ndarray, problem: Problem, design: Design) -> Sensitivity | None:
    """A multi-power law under parameters thetas float64[n, P]; None for other laws, whose optimum costs seconds a draw.

    Draws with an exponent alpha or beta of 0 or below are left out: a normal distribution has them, the law does not. None if none is left.
    """
    if law.name not in minimize.FIRST_SOURCE:
        return None
    thetas = thetas[(thetas[:, law.parameters.index("alpha")] > 0) & (thetas[:, law.parameters.index("beta")] > 0)]
    if not len(thetas):
        return None
    knots = minimize.graded(problem, max(design.knots.size - 1, 20))
    own, shared = minimize.MultiPower(law, problem, design.knots), minimize.MultiPower(law, problem, knots)
    schedule, rows = np.interp(knots, design.knots, design.values), []
    for theta in thetas:
        found = [minimize.minimise(shared.at(theta), problem, knots, start) for start in (None, schedule)]
        best, loss = min(found, key=lambda tried: tried.loss), own.at(theta)(design.values)[0]
        rows.append((loss, max(loss - best.loss, 0.0), knee_of(best, problem)))
    return Sensitivity(*np.array(rows, np.float64).reshape(-1, 3).T)
