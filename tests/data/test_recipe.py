import dataclasses
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config as c
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import apportion, exposures, portions, resolve

TOKENS = {"web": 1001, "code": 401, "math": 101}  # 100, 40 and 10 sequences of 10 tokens


def data(*phases: c.Phase, **settings) -> c.Data:
    settings = {"sequence_length": 10, "batch_size": 2} | settings
    return c.Data(sources=[c.Source(name=name) for name in TOKENS], phases=list(phases), **settings)


def plan(*phases: c.Phase, scored=True, **settings) -> recipe.Plan:
    return resolve(data(*phases, **settings), TOKENS, dict.fromkeys(TOKENS, scored))


def phase(*uses: c.Use, **settings) -> c.Phase:
    return c.Phase(name="p", uses=list(uses), **settings)


def use(source="web", **settings) -> c.Use:
    return c.Use(source=source, **settings)


def test_a_store_of_t_tokens_has_as_many_sequences_as_there_are_whole_ones_with_a_next_token():
    for tokens, sequences in ((21, 2), (20, 1), (11, 1)):
        found = resolve(data(phase(use()), batch_size=1), {"web": tokens}, {"web": True})
        assert found.phases[0].uses[0].sequences == sequences


@pytest.mark.parametrize(
    "window, passes, expected",
    [
        ((0.0, 1.0), 1.0, (0, 100, 100)),
        ((0.9, 1.0), 1.0, (90, 100, 10)),
        ((0.25, 0.5), 2.0, (25, 50, 50)),
        ((0.0, 1.0), 0.3, (0, 100, 30)),
        ((0.5, 1.0), 2.5, (50, 100, 125)),
        ((0.995, 1.0), 1.0, (100, 100, None)),
    ],
)
def test_windows_and_passes_become_integers(window, passes, expected):
    if expected[2] is None:
        with pytest.raises(ConfigError, match="holds no whole sequence"):
            plan(phase(use(window=window, passes=passes)))
        return
    (found,) = plan(phase(use(window=window, passes=passes))).phases[0].uses
    assert (found.begin, found.end, found.entries) == expected


def test_decimals_mean_what_the_user_wrote():
    # 0.3 of 5 sequences is 1.5 and rounds up, although the float 0.3 lies below 3/10.
    (found,) = resolve(data(phase(use(passes=0.3)), batch_size=1), {"web": 51}, {"web": True}).phases[0].uses
    assert found.entries == 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True), st.integers(30, 10**7))
def test_neighbouring_windows_partition_a_source(cuts, tokens):
    edges = [0.0, *sorted(set(cuts) - {0.0, 1.0}), 1.0]
    sequences = (tokens - 1) // 10
    found = []
    for low, high in zip(edges, edges[1:], strict=False):
        try:
            (one,) = resolve(data(phase(use(window=(low, high))), batch_size=1), {"web": tokens}, {"web": True}).phases[0].uses
        except ConfigError:
            continue  # too narrow for a sequence
        found.append((one.begin, one.end))
    assert found[0][0] == 0 and found[-1][1] == sequences
    assert all(one[1] == other[0] for one, other in zip(found, found[1:], strict=False))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=27).filter(any), st.integers(0, 10**10))
def test_apportioned_counts_add_up_and_stay_within_one_of_their_share(weights, total):
    counts = apportion(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - Fraction(total * weight, sum(weights))) < 1


