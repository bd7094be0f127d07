"""The report of a quantile benchmark says what its numbers say, and no more."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from kaiyuan_jax.experiments.quantiles import statistics
from kaiyuan_jax.report import quantiles as report

QUANTILES, NAMES = [0.0, 0.3, 0.6], ["a", "b"]


def entry(task, metric, means, sign=1):
    """As experiments/quantiles/results.py writes one, of made-up cells."""
    random = np.random.default_rng(0)
    values = sign * np.array(means)[..., None] + 0.01 * random.standard_normal((2, 3, 3))
    weights = np.full(20, 5.0)
    table = statistics.draws(statistics.Measure(task, values[..., None] * weights, weights))
    change = table.samples - table.samples[:, :1]
    return {
        "task": task,
        "metric": metric,
        "mean": (sign * table.mean).tolist(),
        "interval": np.sort(sign * table.interval, axis=-1).tolist(),
        "seeds": (sign * table.seeds).tolist(),
        "noise": table.noise.tolist(),
        "change": (table.mean - table.mean[:, :1]).tolist(),
        "change_interval": np.moveaxis(np.quantile(change, [0.025, 0.975], axis=-1), 0, -1).tolist(),
        "shapes": [dataclasses.asdict(shape) for shape in statistics.shapes(table)],
        "ranking": [[dataclasses.asdict(one) | {"source": NAMES[one.source], "value": sign * one.value}
                     for one in statistics.ranking(table.mean[:, q], table.samples[:, q])] for q in range(3)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def results():
    loss, right = [[1.0, 1.5, 1.2], [1.3, 1.4, 1.5]], [[0.8, 0.5, 0.7], [0.6, 0.5, 0.4]]
    measures = [entry("heldout_prose", "bits_per_byte", loss), entry("quiz", "accuracy", right, -1)]
    mean = entry("mean of heldout_prose", "bits_per_byte", loss) | {"targets": ["heldout_prose"]}
    setting = {"parameters": 360_000, "tokens": 65_536, "steps": 128, "batch_size": 4, "sequence_length": 128, "schedule": "constant",
               "peak": 0.005, "quantiles": QUANTILES, "window": 0.1, "seeds": 3, "slices": 3, "cells": 18, "rows": 64,
               "tasks": ["heldout_prose", "quiz"]}  # fmt: skip
    texts = [{"name": name, "tokens": 10**6, "scored": True, "domain": name, "window_tokens": 33_000, "passes": 1.98} for name in NAMES]
    worth = [{"source": name, "domain": name, "worth": [1.0, 0.2, 0.5], "interval": [[0.9, 1.0], [0.1, 0.3], [0.4, 0.6]],
              "falling": [1.0, 0.35, 0.35]} for name in NAMES]  # fmt: skip
    phases = [[{"source": name, "ratio": ratio, "passes": 1.0} for name in NAMES] for ratio in (0.7, 0.3)]
    recipe = {"tokens": 2_000_000, "limit": 2.0, "upto": 0.7, "phases": phases}
    return {"setting": setting, "texts": texts, "measures": measures, "mean": mean, "ranks": [mean["ranking"][0]] * 3, "worth": worth,
            "recipe": recipe}  # fmt: skip


def test_a_window_that_breaks_the_order_is_named_with_its_size_and_only_where_it_is(results):
    found = [sentence for sentence in report.findings(results) if "worse than the one at" in sentence]
    assert len(found) == 2 and all(sentence.startswith("a on ") and "the window at 30% is 0." in sentence for sentence in found)
    assert any("2 of 4 curves" in sentence for sentence in report.findings(results))
    table = report.sections(results)[0][2].splitlines()
    assert [line.rstrip().endswith("30%") for line in table[1:]] == [True, False, True, False]  # one target: its mean says nothing new


def test_quality_that_pays_does_not_and_chance_are_three_verdicts():
    assert [report.verdict(interval)[:9] for interval in ([0.1, 0.2], [-0.2, -0.1], [-0.1, 0.1])] == ["so qualit", "so the sc", "which may"]


def test_limits_follow_from_the_setting(results):
    assert not any("same text" in line for line in report.limits(results))
    other = copy.deepcopy(results)
    other["setting"] |= {"slices": 1, "schedule": "wsd"}
    other["texts"][0]["scored"] = False
    said = " ".join(report.limits(other))
    assert "All seeds read the same text" in said and "wsd schedule" in said and "No quality is known of a" in said


def test_everything_is_written_and_the_terminal_gets_tables_and_findings(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results))
    out = report.build(tmp_path)
    assert "Recipe, phase 1: keep the best a 70%, b 70%, 1 pass each." in out and "By quality" in out
    assert "not measured and is in no phase" in out
    for name in ("report.html", "quantiles.md", *(f"quantiles_{name}.png" for name in ("changes", "levels", "recipe"))):
        assert (tmp_path / name).stat().st_size > 500
