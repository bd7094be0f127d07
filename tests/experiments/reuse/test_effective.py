"""E by inversion of a one-pass curve, and where it saturates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax.experiments.reuse import effective

SAMPLES = np.geomspace(100, 1e5, 31)
POWER = effective.Curve(SAMPLES, 3 * SAMPLES**-0.4)


@given(st.floats(100, 1e5), st.floats(50, 1e4))
def test_a_power_law_is_inverted_exactly(samples, fresh):
    assert effective.reuse(POWER, np.array([3 * samples**-0.4]), fresh)[0] == pytest.approx(samples / fresh, rel=1e-9)


def test_beyond_the_curve_there_is_no_number_and_before_it_its_beginning():
    assert POWER.samples_for(np.array([1e-9, 1e9])).tolist() == [np.inf, pytest.approx(100)]


@given(st.lists(st.floats(0.5, 5), min_size=1, max_size=12))
def test_a_noisy_curve_is_made_to_fall_and_no_further_than_needed(losses):
    curve = effective.Curve(np.arange(1.0, len(losses) + 1), np.array(losses))
    assert (np.diff(curve.falling) <= 1e-12).all()
    assert np.log(curve.falling).sum() == pytest.approx(np.log(losses).sum())  # pooling keeps the mean
    if (np.diff(losses) <= 0).all():
        assert curve.falling == pytest.approx(losses)


def test_on_a_flat_stretch_the_least_number_of_samples_counts():
    curve = effective.Curve(np.array([1.0, 10.0, 100.0, 1000.0]), np.array([4.0, 2.0, 2.0, 1.0]))
    assert curve.samples_for(np.array([2.0]))[0] == pytest.approx(10)


def test_saturation_is_where_the_share_is_crossed():
    epochs = np.array([1.0, 2, 4, 8, 16])
    assert effective.saturation(epochs, epochs**0.8, share=0.75) == pytest.approx(0.75**-5, rel=0.02)
    assert effective.saturation(epochs, epochs) == np.inf
    assert effective.saturation(epochs, np.array([0.5, 1, 1, 1, 1])) == 1
    assert effective.saturation(epochs, np.array([np.inf, np.inf, 1, 1, 1])) == 4
