"""The designed schedule is allowed, is the law's own best, and is found from exact losses and gradients."""

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import catalogue, families, minimize, quadrature
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.minimize import Problem, warmed_up

# The released parameters of 2503.12811; its optimiser counts the falls after the warm-up alone, and reaches the losses beside them.
RELEASED = {
    "25M": (dict(L0=3.040454, A=0.524687, alpha=0.507868, B=363.7887, C=2.065612, beta=0.582791, gamma=0.641423), 3.14968),
    "100M": (dict(L0=2.6514, A=0.6012, alpha=0.4530, B=437.946, C=2.1325, beta=0.5979, gamma=0.6552), 2.79414),
}
AFTER = catalogue.LAWS["multi_power_after_warmup"]
EXACT = [catalogue.LAWS[name] for name in minimize.FIRST_SOURCE]
PEAK = 3e-4


def released(size, steps=24_000, floor=1e-9, warmup=2159):
    values, goal = RELEASED[size]
    return AFTER.theta(values), Problem(warmed_up(PEAK, warmup), steps, floor), goal


@st.composite
def any_theta(draw, law):
    """Parameters around what fits of the released curves find, and far beyond: gamma above 1 makes a zero rate free."""
    gamma = draw(st.floats(0.0, 1.6))
    values = dict(L0=3.0, A=draw(st.floats(0.3, 0.8)), alpha=draw(st.floats(0.2, 0.8)), B=draw(st.floats(50, 900)), gamma=gamma)
    # How far a fall from the peak has paid off after a tenth of the summed rate of the run decides the length of the decay.
    values |= dict(C=np.exp(draw(st.floats(-1, 5))) * PEAK**gamma, beta=draw(st.floats(0.1, 2.5)))
    if "fading" in law.parameters:
        values |= dict(C=values["C"] * PEAK**-gamma, fading=draw(st.floats(0.0, 0.3)))
    return law.theta(values)


