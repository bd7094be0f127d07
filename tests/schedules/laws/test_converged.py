"""The objective's minimum: found from most starts, and as low as on the released curves it can be."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import converged, multi_power
from kaiyuan_jax.schedules.laws.catalogue import LAWS
from tests.schedules.laws.released import curves as released_curves
from tests.schedules.laws.synthetic import generated

VALUES = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}


def test_parameters_that_made_the_curves_come_back_from_most_starts():
    fit = converged.fit(multi_power.LAW, generated(multi_power.LAW, VALUES, noise=1e-6), starts=6)
    assert fit.values == pytest.approx(VALUES, rel=0.05)
    assert fit.details["uniqueness"] >= 0.5 and fit.details["converged"]


def test_ends_are_multiples_of_the_lowest_and_their_share_is_the_uniqueness():
    fit = converged.fit(LAWS["functional_scaling"], generated(multi_power.LAW, VALUES, noise=1e-3), starts=6)
    ends = np.array(fit.details["ends"], np.float64)
    assert ends.size == 6 and ends[0] == 1 and (np.diff(ends) >= 0).all()
    assert fit.details["uniqueness"] == np.mean(ends <= 1.001)


def test_a_seed_decides_the_fit():
    curves = generated(LAWS["linear"], {name: VALUES[name] for name in LAWS["linear"].parameters}, noise=1e-3)
    first, again = (converged.fit(LAWS["linear"], curves, starts=2, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.theta, again.theta)
    assert first.train == ("cosine", "constant", "two_stage") and first.protocol == "converged"


@pytest.mark.parametrize(("size", "lowest"), [(25, 1.385e-4), (100, 2.134e-5)], ids=["25M", "100M"])
def test_released_curves_have_one_minimum_far_below_the_released_fit(size, lowest):
    fit = converged.fit(multi_power.LAW, released_curves(size), starts=10)
    assert fit.objective <= lowest and fit.details["uniqueness"] >= 0.9


@pytest.mark.parametrize(
    ("name", "size", "values"),
    [
        ("linear", 25, {"L0": 3.14776, "A": 0.52561, "alpha": 0.49872, "B": 378.184}),
        ("linear", 100, {"L0": 2.77625, "A": 0.60693, "alpha": 0.44210, "B": 456.870}),
    ],
    ids=["25M", "100M"],
)
def test_the_linear_law_is_where_the_released_grid_of_descents_ends(name, size, values):
    fit = converged.fit(LAWS[name], released_curves(size), starts=2)
    assert fit.values == pytest.approx(values, rel=2e-5)


def test_losses_that_no_law_can_give_are_refused():
    curves = [dataclasses.replace(curve, losses=-curve.losses) for curve in generated(multi_power.LAW, VALUES)]
    with (
        np.errstate(all="ignore"),
        pytest.raises(UserError, match="linear: no random start has a finite objective.*cosine, constant, two_stage"),
    ):
        converged.fit(LAWS["linear"], curves, starts=2)