@settings(deadline=None, max_examples=100)
@given(st.integers(10, 1500), st.floats(0.1, 2), st.floats(0.1, 2))
def test_a_smaller_budget_thins_every_source_evenly_and_exactly(tokens, web, code):
    whole = plan(phase(use("web", passes=web), use("code", passes=code)), batch_size=1)
    if tokens > whole.positions * 10:
        return
    thinned = plan(phase(use("web", passes=web), use("code", passes=code), tokens=tokens), batch_size=1)
    assert thinned.positions == tokens // 10
    factor = Fraction(tokens // 10, whole.positions)
    for before, after in zip(whole.phases[0].uses, thinned.phases[0].uses, strict=True):
        assert abs(after.entries - factor * before.entries) < 1
        assert after.entries <= before.entries


def test_shares_split_a_budget_exactly():
    found = plan(phase(use("web", share=0.5), use("code", share=0.3), use("math", share=0.2), tokens=490))
    assert [one.entries for one in found.phases[0].uses] == [24, 15, 10]
    assert [portion.share for portion in portions(found)] == [24 / 49, 15 / 49, 10 / 49]


def test_phases_follow_one_another_and_the_remainder_is_left_out_at_the_start():
    found = plan(phase(use("web")), phase(use("math")), phase(use("code")), batch_size=64)
    assert [one.start for one in found.phases] == [0, 100, 110]
    assert (found.positions, found.steps, found.skipped) == (150, 2, 22)
    assert found.skipped + found.steps * found.batch_size == found.positions
    assert found.tokens == 1280


def test_selective_repetition_gives_the_published_exposures_of_fineweb_edu():
    # Kaiyuan-2B section 4: 1.0 / 0.5 / 0.3 / 0.1 over four phases is 4, 3, 2, 1 readings from the best tenth down.
    found = plan(*(phase(use(window=(low, 1.0)), use("code")) for low in (0.0, 0.5, 0.7, 0.9)))
    steps = exposures(found)
    assert [(one.low, one.high, one.passes) for one in steps["web"]] == [(0.0, 0.5, 1), (0.5, 0.7, 2), (0.7, 0.9, 3), (0.9, 1.0, 4)]
    assert [(one.low, one.high, one.passes) for one in steps["code"]] == [(0.0, 1.0, 4)]
    assert steps["math"] == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 0.8), st.floats(0.15, 1), st.floats(0.05, 4)), min_size=1, max_size=5))
def test_exposures_account_for_every_row(windows):
    found = plan(*(phase(use(window=(low, min(1.0, low + width)), passes=passes)) for low, width, passes in windows), batch_size=1)
    rows = sum((one.high - one.low) * one.passes * 100 for one in exposures(found)["web"])
    assert math.isclose(rows, found.positions, rel_tol=1e-9)


def test_orders_by_quality_are_uniform_in_a_store_without_scores():
    found = resolve(data(phase(use("web"), use("code"), order="ascending")), TOKENS, {"web": True, "code": False, "math": True})
    assert [one.order for one in found.phases[0].uses] == ["ascending", "uniform"]


def test_a_use_may_have_an_order_of_its_own():
    found = plan(phase(use("web"), use("code", order="descending"), order="ascending"))
    assert [one.order for one in found.phases[0].uses] == ["ascending", "descending"]


def test_adding_a_source_leaves_the_choices_inside_the_others_alone():
    before = plan(phase(use("web"), use("code")))
    after = plan(phase(use("math"), use("web"), use("code")))
    assert {one.source: one.seed for one in before.phases[0].uses}.items() <= {one.source: one.seed for one in after.phases[0].uses}.items()


def test_phases_uses_and_seeds_choose_independently():
    found = plan(phase(use(), use()), phase(use()))
    other = plan(phase(use(), use()), phase(use()), seed=1)
    seeds = [one.seed for run in (found, other) for part in run.phases for one in part.uses]
    assert len(set(seeds)) == 6


