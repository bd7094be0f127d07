"""Cells differ in their window and their seed alone, and windows are what was asked for, counted from the top in token mass."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.config_check import check
from kaiyuan_jax.data import recipe
from kaiyuan_jax.experiments.quantiles import cells

TOKENS = 1_000_000
BASE = config.Experiment(data=config.Data(sequence_length=64, batch_size=4), evaluation=config.Evaluation(context=32, continuation=16))


def study(**changes):
    text = cells.Text("prose", "stores/none/prose", TOKENS, True, "prose", "sum")
    made = cells.Study(BASE, (text,), (0.0, 0.15, 0.6), 0.1, 64 * 4 * 100, 3, 3)
    return dataclasses.replace(made, **changes)


def use(cell):
    return recipe.resolve(cell.experiment.data, {cell.text.name: cell.text.tokens}, {cell.text.name: cell.text.scored})


@given(st.floats(0, 0.9), st.floats(0.01, 0.1), st.integers(1, 4))
def test_slices_tile_a_window_that_begins_at_its_quantile_from_the_top(quantile, width, slices):
    made = study(quantiles=(round(quantile, 4), 0.95), window=round(width, 4) if quantile < 0.85 else 0.05, slices=slices, seeds=slices)
    found = [cells.window(made, made.quantiles[0], seed) for seed in range(slices)]
    assert found[0][1] == pytest.approx(1 - made.quantiles[0]) and found[-1][0] == pytest.approx(1 - made.quantiles[0] - made.window)
    for one, other in zip(found, found[1:], strict=False):
        assert one[0] == pytest.approx(other[1], abs=1e-8)


def test_every_cell_has_the_budget_and_the_weights_of_its_seed():
    found = cells.cells(study())
    assert len(found) == 9 and len({cell.name for cell in found}) == 9
    for cell in found:
        check(cell.experiment)
        plan = use(cell)
        assert plan.steps == 100 and plan.skipped == 0
        assert cell.experiment.seed == cell.experiment.data.seed == cell.seed
    assert [cell.seed for cell in found] == sorted(cell.seed for cell in found)  # a study cut short has whole seeds


def test_a_window_is_the_best_text_at_quantile_0_and_is_read_as_often_as_the_budget_needs():
    top = cells.cells(study(slices=1, tokens=64 * 4 * 1000))[0]
    (one,) = use(top).phases[0].uses
    n = (TOKENS - 1) // 64
    assert (one.begin, one.end) == (round(0.9 * n), n)
    assert one.passes == pytest.approx(64 * 4 * 1000 / (0.1 * TOKENS), rel=1e-3) and top.passes == pytest.approx(one.passes, rel=1e-3)
    assert "read 2.56 times" in cells.repetition(study(slices=1, tokens=64 * 4 * 1000), [top])[0]


def test_a_budget_below_the_window_reads_part_of_it_once_and_says_nothing_of_repetition():
    found = cells.cells(study(slices=1))
    assert use(found[0]).phases[0].uses[0].passes < 1 and cells.repetition(study(slices=1), found) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantiles": (0.0, 0.95)}, "--quantiles: found 0.95"),
        ({"quantiles": (0.3, 0.0)}, "must ascend"),
        ({"quantiles": (0.3,)}, "--quantiles: found 0.3, must be two or more"),
        ({"window": 0.0}, "--window: found 0"),
        ({"tokens": 300}, "--tokens: found 300, must be at least 4 steps"),
        ({"window": 1e-4}, "holds no sequence of 64 tokens"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_flag(changes, words):
    with pytest.raises(UserError, match=words):
        cells.cells(study(**changes))


def test_a_budget_is_that_of_the_phases_where_all_have_one():
    phases = [config.Phase(tokens=100), config.Phase(tokens=200)]
    assert cells.budget(config.Experiment(data=config.Data(phases=phases))) == 300
    assert cells.budget(config.Experiment(data=config.Data(phases=[*phases, config.Phase()]))) == 0
