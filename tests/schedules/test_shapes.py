"""The decay shapes of papers' tables: their end points, their formulas, and that numpy and jax agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules import shapes

RATES = st.floats(1e-8, 1e-1)


@pytest.mark.parametrize(
    ("shape", "quarter"),
    [
        ("linear", 0.75),
        ("cosine", 0.5 * (1 + np.sqrt(0.5))),
        ("sqrt", 0.5),
        ("sqrt_cube", 0.75**1.5),
        ("square", 0.5625),
        ("exponential", 0.01**0.25),  # of a decay to a hundredth
        ("inverse", 1 / (0.75 + 25)),
    ],
)
def test_a_quarter_of_the_way_down_is_the_published_formula(shape, quarter):
    end = 0.01 if shape in shapes.RATES else 0.0
    assert shapes.rate(shape, 0.25, 1.0, end) == pytest.approx(quarter, rel=1e-12)


def test_sqrt_decay_is_the_interpolation_of_the_curriculum_paper():
    r = np.linspace(0, 1, 11)
    np.testing.assert_allclose(shapes.rate("sqrt", r, 3e-3, 1e-5), 3e-3 * (1 - np.sqrt(r)) + 1e-5 * np.sqrt(r), rtol=1e-12)


def test_exponential_decay_is_the_interpolation_of_the_released_wsd_curves():
    t = np.arange(20000, 24001)
    expected = 3e-4 ** ((24000 - t) / 4000) * 3e-5 ** ((t - 20000) / 4000)
    np.testing.assert_allclose(shapes.rate("exponential", (t - 20000) / 4000, 3e-4, 3e-5), expected, rtol=1e-12)


def test_inverse_decay_is_levanters_formula():
    c, length, peak, least = np.arange(0, 101), 100, 3e-3, 3e-4
    np.testing.assert_allclose(shapes.rate("inverse", c / length, peak, least), peak / ((peak / least - 1) * c / length + 1), rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(shape=st.sampled_from(shapes.NAMES), begin=RATES, end=RATES)
def test_every_shape_goes_monotonically_from_begin_to_end_and_never_outside(shape, begin, end):
    rates = shapes.rate(shape, np.linspace(0, 1, 101), begin, end)
    assert rates[0] == begin and rates[-1] == end
    assert rates.min() == min(begin, end) and rates.max() == max(begin, end)
    steps = np.diff(rates) * np.sign(end - begin)
    assert (steps >= -1e-12 * max(begin, end)).all()


@pytest.mark.parametrize("shape", shapes.NAMES)
def test_outside_the_stretch_the_rate_stays_at_its_ends(shape):
    np.testing.assert_array_equal(shapes.rate(shape, np.array([-3.0, -0.1, 1.1, 9.0]), 2.0, 0.5), [2.0, 2.0, 0.5, 0.5])


@pytest.mark.parametrize("shape", shapes.NAMES)
def test_a_traced_shape_equals_the_numpy_one(shape):
    r = np.linspace(0, 1, 33)
    traced = jax.jit(lambda r: shapes.rate(shape, r, 3e-3, 1e-5))(jnp.asarray(r, jnp.float32))
    np.testing.assert_allclose(traced, shapes.rate(shape, r, 3e-3, 1e-5), rtol=2e-5, atol=1e-9)
