"""Six numbers of a task: each from its definition, with intervals that shrink with the items."""

import numpy as np
import pytest

from kaiyuan_jax.evaluation import tasks


def made(count, kind="choice", seed=0):
    random = np.random.default_rng(seed)
    nats, choice = random.gamma(4, 3, count), kind == "choice"
    other = nats + random.normal(0.5, 2, count)
    margin = other - nats if choice else np.full(count, np.nan)
    return tasks.Scores(
        task="t",
        id=np.arange(count).astype(str),
        level=1 + np.arange(count) % 2,
        chance=np.full(count, 0.5 if choice else np.nan),
        gold_nats=nats,
        gold_bytes=random.integers(3, 30, count),
        correct=(margin > 0) if choice else margin,
        correct_per_byte=(margin > 1) if choice else margin,
        margin=margin,
        probability=1 / (1 + np.exp(-margin)),
    )


def test_values_are_those_of_their_definitions_by_level_and_over_all():
    scores = made(40)
    found = tasks.summary(scores, resamples=50)
    assert found["items"] == {0: 40, 1: 20, 2: 20} and found["chance"] == {0: 0.5, 1: 0.5, 2: 0.5}
    for level, inside in ((0, slice(None)), (2, scores.level == 2)):
        entry = found["levels"][level]
        assert list(entry) == list(tasks.METRICS)
        assert entry["gold_bits_per_byte"]["value"] == pytest.approx(
            scores.gold_nats[inside].sum() / np.log(2) / scores.gold_bytes[inside].sum()
        )
        assert entry["gold_log_probability"]["value"] == pytest.approx(-scores.gold_nats[inside].mean())
        assert entry["accuracy"]["value"] == pytest.approx((scores.margin[inside] > 0).mean())
        for numbers in entry.values():
            assert numbers["interval"][0] <= numbers["value"] <= numbers["interval"][1] and numbers["error"] > 0


def test_the_error_is_that_of_a_mean_and_shrinks_with_the_items():
    few, many = made(100), made(2500)
    errors = [tasks.summary(scores, resamples=400)["levels"][0]["margin"]["error"] for scores in (few, many)]
    assert errors[0] == pytest.approx(few.margin.std() / 10, rel=0.2)
    assert errors[1] == pytest.approx(errors[0] / 5, rel=0.25)


def test_a_reference_answer_has_its_loss_alone():
    found = tasks.summary(made(10, kind="loss"), resamples=20)
    assert list(found["levels"][0]) == ["gold_bits_per_byte", "gold_log_probability"] and found["chance"][0] is None


def test_one_item_has_no_interval():
    entry = tasks.summary(made(1), resamples=20)["levels"][1]["accuracy"]
    assert entry["interval"] is None and entry["error"] is None and entry["value"] in (0, 1)
