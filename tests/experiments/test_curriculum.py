"""The members of the study: the same text for every recipe, schedules that share a trunk, averages inside the decay."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config_check
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data import order, recipe
from kaiyuan_jax.experiments import curriculum
from kaiyuan_jax.experiments.curriculum import ORDERS, PHASES, QUICK, Corpus, Recipe
from kaiyuan_jax.schedules import build

SIZE = curriculum.Size()
CORPUS = Corpus("two", (("a", "stores/a", ""), ("b", "stores/b", "")))
TOKENS = {"a": 900_000, "b": 1_300_000}


def plan(recipe_, seed=0):
    data = curriculum.experiment(recipe_, CORPUS, SIZE, seed).data
    return recipe.resolve(data, TOKENS, dict.fromkeys(TOKENS, True))


def read(order_):
    found = plan(Recipe(order_, "constant"))
    return order.rows(found, np.arange(found.positions))


def rates(schedule):
    return build.rates(curriculum.schedule(schedule, SIZE), SIZE.steps, batch_size=SIZE.batch_size, sequence_length=SIZE.sequence_length)


def test_the_grid_is_that_of_the_paper_and_its_end_rates():
    found = curriculum.recipes()
    assert len(found) == len(set(found)) == len({one.name(0) for one in found}) == 4 * 7 + 4 * 2
    ends = sorted({one.end for one in found if one.order == "ascending" and one.schedule != "cosine"})
    assert ends == pytest.approx([1 / 300, 1 / 100, 1 / 30, 1 / 10, 1 / 3, 1])
    for one in found:
        assert rates(one.schedule)[-1] == pytest.approx(one.end * SIZE.peak)


def test_every_order_reads_the_same_rows_and_nothing_twice():
    seen = [collections.Counter(zip(rows.source.tolist(), rows.sequence.tolist(), strict=True)) for rows in map(read, ORDERS)]
    assert all(one == seen[0] for one in seen) and max(seen[0].values()) == 1 and seen[0].total() == SIZE.steps * SIZE.batch_size


def test_two_phases_read_the_same_rows_until_sorted_together():
    seen = {one: read(one) for one in PHASES}
    for one in ("U,A", "A,A"):
        assert sorted(zip(seen[one].source, seen[one].sequence, strict=True)) == sorted(
            zip(seen["U,U"].source, seen["U,U"].sequence, strict=True)
        )
    # all together: other rows, as good, and sorted within each source from the first to the last
    together, apart = seen["A-T"], seen["U,U"]
    np.testing.assert_allclose(np.sort(together.quantile), np.sort(apart.quantile), atol=0.005)
    for source in (0, 1):
        assert np.all(np.diff(together.quantile[together.source == source]) >= 0)
    assert not np.all(np.diff(seen["A,A"].quantile[seen["A,A"].source == 0]) >= 0)


def test_decays_share_the_rates_of_the_constant_run_up_to_the_knee_and_differ_right_after():
    constant = rates("constant")
    for end in curriculum.ENDS:
        assert build.first_difference(constant, rates(f"wsd_{end}")) == SIZE.knee


def test_members_of_a_part_differ_in_what_a_population_allows_and_decays_go_on_from_the_constant_run_of_their_order(tmp_path):
    cell = curriculum.Cell(CORPUS, SIZE, 1, tmp_path)
    trunk, decays = cell.part(decays=False), cell.part(decays=True)
    assert (len(trunk), len(decays)) == (12, 24) and all(one.seed == one.data.seed == 1 for one in trunk + decays)
    for member, row in zip(decays, cell.trunk_rows(), strict=True):
        assert trunk[row].data == member.data and trunk[row].schedule.kind == "constant"
    for member in trunk + decays:
        assert not list(config_check.data_problems(member.data))


@pytest.mark.parametrize("kind", curriculum.AVERAGES)
def test_averages_are_of_checkpoints_that_are_kept_and_lie_in_the_decay(kind):
    for size in (SIZE, QUICK, curriculum.GPU):
        found = curriculum.averages(kind, size)
        kept = range(size.knee, size.steps + 1, size.every)
        assert sum(found.values()) == pytest.approx(1) and max(found) == size.steps and set(found) <= set(kept)


@given(st.integers(1, 40))
def test_a_size_with_other_steps_keeps_its_shares(times):
    found = curriculum.sized(SIZE, 30 * times)
    assert found.warmup / found.steps == pytest.approx(SIZE.warmup / SIZE.steps, abs=1 / found.steps)
    assert found.every * 30 == found.steps and (found.steps - found.knee) % found.every == 0


def test_steps_on_which_no_checkpoints_fall_are_refused():
    with pytest.raises(UserError, match="--steps: found 301"):
        curriculum.sized(SIZE, 301)


def test_the_tokens_of_a_study_count_what_decays_take_over_once(tmp_path):
    study = curriculum.Study(SIZE, (CORPUS,), 3, tmp_path)
    assert study.tokens == pytest.approx(3 * (12 + 24 * 0.2) * SIZE.tokens)