@st.composite
def any_problem(draw, most=4000):
    steps = draw(st.integers(200, most))
    warmup = draw(st.integers(0, steps // 4))
    head = warmed_up(PEAK, warmup)
    if draw(st.booleans()):  # a run under way, which has fallen before
        more = draw(st.integers(1, steps // 3))
        falls = draw(st.lists(st.integers(0, more - 1), max_size=3))
        head = np.concatenate([head, PEAK * 0.7 ** np.searchsorted(sorted(falls), np.arange(more), side="right")])
    return Problem(head, steps, draw(st.sampled_from([0.0, 1e-4, 1e-2])) * head[-1])


@st.composite
def any_rates(draw, problem, knots):
    """Rates at the knots that fall from the ceiling to the floor or above."""
    seed = draw(st.integers(0, 2**32 - 1))
    falls = np.random.default_rng(seed).dirichlet(np.full(knots.size, draw(st.sampled_from([0.1, 1.0, 10.0]))))
    return problem.floor + (problem.ceiling - problem.floor) * (1 - np.concatenate([[0.0], np.cumsum(falls[:-1])])).clip(0)


# --- the objective ---


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(EXACT), any_problem(), st.integers(4, 60))
def test_one_long_line_is_worth_what_its_steps_are_worth_one_by_one(data, law, problem, count):
    knots = minimize.graded(problem, count)
    theta, values = data.draw(any_theta(law)), np.maximum(data.draw(any_rates(problem, knots)), 0.1 * problem.ceiling)
    assume((values[1:] > 0.2 * values[:-1]).all())  # no quadrature holds where the rate goes to nearly 0 within one line
    every = np.arange(problem.first, problem.steps)
    one_by_one = minimize.objective(law, theta, problem, every)(problem.rates(knots, values)[problem.first :])[0]
    assert minimize.objective(law, theta, problem, knots)(values)[0] == pytest.approx(one_by_one, abs=3e-5)


@settings(deadline=None, max_examples=30)
@given(st.data(), st.sampled_from(EXACT), st.integers(1, 400))
def test_the_loss_is_the_law_where_the_rate_passes_through_all_values_between_two_updates(data, law, seed):
    problem = Problem(warmed_up(PEAK, 20), 60, 1e-2 * PEAK)
    theta, knots = data.draw(any_theta(law)), np.arange(20, 60)
    values = data.draw(any_rates(problem, knots))
    parameters = law.values(theta)
    C = parameters["C"] * (PEAK ** parameters["gamma"] if "fading" in parameters else 1.0)
    rates, gained = problem.rates(knots, values), 0.0
    for k in range(minimize.FIRST_SOURCE[law.name](20), 60):
        share = (np.arange(2000) + 0.5) / 2000 if k > 20 else np.ones(1)  # the warm-up is what the law says
        rate = rates[k - 1] + (rates[k] - rates[k - 1]) * share
        later = rates[k - 1] + (rates[k] - rates[k - 1]) * (share + 0.5)
        x = rates[k + 1 :].sum() + ((1.5 - share) / 2 * (later + rates[k]) if k > 20 else rates[k])
        gained += (rates[k - 1] - rates[k]) * np.mean(1 - (1 + C * rate ** -parameters["gamma"] * np.maximum(x, 0)) ** -parameters["beta"])
    fade = (rates.sum() / 2.4) ** -parameters.get("fading", 0.0)
    expected = parameters["L0"] + parameters["A"] * rates.sum() ** -parameters["alpha"] - parameters["B"] * fade * gained
    assert minimize.objective(law, theta, problem, knots)(values)[0] == pytest.approx(expected, abs=2e-4 * parameters["B"] * PEAK)


@pytest.mark.parametrize("law", EXACT, ids=lambda law: law.name)
@pytest.mark.parametrize("size", RELEASED)
def test_on_the_optimum_the_loss_is_the_laws_own_to_a_hundred_thousandth(law, size):
    values, _ = RELEASED[size]
    theta = law.theta(values if "fading" not in law.parameters else values | dict(C=values["C"] * PEAK ** -values["gamma"], fading=0.12))
    problem = Problem(warmed_up(PEAK, 2159), 24_000, 3e-7)
    best = minimize.design(law, theta, problem)
    rates = problem.rates(best.knots, best.values)
    exact = law.evaluate(quadrature.exact(rates, np.array([23_999]), minimize.FIRST_SOURCE[law.name](2159)), theta)[0]
    assert minimize.objective(law, theta, problem, best.knots)(best.values)[0] == pytest.approx(exact, abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(EXACT), any_problem(), st.integers(2, 40))
def test_the_gradient_is_that_of_the_loss(data, law, problem, count):
    knots = minimize.graded(problem, count)
    theta, values = data.draw(any_theta(law)), data.draw(any_rates(problem, knots))
    values = np.maximum(values, 1e-3 * PEAK)
    value = minimize.objective(law, theta, problem, knots)
    gradient = value(values)[1]
    for i in range(1, knots.size):
        step = 1e-4 * values[i]
        ends = [value(np.where(np.arange(knots.size) == i, values[i] + move, values))[0] for move in (step, -step)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-8 / step)


# --- the optimum ---


@settings(deadline=None, max_examples=30)
@given(st.data(), st.sampled_from(EXACT), any_problem())
def test_a_designed_schedule_keeps_its_head_never_rises_and_stays_above_the_floor(data, law, problem):
    best = minimize.design(law, data.draw(any_theta(law)), problem, 20)
    rates = problem.rates(best.knots, best.values)
    assert rates.size == problem.steps and np.isfinite(best.loss)
    np.testing.assert_array_equal(rates[: problem.head.size], problem.head)
    assert (np.diff(rates[problem.first :]) <= 1e-18).all()
    assert rates.min() >= min(problem.floor, problem.head.min()) - 1e-18 and rates[-1] >= problem.floor - 1e-18


@settings(deadline=None, max_examples=15)
@given(st.data(), st.sampled_from(EXACT), any_problem())
def test_no_tuned_family_beats_the_designed_schedule(data, law, problem):
    theta = data.draw(any_theta(law))
    assume(problem.floor > 0)
    tuned = families.tuned(law, theta, problem)
    starts = [lambda step, family=family: family.rate(step, problem) for family in tuned[:2]]
    best = minimize.design(law, theta, problem, 60, tuple(starts))
    assert best.loss <= tuned[0].loss + 1e-5, tuned[0]


@pytest.mark.parametrize("size", RELEASED)
@pytest.mark.parametrize("floor", [1e-9, 1e-3 * PEAK])
def test_the_released_optimum_is_reached(size, floor):
    theta, problem, goal = released(size, floor=floor)
    best = minimize.design(AFTER, theta, problem)
    assert best.loss <= goal + 1e-4
    knee = best.knots[best.values >= 0.99 * PEAK][-1]
    assert 21_300 <= knee <= 21_700
    assert 1e-6 <= best.values[-1] <= 1.5e-6


@pytest.mark.parametrize(("steps", "seconds"), [(24_000, 0.5), (72_000, 2.0)])
def test_a_schedule_is_designed_in_half_a_second(steps, seconds):
    theta, problem, _ = released("25M", steps)
    spent = []
    for _ in range(3):
        begin = time.process_time()
        minimize.design(AFTER, theta, problem)
        spent.append(time.process_time() - begin)
    assert min(spent) <= seconds


def test_more_knots_change_next_to_nothing():
    theta, problem, _ = released("25M")
    coarse, fine = (minimize.design(AFTER, theta, problem, count).loss for count in (40, 160))
    assert -1e-6 <= coarse - fine <= 2e-5


@pytest.mark.parametrize("gamma", [1.05, 1.36, 2.0])
def test_where_a_zero_rate_looks_free_the_loss_stays_finite_and_the_floor_is_kept(gamma):
    theta = AFTER.theta(RELEASED["25M"][0] | dict(gamma=gamma, C=200 * PEAK**gamma))
    free, floored = (Problem(warmed_up(PEAK, 200), 4000, floor) for floor in (0.0, 1e-3 * PEAK))
    low, high = (minimize.design(AFTER, theta, problem) for problem in (free, floored))
    assert np.isfinite([low.loss, high.loss]).all() and high.values[-1] >= 1e-3 * PEAK * (1 - 1e-12)
    assert low.loss <= high.loss + 1e-5


def test_the_best_continuation_of_the_best_schedule_is_its_end():
    theta, problem, _ = released("100M", floor=3e-7)
    best = minimize.design(AFTER, theta, problem)
    rates = problem.rates(best.knots, best.values)
    for step in (12_000, 22_500):
        rest = Problem(rates[:step], 24_000, 3e-7)
        assert minimize.design(AFTER, theta, rest).loss == pytest.approx(best.loss, abs=1e-5)


def test_a_run_that_has_fallen_before_ends_otherwise_than_one_that_has_not():
    theta, fresh, _ = released("25M", 12_000, 3e-7, warmup=500)
    fallen = Problem(np.concatenate([fresh.head, np.full(4000, PEAK), np.full(2000, PEAK / 3)]), 12_000, 3e-7)
    best = minimize.design(AFTER, theta, fallen)
    rates = fallen.rates(best.knots, best.values)
    assert rates.max() == PEAK and best.values[0] == PEAK / 3 and (rates[6501:] <= PEAK / 3).all()
    exact = AFTER.evaluate(quadrature.exact(rates, np.array([11_999]), 501), theta)[0]
    assert best.loss == pytest.approx(exact, abs=2e-6)


def test_a_jump_is_worth_no_more_than_a_fall_in_a_few_steps():
    theta, problem, _ = released("25M", 72_000)
    losses = []
    for length in (1, 20):
        knots = np.array([problem.first, 66_390, 66_390 + length, 71_999])
        values = np.array([PEAK, PEAK, PEAK / 10, 1e-6])
        own = AFTER.evaluate(quadrature.exact(problem.rates(knots, values), np.array([71_999]), 2160), theta)[0]
        losses.append((minimize.objective(AFTER, theta, problem, knots)(values)[0], own))
    (jump, own_jump), (fall, own_fall) = losses
    assert abs(jump - fall) < 2e-4
    assert own_fall - own_jump > 2e-3  # what the law would pay for the jump
    best = minimize.design(AFTER, theta, problem)
    assert np.abs(np.diff(problem.rates(best.knots, best.values)[2160:])).max() < 1e-3 * PEAK


@pytest.mark.parametrize("steps", [200, 480])
def test_a_short_run_gets_no_staircase(steps):
    problem = Problem(warmed_up(3e-3, steps // 20), steps, 3e-6)
    values = dict(L0=3.0, A=0.5, alpha=0.5, B=60.0, C=266.0, beta=0.22, gamma=0.42, fading=0.12)
    law = catalogue.LAWS["multi_power_fading"]
    rates = problem.rates((best := minimize.design(law, law.theta(values), problem)).knots, best.values)[problem.first :]
    falls = -np.diff(rates[rates < 0.99 * 3e-3])
    assert falls.max() < 4 * max(falls.mean(), 1e-2 * 3e-3) and (falls[1:-1] > 0).mean() > 0.9


def test_without_room_above_the_floor_the_rate_is_constant():
    theta, _, _ = released("25M")
    problem = Problem(warmed_up(PEAK, 10), 100, PEAK)
    best = minimize.design(AFTER, theta, problem)
    assert (problem.rates(best.knots, best.values)[10:] == PEAK).all()


@pytest.mark.parametrize("name", ["one_power", "chinchilla_steps", "linear"])
def test_a_law_without_a_best_decay_is_refused_with_why(name):
    law = catalogue.LAWS[name]
    with pytest.raises(UserError, match=f"--law: the law {name} cannot design a schedule: it "):
        minimize.design(law, np.zeros(len(law.parameters)), Problem(warmed_up(PEAK, 10), 100, 0.0))


def test_another_law_is_designed_with_by_differences():
    law = catalogue.LAWS["multi_exponential"]
    problem = Problem(warmed_up(PEAK, 50), 400, 1e-3 * PEAK)
    curve = Curve("c", np.arange(60, 400, 20), np.linspace(4, 3, 17), problem.rates(np.array([50, 399]), np.array([PEAK, 1e-5])), 50)
    theta = law.starts([curve], np.random.default_rng(0), 1)[0]
    best = minimize.design(law, theta, problem, 8)
    ends = [np.array([PEAK, end]) for end in (PEAK, PEAK / 3, 3e-7)]
    lines = [minimize.final_loss(law, theta, problem.rates(np.array([50, 399]), end)) for end in ends]
    assert best.loss <= min(lines) + 1e-6
    assert (np.diff(problem.rates(best.knots, best.values)[50:]) <= 1e-18).all()
