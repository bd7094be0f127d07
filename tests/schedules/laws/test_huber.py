"""Levenberg-Marquardt on the Huber loss of log residuals: it ends at minima, and weights and priors mean what they say."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws import baselines, huber, multi_power
from tests.schedules.laws.synthetic import generated

LINEAR = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0}
MULTI_POWER = LINEAR | {"C": 2.0, "beta": 0.6, "gamma": 0.6}


def problem(law, values, noise=0.0, seed=0):
    curves = generated(law, values, noise, seed)
    return curves, law.prepare(curves), np.concatenate([curve.losses for curve in curves])


def objective(law, prepared, losses, theta, weights=1.0):
    return float(np.sum(weights * huber.huber(huber.residuals(losses, law.evaluate(prepared, theta)))))


def test_huber_loss_is_a_parabola_inside_delta_and_straight_outside():
    np.testing.assert_allclose(huber.huber(np.array([0.5, -0.5, 3.0, -3.0]), 1.0), [0.125, 0.125, 2.5, 2.5])


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_no_start_ends_higher_than_it_began_and_converged_ends_are_stationary(seed):
    law = multi_power.LAW
    curves, prepared, losses = problem(law, MULTI_POWER, noise=2e-3, seed=seed)
    start = law.starts(curves, np.random.default_rng(seed), 1)[0]
    end = huber.minimise(law, prepared, losses, start)
    assert end.objective <= objective(law, prepared, losses, start)
    assert end.objective == pytest.approx(objective(law, prepared, losses, end.theta), rel=1e-12)
    if end.converged:
        for step in 1e-4 * np.eye(7):
            nearby = [objective(law, prepared, losses, end.theta + sign * step) for sign in (-1, 1)]
            assert min(nearby) >= end.objective * (1 - 1e-6)


def test_curves_without_noise_give_back_the_parameters_that_made_them():
    for law, values in ((baselines.LINEAR, LINEAR), (multi_power.LAW, MULTI_POWER)):
        curves, prepared, losses = problem(law, values)
        ends = [huber.minimise(law, prepared, losses, start) for start in law.starts(curves, np.random.default_rng(0), 3)]
        best = min(ends, key=lambda end: end.objective)
        assert best.objective < 1e-15
        assert law.values(best.theta) == pytest.approx(values, rel=1e-4)


def test_a_few_wild_points_hardly_move_the_fit():
    law = baselines.LINEAR
    curves, prepared, losses = problem(law, LINEAR)
    losses[::25] *= 1.5
    end = huber.minimise(law, prepared, losses, law.starts(curves, np.random.default_rng(0), 1)[0])
    assert law.values(end.theta) == pytest.approx(LINEAR, rel=0.02)


def test_a_weight_of_two_is_a_point_seen_twice_and_a_weight_of_zero_one_not_seen():
    law = baselines.LINEAR
    curves, prepared, losses = problem(law, LINEAR, noise=3e-3)
    start = law.starts(curves, np.random.default_rng(0), 1)[0]
    sizes = [curve.steps.size for curve in curves]
    weights = np.repeat([1.0, 2.0, 0.0], sizes)
    weighted = huber.minimise(law, prepared, losses, start, weights=weights)
    seen = [curves[0], curves[1], curves[1]]
    repeated = huber.minimise(law, law.prepare(seen), np.concatenate([curve.losses for curve in seen]), start)
    np.testing.assert_allclose(weighted.theta, repeated.theta, rtol=1e-5)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)


def test_a_prior_pulls_parameters_by_its_precision():
    law = baselines.LINEAR
    curves, prepared, losses = problem(law, LINEAR, noise=3e-3)
    start = law.starts(curves, np.random.default_rng(0), 1)[0]
    mean = law.theta(LINEAR) + np.array([0.0, 0.0, 0.1, 0.0])
    ends = []
    for precision in (0.0, 1e-2, 1.0, 1e8):
        end = huber.minimise(law, prepared, losses, start, prior=(mean, np.diag([0, 0, precision, 0])))
        away = end.theta - mean
        plain = objective(law, prepared, losses, end.theta)
        assert end.objective == pytest.approx(plain + 0.5 * precision * away[2] ** 2, rel=1e-9)
        ends.append(abs(away[2]))
    assert ends == sorted(ends, reverse=True) and ends[0] > 0.05 and ends[-1] < 1e-6


def test_units_of_the_loss_change_nothing_but_its_level():
    law = baselines.LINEAR
    curves, prepared, losses = problem(law, LINEAR, noise=3e-3)
    bits = [dataclasses.replace(curve, losses=curve.losses / np.log(2)) for curve in curves]
    ends = [
        huber.minimise(law, prepared, values, law.starts(made, np.random.default_rng(0), 1)[0])
        for made, values in ((curves, losses), (bits, losses / np.log(2)))
    ]
    assert ends[1].objective == pytest.approx(ends[0].objective, rel=1e-6)
    shift = np.array([ends[0].theta[0] * (1 / np.log(2) - 1), -np.log(np.log(2)), 0, -np.log(np.log(2))])
    np.testing.assert_allclose(ends[1].theta - ends[0].theta, shift, atol=1e-3)


def test_a_start_that_predicts_no_positive_loss_is_reported_and_not_moved():
    law = baselines.ONE_POWER
    _, prepared, losses = problem(law, {"L0": 3.0, "A": 0.5, "alpha": 0.5})
    start = np.array([-50.0, 0.0, 0.5])
    end = huber.minimise(law, prepared, losses, start)
    assert end.objective == np.inf and not end.converged
    np.testing.assert_array_equal(end.theta, start)


def test_at_most_so_many_iterations():
    law = multi_power.LAW
    curves, prepared, losses = problem(law, MULTI_POWER, noise=2e-3)
    end = huber.minimise(law, prepared, losses, law.starts(curves, np.random.default_rng(0), 1)[0], most=3)
    assert end.iterations == 3 and not end.converged


def test_parameters_of_which_the_curves_say_nothing_stay_where_they_started():
    law, constant = multi_power.AFTER_WARMUP, [generated(multi_power.AFTER_WARMUP, MULTI_POWER, noise=1e-3)[1]]
    start = law.starts(constant, np.random.default_rng(0), 1)[0]
    end = huber.minimise(law, law.prepare(constant), constant[0].losses, start)
    assert end.converged and law.values(end.theta)["alpha"] == pytest.approx(0.5, rel=0.2)
    np.testing.assert_array_equal(end.theta[3:], start[3:])
