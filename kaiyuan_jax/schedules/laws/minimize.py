"""The schedule with the lowest predicted final loss: it never rises after the warm-up and ends at or above a floor (2503.12811, section 5).

The first updates are decided: a warm-up, or all that a run under way has felt (`Problem.head`). The rest is straight lines between knots,
close together at the end, where the rate changes fast. The rates at the knots come from a softmax w of free numbers z,

    r_i = floor + (ceiling - floor) (1 - w_1 - ... - w_i),        w_1 + ... + w_{N+1} = 1, the last left over above the floor

so every z is a schedule that falls and keeps to the floor, and L-BFGS needs no constraints. The released code moves 21,840 rates one by
one.

For the multi-power laws loss and gradient cost O(knots) instead of O(steps). On a line of n steps the rate falls evenly, so the law's sum
over them is (r_{i-1} - r_i) times a mean of G over the line, taken by Gauss-Legendre with `NODES` nodes; rates and summed rates x at the
nodes are polynomials in the step. Any other law is evaluated on the whole schedule with a gradient by differences over the knots, hundreds
of times slower.

That mean lets the rate pass through all values between two updates. The law itself counts the whole fall of a step at its lower end, where
G is larger, and so rewards jumps: with the released parameters, staircases of a few steps gain up to 8e-4 nats that no training run would
show. On smooth schedules the two readings agree (5e-6 nats over 24,000 steps, 3e-4 over 480); what is reported is the law's own.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import optimize

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import fading
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.law import Law
from kaiyuan_jax.schedules.laws.rebuild import warmup_of

NODES = 6
FLOOR = 1e-3  # of the peak, the default: some fits make a rate of zero look free
# Laws with an exact gradient -> the first update whose change of rate they count, from the length of the warm-up
FIRST_SOURCE = {
    "multi_power": lambda warmup: 1,
    "multi_power_after_warmup": lambda warmup: warmup + 1,
    "multi_power_fading": lambda warmup: warmup + 1,
}
NO_DECAY = {
    "one_power": "it knows no gain from a falling rate, so its best schedule never falls",
    "chinchilla_steps": "it does not look at the rates",
    "linear": "it only looks at the rate of the last update, so its best schedule falls in one step at the very end",
}
_MOST_DIFFERENCED = 20  # knots, where every one costs an evaluation of the whole schedule
_SLIGHT = 1e-9  # nats: what snapping to the ceiling may cost


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What is free: `steps` updates in all, of which `head` (float64[H], H >= 1) are decided; its last rate is the ceiling of the rest."""

    head: np.ndarray
    steps: int
    floor: float  # absolute, at most the ceiling

    @property
    def ceiling(self) -> float:
        return float(self.head[-1])

    @property
    def first(self) -> int:
        """The last update that is decided, where the lines begin."""
        return self.head.size - 1

    @property
    def warmup(self) -> int:
        """Updates before the first at the peak."""
        return warmup_of(np.append(self.head, self.head[-1]))

    def rates(self, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
        """float64[T]: the whole schedule of these knots, the first of which is `first`."""
        return np.concatenate([self.head, np.interp(np.arange(self.head.size, self.steps), knots, values)])


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """A schedule: its lines after the head, and what the law predicts at the last update."""

    knots: np.ndarray  # int64[N + 1]; the first is the last update of the head
    values: np.ndarray  # float64[N + 1]
    loss: float
    evaluations: int


def warmed_up(peak: float, warmup: int) -> np.ndarray:
    """float64[warmup + 1]: a linear warm-up from 0 whose last update is the first at the peak."""
    return peak * np.arange(warmup + 1) / warmup if warmup else np.array([peak])


def graded(problem: Problem, count: int) -> np.ndarray:
    """int64: up to `count` + 1 knots from the last update of the head to the last of all, closer together towards the end."""
    share = 1 - (1 - np.arange(count + 1) / count) ** 2
    return np.unique(np.round(problem.first + (problem.steps - 1 - problem.first) * share).astype(np.int64))


def final_loss(law: Law, theta: np.ndarray, rates: np.ndarray) -> float:
    """What the law predicts after the last update of a whole schedule."""
    curve = Curve("schedule", np.array([rates.size - 1]), np.ones(1), rates, warmup_of(rates))
    return float(law.evaluate(law.prepare([curve]), theta)[0])


def objective(law: Law, theta: np.ndarray, problem: Problem, knots: np.ndarray) -> Callable:
    """Rates at the knots float64[N + 1] -> (loss, its gradient float64[N + 1]). Raises UserError for a law without a best decay."""
    refuse(law)
    if law.name in FIRST_SOURCE:
        return MultiPower(law, problem, knots).at(theta)
    return _differences(law, theta, problem, knots)


def refuse(law: Law) -> None:
    """Raises UserError for a law that has no best decay, with why."""
    if law.name in NO_DECAY:
        raise UserError(f"--law: the law {law.name} cannot design a schedule: {NO_DECAY[law.name]}; fit multi_power")


class MultiPower:
    """A multi-power law's final loss over the rates at some knots; what depends on the knots alone is shared by every theta."""

    def __init__(self, law: Law, problem: Problem, knots: np.ndarray):
        head = problem.head
        source = np.flatnonzero(head[:-1] != head[1:]) + 1
        source = source[source >= FIRST_SOURCE[law.name](problem.warmup)]
        self.head_fall, self.head_rate = head[source - 1] - head[source], head[source]
        self.head_x = head.sum() - (np.cumsum(head) - head)[source]  # without what is still to come
        self.head_sum, self.least = head.sum(), 1e-12 * head.max()  # as in the law: rates below count as this in eta^-gamma

        place, weight = np.polynomial.legendre.leggauss(NODES)
        self.length = np.diff(knots).astype(np.float64)
        self.line = np.repeat(np.arange(self.length.size), NODES)
        share = np.tile((place + 1) / 2, self.length.size)
        self.begin, self.weight = NODES * np.arange(self.length.size), np.tile(weight / 2, self.length.size)
        self.of_a, self.of_b = 1 - share, share  # rate of a node from those at the ends of its line, a and b
        # What falls between the updates k - 1 and k acts from update k on. From there to the end of the line the rates sum to
        # left (rate + b), with the rate of half an update later.
        n = self.length[self.line]
        left, later = (n * (1 - share) + 0.5) / 2, share + 0.5 / n
        self.x_of_a, self.x_of_b = left * (1 - later), left * (1 + later)

    def at(self, theta: np.ndarray) -> Callable:
        """Rates at the knots -> (loss, gradient) under the parameters theta."""
        fades, theta = (theta[7], fading.plain(theta)) if len(theta) == 8 else (0.0, theta)
        L0, lnA, alpha, lnB, lnC, beta, gamma = theta
        line, n = self.line, self.length
        head_c = np.exp(lnC - gamma * np.log(np.maximum(self.head_rate, self.least)))

        def value(rates):
            a, b = rates[:-1], rates[1:]
            later = np.append(np.cumsum((a * (n - 1) + b * (n + 1))[::-1])[::-1] / 2, 0.0)  # summed rates of a line and all after it
            of_a, of_b = a[line], b[line]
            rate = np.maximum(self.of_a * of_a + self.of_b * of_b, self.least)
            x = np.maximum(later[line + 1] + self.x_of_a * of_a + self.x_of_b * of_b, self.least)  # a node may lie half a step outside
            c = np.exp(lnC - gamma * np.log(rate))
            gain, slope = _gain(c * x, beta)
            gain = np.add.reduceat(self.weight * gain, self.begin)
            head_gain, head_slope = _gain(head_c * (self.head_x + later[0]), beta)
            total = self.head_sum + later[0]
            power = np.exp(lnA - alpha * np.log(total))
            scale = np.exp(lnB - fades * np.log(total / fading.SUM))
            gained = (a - b) @ gain + self.head_fall @ head_gain
            loss = L0 + power - scale * gained

            # Derivatives of the gain, backwards: by x and the rate of the nodes, by the sums of the lines, by the ends of the lines.
            by_x = self.weight * (a - b)[line] * slope * c
            by_rate = -gamma * by_x * x / rate
            stacked = np.stack([by_x, by_x * self.x_of_a + by_rate * self.of_a, by_x * self.x_of_b + by_rate * self.of_b])
            by_later, by_a, by_b = np.add.reduceat(stacked, self.begin, axis=1)
            by_sum = self.head_fall @ (head_slope * head_c) + np.cumsum(by_later) - by_later
            by_sum += (alpha * power / scale - fades * gained) / total  # of the power and the scale, in units of the scale
            back = np.zeros(rates.size)
            back[:-1] += gain + by_a + by_sum * (n - 1) / 2
            back[1:] += by_b - gain + by_sum * (n + 1) / 2
            return float(loss), -scale * back

        return value


def _gain(cx, beta):
    """G = 1 - (1 + cx)^-beta and its derivative by cx."""
    log = np.log1p(cx)
    return -np.expm1(-beta * log), beta * np.exp(-(beta + 1) * log)


def _differences(law, theta, problem, knots):
    step = 1e-4 * problem.ceiling

    def value(rates):
        loss = final_loss(law, theta, problem.rates(knots, rates))
        gradient = np.zeros(rates.size)
        for i in range(1, rates.size):  # the first is the head's
            moved = rates.copy()
            moved[i] += step
            gradient[i] = (final_loss(law, theta, problem.rates(knots, moved)) - loss) / step
        return loss, gradient

    return value


def minimise(value: Callable, problem: Problem, knots: np.ndarray, start: np.ndarray | None = None) -> Design:
    """The best rates at given knots for an `objective`, from `start` (float64[N + 1] rates) or an even fall."""
    span = problem.ceiling - problem.floor
    evaluations = 0

    def rates_of(z):
        w = np.exp(z - z.max())
        w /= w.sum()
        return w, np.concatenate([[problem.ceiling], problem.floor + span * np.maximum(1 - np.cumsum(w[:-1]), 0)])

    def scaled(z):
        nonlocal evaluations
        evaluations += 1
        w, rates = rates_of(z)
        loss, gradient = value(rates)
        by_w = np.append(-span * np.cumsum(gradient[:0:-1])[::-1], 0.0)
        return 1e3 * loss, 1e3 * w * (by_w - w @ by_w)  # in thousandths, because the optimum is flat

    z = np.zeros(knots.size)
    if start is not None:
        falls = -np.diff(np.append(start, problem.floor)) / span
        z = np.log(np.maximum(falls, 1e-5))
    found = optimize.minimize(scaled, z, jac=True, method="L-BFGS-B", options=dict(maxiter=400, maxcor=20, ftol=1e-10, gtol=1e-6))
    rates = rates_of(found.x)[1]
    loss = value(rates)[0]
    # A softmax never gives exactly 0: falls of nothing before the knee are made none, where that costs nothing.
    for share in (1e-2, 1e-3, 1e-4):
        held = np.where(rates >= (1 - share) * problem.ceiling, problem.ceiling, rates)
        if (least := value(held)[0]) <= loss + _SLIGHT:
            rates, loss = held, least
            break
    return Design(knots, rates, loss, evaluations)


def design(law: Law, theta: np.ndarray, problem: Problem, count: int = 60, starts: tuple[Callable, ...] = ()) -> Design:
    """The schedule with the lowest predicted final loss on at most `count` lines.

    Two passes: on knots graded to the end, then on knots placed where the first solution falls. `starts` are further schedules to begin
    from, step -> rate (the tuned named families, say); the best end wins. Raises UserError for a law without a best decay.
    """
    count = count if law.name in FIRST_SOURCE else min(count, _MOST_DIFFERENCED)
    if problem.floor >= problem.ceiling:  # nothing is free
        knots = np.array([problem.first, problem.steps - 1])
        values = np.full(2, problem.ceiling)
        return Design(knots, values, final_loss(law, theta, problem.rates(knots, values)), 1)
    knots = graded(problem, count)
    value = objective(law, theta, problem, knots)
    tries = [minimise(value, problem, knots)] + [minimise(value, problem, knots, _clipped(start(knots), problem)) for start in starts]
    best = min(tries, key=lambda tried: tried.loss)
    knots = _regraded(best, knots, count)
    again = minimise(objective(law, theta, problem, knots), problem, knots, np.interp(knots, best.knots, best.values))
    evaluations = again.evaluations + sum(tried.evaluations for tried in tries)
    # The search reads the law between the updates; what counts is its own reading, by which a start may be better than what became of it.
    found = [*tries, again, *(Design(tries[0].knots, _clipped(start(tries[0].knots), problem), 0.0, 0) for start in starts)]
    found = [dataclasses.replace(one, loss=final_loss(law, theta, problem.rates(one.knots, one.values))) for one in found]
    return dataclasses.replace(min(found, key=lambda one: one.loss), evaluations=evaluations)


def _clipped(rates, problem):
    rates = np.minimum.accumulate(np.clip(rates, problem.floor, problem.ceiling))
    rates[0] = problem.ceiling
    return rates


def _regraded(best: Design, knots: np.ndarray, count: int) -> np.ndarray:
    """Knots half of which are spread over how far the first solution has fallen, and half over time, closer together towards the end."""
    every = np.linspace(knots[0], knots[-1], 4096)
    rates = np.interp(every, best.knots, best.values)
    fallen = (rates[0] - rates) / max(rates[0] - rates[-1], 1e-300)
    time = np.linspace(0, 1, every.size)
    progress = 0.5 * fallen + 0.4 * (1 - np.sqrt(1 - time)) + 0.1 * time
    return np.unique(np.round(np.interp(np.linspace(0, 1, count + 1), progress, every)).astype(np.int64))
