"""What passes are worth, and a budget turned into passes per quantile under a limit."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.reuse import DECAY, LIMIT, Band, allot, limit_of, worth

QUARTERS = [Band("a", low, low + 0.25, 100.0, value) for low, value in ((0.0, 0.5), (0.25, 0.8), (0.5, 1.0), (0.75, 2.0))]
bands = st.lists(
    st.builds(Band, st.just("a"), st.just(0.0), st.just(1.0), st.floats(1, 1e6), st.sampled_from([0.2, 0.5, 1.0, 1.7, 4.0])),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.parametrize("passes, fresh", [(0.5, 0.5), (1, 1), (4, 3.73), (32, 14.3), (1e6, 16.39)])
def test_passes_are_worth_what_2305_16264_gives(passes, fresh):
    assert worth(passes) == pytest.approx(fresh, rel=3e-3)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_more_passes_are_worth_more_but_never_more_than_fresh_ones(one, other):
    low, high = sorted((one, other))
    assert worth(low) <= worth(high) <= high


@pytest.mark.parametrize("share, decay", [(0.5, DECAY), (0.75, 4.0)])
def test_at_the_limit_one_more_pass_is_worth_the_share_of_a_fresh_one(share, decay):
    step, limit = 1e-6, limit_of(share, decay)
    assert (worth(limit + step, decay) - worth(limit, decay)) / step == pytest.approx(share, rel=1e-3)
    assert limit_of(0.5) == LIMIT


@given(bands, st.floats(0, 1), st.floats(0.5, 20), st.sampled_from([2.0, DECAY, math.inf]))
def test_what_is_allotted_is_the_budget_within_the_limit(found, part, limit, decay):
    budget = part * limit * sum(band.tokens for band in found)
    result = allot(found, budget, limit=limit, decay=decay)
    assert [one.band for one in result] == found
    assert sum(one.tokens for one in result) == pytest.approx(budget, rel=1e-6, abs=1e-6)
    assert all(-1e-9 <= one.passes <= limit * (1 + 1e-9) for one in result)


@given(bands, st.floats(0.01, 0.99), st.floats(1.5, 20), st.sampled_from([2.0, DECAY]), st.data())
def test_no_tokens_are_better_read_elsewhere(found, part, limit, decay, data):
    """The oracle of an optimum: moving a few tokens from any band to any other never gains."""
    result = allot(found, part * limit * sum(band.tokens for band in found), limit=limit, decay=decay)
    given_, taken = (data.draw(st.sampled_from(result)) for _ in range(2))
    moved = 1e-3 * min(given_.band.tokens, taken.band.tokens)
    if taken.tokens < moved or given_.tokens + moved > limit * given_.band.tokens:
        return

    def gain(one, tokens):
        size = one.band.tokens
        return one.band.value * size * (worth((one.tokens + tokens) / size, decay) - worth(one.passes, decay))

    assert gain(given_, moved) + gain(taken, -moved) <= 1e-6 * moved * 4


def test_better_text_is_read_more_often_by_the_logarithm_of_its_worth():
    worst, *others = allot(QUARTERS, 1_500, decay=4.0)
    assert worst.passes > 1 and others[-1].passes < LIMIT
    for one, value in zip(others, (0.8, 1.0, 2.0), strict=True):
        assert one.passes - worst.passes == pytest.approx(4 * math.log(value / 0.5))


def test_text_that_is_not_worth_another_pass_of_the_better_is_left_out():
    assert [one.passes for one in allot(QUARTERS, 500, decay=4.0)][0] == 0


def test_with_passes_that_stay_fresh_the_best_text_is_read_to_the_limit_first():
    assert [one.passes for one in allot(QUARTERS, 900, limit=4, decay=math.inf)] == pytest.approx([0, 1, 4, 4])


def test_equal_text_is_read_equally_often():
    same = [Band("a", 0, 0.5, 100, 1.0), Band("b", 0, 1, 300, 1.0)]
    for budget, passes in ((200, 0.5), (400, 1), (1000, 2.5)):
        assert [one.passes for one in allot(same, budget)] == pytest.approx([passes, passes])


def test_a_budget_beyond_the_limit_says_what_would_be_enough():
    with pytest.raises(UserError, match="1,700 tokens are more than 4 passes of 400.*to 1,600, raise the limit to 4.25, or add 25 tokens"):
        allot(QUARTERS, 1_700, limit=4)


@pytest.mark.parametrize("wrong", [[], [Band("a", 0.5, 0.5, 10)], [Band("a", 0, 1, 0)], [Band("a", 0, 1, 10, -1)]])
def test_bands_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError):
        allot(wrong, 1)
