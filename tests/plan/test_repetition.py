"""What repeated text is worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config as c
from kaiyuan_jax.data import recipe
from kaiyuan_jax.plan import repetition


@pytest.mark.parametrize("passes, worth", [(0.5, 0.5), (1, 1), (4, 3.73), (32, 14.3), (1e6, 16.39)])
def test_passes_are_worth_what_2305_16264_gives(passes, worth):
    assert repetition.worth(passes) == pytest.approx(worth, rel=3e-3)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_more_passes_are_worth_more_but_never_more_than_fresh_ones(one, other):
    low, high = sorted((one, other))
    assert repetition.worth(low) <= repetition.worth(high) <= high


def test_the_limit_is_where_one_more_pass_is_worth_half_a_fresh_one():
    step = 1e-6
    gain = (repetition.worth(repetition.LIMIT + step) - repetition.worth(repetition.LIMIT)) / step
    assert gain == pytest.approx(0.5, rel=1e-3)


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
