"""From worth to keep-ratios: better text is read more often, tokens add up, and phases shrink."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.config_check import check
from kaiyuan_jax.data import recipe as recipes
from kaiyuan_jax.experiments.quantiles import recipe

QUANTILES = (0.0, 0.25, 0.5, 0.75)


def curve(worth, name="a", domain="x", tokens=1_000_000):
    return recipe.curve(name, domain, tokens, QUANTILES, 0.25, np.array(worth, np.float64))


def read(proposal, sizes):
    return sum(sizes[one.source] * one.ratio * one.passes for kept in proposal for one in kept)


def test_a_loss_higher_by_what_twice_the_tokens_bring_halves_the_worth():
    b = recipe.slope(np.array([3.0, 4.0]), np.array([2.8, 3.8]), 2.0)
    assert recipe.worth(2.5 + 0.2, 2.5, b) == pytest.approx(0.5)
    assert recipe.worth(2.4, 2.5, b) == 1.0


def test_differences_that_noise_explains_are_not_acted_upon_and_larger_ones_are():
    losses = np.array([3.3, 3.2, 3.25, 3.21])
    assert np.ptp(recipe.shrunk(losses, 0.06)) == 0 and recipe.shrunk(losses, 0.06).mean() == pytest.approx(losses.mean())
    np.testing.assert_allclose(recipe.shrunk(losses, 1e-4), losses, atol=1e-5)
    assert recipe.shrunk(np.full(3, 2.0), 0.1).tolist() == [2.0] * 3


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_falling_curve_never_rises_keeps_the_mean_and_leaves_a_falling_one_alone(values):
    made = recipe.falling(np.array(values))
    assert np.all(np.diff(made) <= 1e-12) and made.mean() == pytest.approx(np.mean(values), abs=1e-9)
    np.testing.assert_allclose(recipe.falling(made), made)


@settings(max_examples=15)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0.1, 3.9), st.integers(1, 5))
def test_phases_shrink_and_read_the_tokens_asked_for(worth, passes, count):
    proposal = recipe.propose([curve(worth)], tokens=passes * 1e6, count=count, limit=4.0)
    ratios = [kept[0].ratio for kept in proposal]
    assert ratios == sorted(ratios, reverse=True) and 0 <= ratios[-1] and ratios[0] <= 1
    assert read(proposal, {"a": 1_000_000}) == pytest.approx(passes * 1e6, rel=1e-2, abs=1e3)


def test_where_quality_does_not_matter_all_is_read_once_before_anything_twice():
    once, more = (recipe.propose([curve([0.7] * 4)], tokens=n, count=4, limit=4.0) for n in (1e6, 1.5e6))
    assert [kept[0].ratio for kept in once] == [1.0, 0.0, 0.0, 0.0]
    assert [kept[0].ratio for kept in more] == [1.0, 0.5, 0.0, 0.0]


def test_noise_is_left_out_and_good_text_read_again_in_its_place():
    proposal = recipe.propose([curve([1.0, 1.0, 1e-4, 1e-4])], tokens=1e6, count=4, limit=4.0)
    assert 0.375 <= proposal[0][0].ratio < 0.5 and proposal[1][0].ratio > 0.3  # worth falls between the middles .375 and .625


def test_sources_of_one_domain_compete_and_domains_keep_their_shares():
    good, poor = curve([1.0] * 4, "good"), curve([0.3] * 4, "poor")
    together = recipe.propose([good, poor], tokens=1e6, count=2, limit=2.0)
    assert [one.ratio for one in together[0]] == [1.0, 0.0]
    other = recipe.propose([good, curve([0.3] * 4, "poor", "y")], tokens=1e6, count=2, limit=2.0)
    assert [one.ratio for one in other[0]] == [0.5, 0.5]


def test_more_tokens_than_the_limit_gives_are_refused():
    with pytest.raises(UserError, match="limit"):
        recipe.propose([curve([1.0] * 4)], tokens=5e6, count=4, limit=4.0)


def test_the_experiment_reads_each_source_as_often_as_proposed_with_a_rate_and_an_average_that_fit():
    curves = [curve([1.0, 0.8, 0.5, 0.3], "a"), curve([1.0, 1.0, 0.9, 0.9], "b", "y")]
    proposal = recipe.propose(curves, tokens=2e6, count=3, limit=3.0)
    sources = {name: config.Source(name=name, path=f"stores/none/{name}", planned_tokens=1_000_000) for name in "ab"}
    base = config.Experiment(data=config.Data(sequence_length=128, batch_size=8), schedule=config.Schedule(kind="constant", peak=4e-3))
    made = recipe.experiment(base, proposal, sources, "made")
    check(made)
    plan = recipes.resolve(made.data, *recipes.facts_of(made.data))
    assert plan.tokens == pytest.approx(2e6, rel=0.01)
    steps = recipes.exposures(plan)["a"]
    assert [step.passes for step in steps] == sorted(step.passes for step in steps)  # from worst to best
    assert made.schedule.end == pytest.approx(4e-3 / 3) and made.averaging.last <= made.checkpoint.keep
    assert [phase.order for phase in made.data.phases] == ["uniform", "ascending", "ascending"][: len(made.data.phases)]
