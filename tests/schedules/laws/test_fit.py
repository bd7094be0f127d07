"""Fits by protocol."""

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import converged, fit, multi_power
from kaiyuan_jax.schedules.laws.catalogue import LAWS
from tests.schedules.laws.synthetic import generated

VALUES = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}


@pytest.mark.parametrize(("protocol", "law"), [("robust", "multi_power"), ("converged", "linear"), ("reference", "multi_power")])
def test_a_protocol_is_found_by_name(protocol, law):
    found = fit.fit(LAWS[law], generated(multi_power.LAW, VALUES, noise=1e-3), protocol)
    assert found.protocol == protocol and found.train == ("cosine", "constant", "two_stage")
    assert found.law.name.startswith(law) and found.theta.size == len(found.law.parameters)


def test_the_values_of_a_fit_have_their_logarithms_undone():
    found = fit.Fit(multi_power.LAW, "reference", multi_power.LAW.theta(VALUES), 0.0, ("a",))
    assert found.values == pytest.approx(VALUES)


@pytest.mark.parametrize("protocol", fit.PROTOCOLS)
def test_the_law_that_a_protocol_fits_is_known_before(protocol):
    curves = generated(multi_power.LAW, VALUES, noise=1e-3, stride=100)
    for name in ("multi_power", "multi_power_after_warmup", "multi_power_fading", "one_power")[: 2 if protocol == "reference" else 4]:
        assert fit.fit(LAWS[name], curves, protocol).law is fit.fitted_law(LAWS[name], protocol)


def test_parameters_that_are_no_numbers_are_refused(monkeypatch):
    nothing = fit.Fit(multi_power.LAW, "converged", np.full(7, np.nan), np.nan, ("a", "b"))
    monkeypatch.setattr(converged, "fit", lambda law, curves, seed: nothing)
    with pytest.raises(UserError, match="protocol: converged found no finite parameters of multi_power for a, b; look at their losses"):
        fit.fit(multi_power.LAW, [], "converged")


def test_an_unknown_protocol_is_refused_in_one_line():
    with pytest.raises(UserError, match="protocol: found 'best', must be one of robust, converged, reference"):
        fit.fit(multi_power.LAW, [], "best")