MISTAKES = {
    "no phases": ([], {}, "config.data.phases: empty"),
    "phase without data": ([phase()], {}, "config.data.phases[0].uses: empty, phase 'p' has no data"),
    "unknown source": ([phase(use("wbe"))], {}, "uses[0].source: found 'wbe', must be one of config.data.sources: web, code, math"),
    "window reversed": ([phase(use(window=(0.9, 0.1)))], {}, "window: found (0.9, 0.1), must satisfy 0 <= low < high <= 1"),
    "window outside": ([phase(use(window=(0.5, 1.5)))], {}, "window: found (0.5, 1.5)"),
    "window empty in sequences": (
        [phase(use("math", window=(0.0, 0.01)))],
        {},
        "(0.0, 0.01) of the 101 tokens of 'math' holds no whole",
    ),
    "passes zero": ([phase(use(passes=0.0))], {}, "passes: found 0.0, must be above 0"),
    "passes negative": ([phase(use(passes=-1.0))], {}, "passes: found -1.0, must be above 0"),
    "passes too small": ([phase(use(passes=0.001))], {}, "passes are so small that no source gives a single sequence"),
    "order of the phase": ([phase(use(), order="best")], {}, "order: found 'best', must be one of uniform, ascending, descending, folded"),
    "order of the use": ([phase(use(order="best"))], {}, "uses[0].order: found 'best'"),
    "folds": ([phase(use(), order="folded", folds=0)], {}, "folds: found 0, must be above 0"),
    "shuffle window": ([phase(use(), shuffle_window=-5)], {}, "shuffle_window: found -5"),
    "negative budget": ([phase(use(), tokens=-1)], {}, "tokens: found -1"),
    "budget below a row": ([phase(use(), tokens=9)], {}, "tokens: found 9, must be at least one sequence of 10 tokens"),
    "budget beyond passes": (
        [phase(use(passes=2.0), tokens=2010)],
        {},
        "tokens: found 2010, but selection and repetition give 2000; lower tokens, widen windows, or multiply passes by 1.005",
    ),
    "share outside": ([phase(use(share=1.5), tokens=100)], {}, "share: found 1.5, must lie in [0, 1]"),
    "shares that do not add up": ([phase(use(share=0.5), use("code", share=0.4), tokens=100)], {}, "shares sum to 0.9, must sum to 1"),
    "shares for some": ([phase(use(share=1.0), use("code"), tokens=100)], {}, "some have a share and some have none"),
    "shares without budget": ([phase(use(share=1.0))], {}, "tokens: found 0, shares need a token budget above 0"),
    "share beyond passes": (
        [phase(use(share=0.5), use("math", share=0.5), tokens=400)],
        {},
        "uses[1].share: 0.5 of 400 tokens is 200 tokens of 'math', but its window and passes 1 give 100; set passes to at least 2, or the "
        "phase's tokens to at most 200",
    ),
    "batch beyond data": ([phase(use("math"))], {"batch_size": 11}, "data.batch_size: found 11, but all phases together give 10 rows"),
    "batch of nothing": ([phase(use())], {"batch_size": 0}, "config.data.batch_size: found 0, must be above 0"),
}


@pytest.mark.parametrize("phases, changes, message", MISTAKES.values(), ids=MISTAKES)
def test_a_recipe_that_cannot_be_followed_is_refused_with_one_line(phases, changes, message):
    with pytest.raises(ConfigError) as error:
        plan(*phases, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as error:
        plan(phase(use("x")), phase(use(passes=-1.0), use(window=(2.0, 3.0))))
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("mistake", ["budget beyond passes", "share beyond passes"])
def test_what_a_message_proposes_works(mistake):
    (wrong,), _, _ = MISTAKES[mistake]
    if mistake == "budget beyond passes":
        mended = [dataclasses.replace(wrong, uses=[use(passes=2.0 * 1.005)])]
    else:
        more_passes = use("math", share=0.5, passes=2.0)
        mended = [dataclasses.replace(wrong, tokens=200), dataclasses.replace(wrong, uses=[wrong.uses[0], more_passes])]
    for one in mended:
        assert plan(one).positions == one.tokens // 10


def test_facts_come_from_planned_tokens_where_there_is_no_store(tmp_path):
    sources = [c.Source(name="far", path=str(tmp_path / "none"), planned_tokens=10**12)]
    assert recipe.facts_of(c.Data(sources=sources)) == ({"far": 10**12}, {"far": True})


def test_a_source_with_neither_store_nor_size_is_named(tmp_path):
    with pytest.raises(ConfigError, match="config.data.sources 'lost': no store at .* and planned_tokens is 0; prepare the store"):
        recipe.facts_of(c.Data(sources=[c.Source(name="lost", path=str(tmp_path / "none"))]))


def test_a_folder_that_is_not_a_store_is_refused_and_not_planned_around(tmp_path):
    with pytest.raises(ConfigError, match="manifest"):
        recipe.facts_of(c.Data(sources=[c.Source(name="half", path=str(tmp_path), planned_tokens=10)]))
