"""Intervals hold what they promise, and no comparison claims more than chance allows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kaiyuan_jax.experiments import analysis
from kaiyuan_jax.schedules.laws.curves import Curve


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_the_interval_over_seeds_is_students(values):
    low, high = analysis.seed_interval(values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-9)


def test_the_interval_over_seeds_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        low, high = analysis.seed_interval(random.normal(1.0, 0.3, 3))
        inside += low <= 1.0 <= high
    assert 0.93 < inside / 2000 < 0.97


def test_one_seed_has_no_interval():
    assert analysis.seed_interval([1.0]) is None


def test_only_what_a_branch_does_alone_is_its_own():
    trunk = np.full(10, 1.0)
    rates = np.where(np.arange(10) < 6, 1.0, 0.5)
    curve = Curve("c", np.array([1, 3, 5, 6, 7, 9]), np.ones(6), rates, 0)
    assert analysis.own_part(curve, trunk).tolist() == [False, False, False, True, True, True]
    assert analysis.own_part(Curve("c", curve.steps, np.ones(6), trunk, 0), trunk).all()


def test_errors_are_over_the_own_part_and_keep_the_sign_at_the_end():
    curve = Curve("c", np.arange(3), np.array([1.0, 2.0, 3.0]), np.ones(3), 0)
    found = analysis.errors(curve, np.array([9.0, 2.5, 2.9]), np.array([False, True, True]))
    assert found == pytest.approx({"mae": 0.3, "worst": 0.5, "final": -0.1})


def test_the_band_is_judged_by_the_own_part():
    curve = Curve("c", np.arange(4), np.array([5.0, 2.0, 3.0, 4.0]), np.ones(4), 0)
    own = np.array([False, True, True, True])
    assert analysis.coverage(curve, curve.losses - [1, 0.1, 0.1, -0.1], curve.losses + 0.2, own) == pytest.approx(2 / 3)


def test_the_tuned_of_a_family_has_its_lowest_final_loss():
    assert analysis.tuned({"a": 2.0, "b": 1.0, "c": 0.5}, {"x": ["a", "b"], "y": ["c"]}) == {"x": "b", "y": "c"}


def seeds(shifts, documents=40, seed=0):
    """A run a shift: the same documents with losses that differ by the shift a token, and a little noise a document."""
    random = np.random.default_rng(seed)
    tokens, base = random.integers(50, 100, documents), random.normal(4, 1, documents)
    return [{"s": {"document": np.arange(documents), "tokens": tokens, "nats": tokens * (base + shift)}} for shift in shifts]


def test_a_difference_is_the_mean_over_seeds_and_changes_its_sign_with_the_order():
    first, second = seeds([0.0, 0.1]), seeds([0.2, 0.3])
    one, other = analysis.compare(first, second), analysis.compare(second, first)
    assert one["mean"] == pytest.approx(-0.2) and other["mean"] == pytest.approx(0.2)
    assert one["seeds"] == pytest.approx([-0.2, -0.2])
    assert one["documents"] == pytest.approx([-other["documents"][1], -other["documents"][0]])


def test_the_paired_interval_leaves_out_what_documents_have_in_common():
    difference = analysis.compare(seeds([0.0, 0.1]), seeds([0.2, 0.3]))
    assert difference["documents"] == pytest.approx([-0.2, -0.2])  # every document differs by the same


def test_runs_on_other_documents_are_not_compared():
    first, second = seeds([0.0]), seeds([0.0], seed=1)
    with pytest.raises(ValueError, match="not evaluated on the same documents"):
        analysis.compare(first, second)


@pytest.mark.parametrize(
    "interval, documents, words",
    [
        ([-2, -1], [-3, -1], "a is better than b here"),
        ([1, 2], [1, 3], "a is worse than b here"),
        ([-1, 1], [1, 3], "other seeds could"),
        ([1, 2], [-1, 3], "other held-out documents could"),
        (None, [1, 3], "other seeds could"),
        ([-1, 1], [-1, 3], "other seeds or other documents could"),
    ],
)
def test_a_claim_needs_both_intervals(interval, documents, words):
    mean = np.mean(interval or documents)
    assert words in analysis.verdict({"mean": mean, "interval": interval, "documents": documents}, ("a", "b"))
