"""What repeated text is worth."""

import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax.data import recipe
from kaiyuan_jax.plan import repetition


def test_distinct_and_repeated_tokens_add_up_to_what_is_read():
    uses = [c.Use(source="a", passes=2.5), c.Use(source="b", window=(0.5, 1.0))]
    data = c.Data(
        sources=[c.Source(name=name, planned_tokens=1_000_001) for name in "ab"],
        phases=[c.Phase(name="one", uses=uses), c.Phase(name="two", uses=[c.Use(source="b", window=(0.9, 1.0), passes=20.0)])],
        sequence_length=100,
        batch_size=10,
    )
    tokens = {"a": 1_000_001, "b": 1_000_001}
    plan = recipe.resolve(data, tokens, dict.fromkeys(tokens, True))
    found = repetition.readings(plan, tokens)
    assert sum(one.read for one in found.values()) == pytest.approx(plan.positions * 100, rel=1e-4)
    assert found["a"].distinct == pytest.approx(1e6, rel=1e-3) and found["a"].repeated == pytest.approx(1.5e6, rel=1e-3)
    assert found["b"].distinct == pytest.approx(0.5e6, rel=1e-3) and found["b"].most == 21
    (words, table) = repetition.section(plan, tokens).parts
    assert words.startswith("5M tokens are read, 1.5M of them for the first time and 3.5M (70%) again.")
    assert table.rows[0] == ("b", "500k", "2M", "21", "65%", "below half a fresh one")


def planned(*uses, tokens=1_000_001):
    data = c.Data(sources=[c.Source(name="a")], phases=[c.Phase(uses=list(uses))], sequence_length=100, batch_size=10)
    return recipe.resolve(data, {"a": tokens}, {"a": True})


def test_beyond_the_limit_the_quantiles_are_named_and_a_window_that_holds_as_much():
    plan = planned(c.Use(source="a", window=(0.5, 1.0)), c.Use(source="a", window=(0.9, 1.0), passes=29.0))
    (advice,) = repetition.within_limit(plan, limit=10).values()
    assert "30 times between 0.9 and 1 of its quality" in advice and "the window (0.66, 1) read 10.0 times is as much text" in advice


def test_more_than_the_limit_of_all_text_asks_for_other_text():
    (advice,) = repetition.within_limit(planned(c.Use(source="a", passes=16.0)), limit=10).values()
    assert "all of it 10.0 times is 10M: 6M tokens have to come from other text" in advice


def test_within_the_limit_there_is_nothing_to_say():
    assert repetition.within_limit(planned(c.Use(source="a", passes=10.0)), limit=10) == {}
