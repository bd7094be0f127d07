"""The measures: the released parameters give the released numbers, curve by curve; gaps of pairs are predicted less actual."""

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import catalogue, metrics
from kaiyuan_jax.schedules.laws.curves import Curve
from tests.schedules.laws import released

# The released fit of the 25M model and what it was reported to reach on each test curve.
REFERENCE = dict(L0=3.040454, A=0.524687, alpha=0.507868, B=363.7887, C=2.065612, beta=0.582791, gamma=0.641423)
MEAN = dict(r2=0.9988023, mae=0.0037598, rmse=0.0046515, prede=0.0011021, worste=0.0040947)
BY_CURVE = {
    "constant_72000": (0.99976, 0.00158, 0.00202),
    "cosine_72000": (0.99662, 0.00745, 0.00706),
    "wsd_20000_24000": (0.99922, 0.00341, 0.00298),
    "wsdld_20000_24000": (0.99936, 0.00314, 0.00311),
    "wsdcon_3": (0.99825, 0.00449, 0.00642),
    "wsdcon_18": (0.99961, 0.00250, 0.00298),
}


def curve(name, losses, stride=10, first=100):
    steps = first + stride * np.arange(len(losses))
    return Curve(name, steps, np.asarray(losses, float), np.full(steps[-1] + 1, 1e-3), 0)


def test_released_parameters_give_the_released_measures():
    law, train, test = catalogue.LAWS["multi_power"], released.curves(25), released.curves(25, released.TEST)
    pairs = [("wsd_20000_24000", "cosine_24000")]
    found = metrics.measure(law, law.theta(REFERENCE), train, test, pairs)
    for key, value in MEAN.items():
        assert found["mean"][key] == pytest.approx(value, rel=1e-4), key
    for name, values in BY_CURVE.items():
        row = found["curves"][name]
        np.testing.assert_allclose([row["r2"], row["mae"], row["worste"]], values, atol=6e-6, err_msg=name)
    assert set(found["curves"]) == set(BY_CURVE) and set(found["train"]) == set(released.TRAIN)
    assert found["curves"]["wsd_20000_24000"]["final_loss_error"] == pytest.approx(-0.0096, abs=5e-5)  # it promises too much
    gap = found["pairs"]["wsd_20000_24000-cosine_24000"]
    assert gap["actual_gap"] == pytest.approx(-0.0262, abs=5e-5) and gap["predicted_gap"] == pytest.approx(-0.0466, abs=5e-5)


def test_measures_of_a_small_curve_are_those_on_paper():
    losses, predicted = np.array([4.0, 2.0, 2.0, 2.0, 2.0, 2.0]), np.array([4.4, 2.0, 2.0, 2.0, 2.0, 1.5])
    found = metrics.of_curve(losses, predicted)
    spread = ((losses - 14 / 6) ** 2).sum()
    expected = dict(r2=1 - 0.41 / spread, mae=0.15, rmse=np.sqrt(0.41 / 6), prede=0.35 / 6, worste=0.25, final_loss_error=-0.1)
    assert list(found) == list(metrics.KEYS)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key


def test_the_mean_counts_every_curve_once_and_is_nothing_without_curves():
    rows = [dict.fromkeys(metrics.KEYS, 1.0), dict.fromkeys(metrics.KEYS, 4.0)]
    assert metrics.mean(rows) == dict.fromkeys(metrics.KEYS, 2.5)
    assert metrics.mean([]) is None


def test_the_gap_error_is_predicted_less_actual_over_the_last_points():
    a, b = curve("a", [9, 1, 2, 3, 4, 5.0]), curve("b", [9, 1, 1, 1, 1, 1.0])
    found = metrics.gap(a, b, (a.losses + 0.25, b.losses - 0.5))
    assert found == {"gap_error": pytest.approx(0.75), "actual_gap": pytest.approx(2.0), "predicted_gap": pytest.approx(2.75)}


def test_curves_that_end_within_one_spacing_are_pairs():
    released_names = {tuple(sorted(pair)) for pair in metrics.same_end(released.curves(25, released.TRAIN + released.TEST))}
    assert ("cosine_24000", "wsd_20000_24000") in released_names and ("constant_72000", "cosine_72000") in released_names
    assert ("cosine_24000", "cosine_72000") not in released_names and len(released_names) == 10


def test_pairs_are_named_even_where_names_hold_hyphens():
    names = ["a-b", "a", "b-c", "c"]
    assert metrics.named_pair("a-b-c", names) == ("a", "b-c")  # the first cut that leaves two names
    assert metrics.named_pair("a-b-c", ["a-b", "c"]) == ("a-b", "c")
    for wrong in ("a", "a-a", "a-d", "-", ""):
        with pytest.raises(UserError, match="--pairs: found .* the curves are a-b, a, b-c, c"):
            metrics.named_pair(wrong, names)
