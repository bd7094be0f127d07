"""Signal and noise of metrics: found where they were put, and never where there is noise alone."""

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments import task_metrics
from kaiyuan_jax.report import task_metrics as report

STEPS = (10, 20, 40, 80, 160)


def rows(gain, noise, metric="margin", recipes=("a",), seeds=4, shift=0.0, steps=STEPS, seed=0):
    """Each doubling gains `gain`; recipes lie `shift` apart."""
    random = np.random.default_rng(seed)
    sign = -1 if metric in task_metrics.LOWER_IS_BETTER else 1
    return [
        {"run": f"{recipe}_seed{k}", "step": step, "tokens": 1000 * step, "task": "t", "level": 0, "metric": metric, "error": 0.1,
         "value": sign * (gain * np.log2(step) + shift * number + random.normal(0, noise))}
        for number, recipe in enumerate(recipes) for k in range(seeds) for step in steps
    ]  # fmt: skip


@pytest.mark.parametrize("metric", ["margin", "gold_bits_per_byte"])
def test_a_gain_above_the_noise_is_separated_from_the_first_doubling(metric):
    (found,) = task_metrics.measure(rows(1.0, 0.1, metric, seeds=40), "a")
    assert found["noise"] == pytest.approx(0.1, rel=0.2) and found["separated_at"] == 10_000 and found["in_order"] == 1.0
    assert [doubling["step"] for doubling in found["doublings"]] == [10, 20, 40, 80]
    for doubling in found["doublings"]:
        assert doubling["z"] == pytest.approx(1.0 / (0.1 * np.sqrt(2 / 40)), rel=0.3)


def test_noise_alone_separates_nothing():
    found = [task_metrics.measure(rows(0.0, 1.0, seed=seed), "")[0] for seed in range(40)]
    z = np.array([[doubling["z"] for doubling in one["doublings"]] for one in found])
    assert abs(z.mean()) < 0.4 and z.std() == pytest.approx(1, abs=0.25)
    assert np.mean([one["in_order"] for one in found]) == pytest.approx(0.5, abs=0.1)
    assert sum(one["separated_at"] is not None for one in found) <= 4


def test_a_metric_that_separates_early_and_then_no_more_is_not_called_separating():
    some = rows(0.0, 0.01)
    for row in some:
        row["value"] += row["step"] > 10
    (found,) = task_metrics.measure(some, "a")
    assert found["doublings"][0]["z"] > 10 and found["separated_at"] is None


def test_recipes_are_told_apart_by_what_exceeds_the_noise():
    alike = [task_metrics.measure(rows(1.0, 0.2, recipes="abcdefgh", seed=seed), "a")[0]["recipe_spread"] for seed in range(10)]
    (apart,) = task_metrics.measure(rows(1.0, 0.2, recipes="abcdefgh", shift=0.4), "a")
    assert np.median(alike) < 0.4 and apart["recipe_spread"] == pytest.approx(0.4 * np.std(range(8), ddof=1) / 0.2, rel=0.3)


def test_runs_of_one_seed_and_steps_that_a_seed_lacks_do_not_count():
    some = rows(1.0, 0.1) + [row | {"run": "single"} for row in rows(1.0, 0.1, seeds=1)]
    (found,) = task_metrics.measure([row for row in some if (row["run"], row["step"]) != ("a_seed2", 160)], "")
    assert [doubling["step"] for doubling in found["doublings"]] == [10, 20, 40]
    with pytest.raises(UserError, match="--trajectory: 'single' has not two checkpoints of two runs"):
        task_metrics.measure(some, "single")
    with pytest.raises(UserError, match="found none"):
        task_metrics.measure([], "")


def test_metrics_are_ordered_by_their_signal_and_drawn_as_a_table():
    measured = task_metrics.measure(rows(1.0, 0.1) + rows(0.1, 0.5, "accuracy"), "a")
    found = task_metrics.by_metric(measured)
    assert [row["metric"] for row in found] == ["margin", "accuracy"] and found[0]["separating"] == 1
    page = report.text({"by_metric": found, "measured": measured})
    assert "| tasks | margin | 1 |" in page and "z 10k -> 20k" in page and "| t | all | margin |" in page


def test_the_mean_over_sources_is_not_counted_as_a_source():
    sources = [row | {"task": f"heldout/{name}"} for name in ("prose", "code", "mean") for row in rows(1.0, 0.1, "bits_per_byte")]
    (found,) = task_metrics.by_metric(task_metrics.measure(sources, "a"))
    assert found["kind"] == "heldout" and found["tasks"] == 2 and found["separating"] == 2
