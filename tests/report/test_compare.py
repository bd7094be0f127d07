import numpy as np
import pytest

from kaiyuan_jax.report import compare, words
from kaiyuan_jax.report.load import load


def analysed(*folders):
    runs = load(folders)
    found = compare.groups(runs)
    return runs, found, compare.against_baseline(found, found[0])


def verdict(verdicts, start):
    return next(v for v in verdicts if v.title.startswith(start))


def test_a_difference_inside_the_seed_spread_is_no_conclusion_and_one_outside_is(make_run):
    base, ascending = make_run("base", 0.0), make_run("ascending", 0.010, order="ascending")
    wide, narrow = make_run("base_wide", 0.030, seed=1), make_run("base_narrow", 0.001, seed=1)

    _, _, verdicts = analysed(base, ascending, wide)
    inside = verdict(verdicts, "ascending")
    assert inside.excludes_zero and not inside.exceeds_noise and not inside.holds
    assert "does not exceed the seed noise of 0.0300" in inside.text and "No conclusion" in inside.text

    _, found, verdicts = analysed(base, ascending, narrow)
    outside = verdict(verdicts, "ascending")
    assert outside.holds and outside.value == pytest.approx(0.0095, abs=1e-6)
    assert "exceeds the seed noise of 0.0010" in outside.text and "Worse here, at this size" in outside.text
    assert "Worse: ascending" in words.headline(verdicts, found[0])


def test_the_direction_turns_with_the_numbers(make_run):
    base, repeat = make_run("b", 0.0), make_run("b_repeat", 0.001, seed=1)
    _, _, better = analysed(base, make_run("good", -0.02, order="ascending"), repeat)
    assert "Better here" in verdict(better, "ascending").text
    _, _, worse = analysed(base, make_run("bad", 0.02, order="ascending"), repeat)
    assert "Worse here" in verdict(worse, "ascending").text


def test_without_a_repeated_seed_nothing_is_concluded(make_run):
    _, found, verdicts = analysed(make_run("one", 0.0), make_run("two", 0.5, order="ascending"))
    assert compare.seed_noise(found) is None
    assert not verdict(verdicts, "ascending").holds
    assert "seed noise unknown" in verdict(verdicts, "ascending").text
    assert "Seed noise is unknown" in words.seeds(found)
    assert "this experiment does not tell" in words.headline(verdicts, found[0])


def test_an_interval_that_includes_zero_is_no_conclusion_even_above_the_seed_noise(make_run):
    runs = [make_run("x", 0.0), make_run("y", 0.0008, order="ascending"), make_run("x_repeat", 0.0, seed=1)]
    _, _, verdicts = analysed(*runs)
    close = verdict(verdicts, "ascending")
    assert close.exceeds_noise and not close.excludes_zero
    assert "includes 0" in close.text and "other held-out documents could reverse it" in close.text


def test_averaging_is_measured_inside_each_run_against_the_spread_of_its_gains(quickstart):
    runs = load(quickstart)
    gain = next(v for v in compare.averaging(runs) if "1e-3" in v.title)
    assert gain.value == pytest.approx(((-0.030 - 0.005) + (-0.034 - 0.002)) / 2, abs=1e-6)
    assert gain.noise == pytest.approx(0.001, abs=1e-6)
    assert gain.holds and "EMA of 6 checkpoints against its final checkpoint" in gain.title


def test_pairing_needs_the_same_documents(make_run):
    runs = load([make_run("p", 0.0), make_run("q", 0.01, order="ascending")])
    first, second = runs[0].models[0], runs[1].models[0]
    assert compare.difference((second,), (first,))[1] is not None
    second.arrays["heldout/prose/document"] = second.arrays["heldout/prose/document"] + 1
    value, interval = compare.difference((second,), (first,))
    assert value == pytest.approx(0.01) and interval is None
    assert compare.difference((second,), (first,), "code")[1] is not None


def test_paired_intervals_are_far_narrower_than_those_of_each_model(quickstart):
    runs = load(quickstart)
    first, second = runs[2].models[0], runs[1].models[0]
    _, paired = compare.difference((first,), (second,))
    alone = first.result["mean"]["bits_per_byte_interval"]
    assert np.diff(paired) < 0.2 * np.diff(alone)
    assert paired[0] < 0.02 < paired[1]


def test_quality_bins_are_compared_inside_the_bin(quickstart):
    runs = load(quickstart)
    value, interval = compare.difference((runs[2].models[0],), (runs[1].models[0],), "prose", 0.8, 1.0)
    bins = [run.models[0].result["heldout"]["prose"]["quantiles"][4]["bits_per_byte"] for run in (runs[2], runs[1])]
    assert value == pytest.approx(bins[0] - bins[1])
    assert interval[0] <= value <= interval[1]
