"""Batches that diverge: left out, remembered, and the run a function of the config and of what was left out."""

import json
import math
import os
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.data import loader
from kaiyuan_jax.training import divergence, failure, loop

NAN, FINE = {"objective": np.float32("nan"), "gradient_norm": np.float32("nan"), "finite": False}, {"finite": True, "gradient_norm": 1.0}


def train(experiment):
    return loop.train(experiment, jax.devices()[:1])


@pytest.fixture
def quick(tiny):
    """quick(**fields): `tiny` of 30 steps, a checkpoint every 5, nothing held out: all runs of a policy share a compiled step."""

    def make(**fields):
        experiment = tiny(**{"checkpoint__every": 5, "checkpoint__keep": 10, "logging__every": 4, **fields})
        experiment.data.phases[0].tokens = 30 * experiment.data.batch_size * experiment.data.sequence_length
        for source in experiment.data.sources:
            source.heldout = ""
        return experiment

    return make


@pytest.fixture
def bad(monkeypatch):
    """bad({step, ...}): from now on a row of these batches (from 0) holds a token that no vocabulary has, whose embedding is NaN."""
    read, steps = loader.BatchSource.__getitem__, set()

    def spoiled(source, step):
        batch = read(source, step)
        if step in steps:
            batch["inputs_BL"] = batch["inputs_BL"].copy()
            batch["inputs_BL"][3, 2] = 10**6
        return batch

    monkeypatch.setattr(loader.BatchSource, "__getitem__", spoiled)
    return lambda which: steps.clear() or steps.update(which)


def same_weights(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def forget(experiment, after):
    for path in (loop.storage.path(experiment.folder) / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > after:
            shutil.rmtree(path)


def test_a_bad_batch_is_skipped_logged_and_skipped_again(quick, bad, lines, parameters):
    experiment = quick(health__divergence="skip")
    bad({12, 21})
    assert train(experiment).finished
    expected, last = lines(experiment), parameters(experiment, 30)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last))
    found = [line for line in expected if "diverged" in line]
    assert found == [
        {"step": step, "diverged": "loss not finite", "left_out": [step, step], "documents": f"diverged_{step}.json"} for step in (13, 22)
    ]
    documents = json.loads(open(f"{experiment.folder}/diverged_13.json").read())["documents"]
    assert {entry["row"] for entry in documents} == set(range(8)) and documents[0]["row_loss"] == "nan" and documents[0]["row"] == 3
    assert all(math.isfinite(line["loss"]) for line in expected if "loss" in line)
    # a session that reads the batch whole leaves it out all the same, because the run has done so
    bad({21})
    forget(experiment, 10)
    assert train(experiment).finished
    assert lines(experiment) == expected
    same_weights(parameters(experiment, 30), last)
    # without the record nobody knows which checkpoints are of this course of the run: none is deleted, a human decides
    there = sorted(os.listdir(f"{experiment.folder}/checkpoints"))
    os.remove(f"{experiment.folder}/{divergence.FILE}")
    with pytest.raises(config.ConfigError, match=r"does not name the batches \[\[13, 13\], \[22, 22\]\].* checkpoint 30 was made"):
        train(experiment)
    assert sorted(os.listdir(f"{experiment.folder}/checkpoints")) == there


def test_the_run_backs_off_to_its_last_regular_checkpoint_whatever_checkpoints_there_are(quick, bad, tmp_path, lines, parameters):
    experiment = quick(health__divergence="back_off")
    bad({12})
    assert train(experiment).finished
    expected, last = lines(experiment), parameters(experiment, 30)
    (found,) = divergence.read(loop.storage.path(experiment.folder))
    assert (found.step, found.left_out) == (13, (11, 13))
    before = [line for line in expected if "diverged" in line]
    assert [line["left_out"] for line in before] == [[11, 13]]

    other = quick(output=str(tmp_path / "other"), health__divergence="back_off", checkpoint__every=4)  # checkpoints at 4, 8, 12 ...
    bad({29})
    with pytest.MonkeyPatch.context() as patch:  # its first session ends at step 12, between the regular checkpoint and the bad batch
        patch.setattr(divergence.Divergences, "ceiling", _stop_at(12))
        with pytest.raises(InterruptedError):
            train(other)
    other.checkpoint.every = 5
    bad({12})
    assert train(other).finished
    assert lines(other) == expected
    same_weights(parameters(other, 30), last)


def _stop_at(done):
    def ceiling(self, step):
        if step > done:
            raise InterruptedError
        return math.inf

    return ceiling


def test_a_copy_of_the_record_makes_the_same_run_of_good_batches(quick, bad, tmp_path, parameters):
    experiment, copy = quick(health__divergence="skip"), quick(output=str(tmp_path / "copy"), health__divergence="skip")
    bad({12})
    train(experiment)
    bad(())
    (tmp_path / "copy").mkdir()
    shutil.copy(f"{experiment.folder}/{divergence.FILE}", tmp_path / "copy")
    train(copy)
    same_weights(parameters(copy, 30), parameters(experiment, 30))


def test_a_spike_is_left_out_and_too_many_divergences_end_the_run(quick):
    # weights that hardly move: losses lie around their median, some above
    settings = dict(health__spike=1.0001, health__limit=2, schedule__peak=1e-9, schedule__end=0.0)
    experiment = quick(health__divergence="skip", **settings)
    with pytest.raises(failure.DivergedError, match="2 divergences before it were left out"):
        train(experiment)
    found = divergence.read(loop.storage.path(experiment.folder))
    assert [one.why for one in found] == ["loss spiked"] * 2 and all(one.step > divergence.FEWEST for one in found)


def test_stop_stops_and_a_spike_under_it_too(quick, bad):
    bad({6})
    with pytest.raises(failure.DivergedError, match="step 7: loss nan.*loss not finite"):
        train(quick())
    assert not divergence.read(loop.storage.path(quick().folder))


@given(st.lists(st.floats(0.5, 9.0), min_size=1, max_size=200), st.integers(0, 3))
def test_the_ceiling_does_not_depend_on_how_much_was_read_already(values, ahead):
    whole = divergence.Divergences(config.Health(spike=2.0), [])
    for step, value in enumerate(values, 1):
        whole.count(step, value)
    step = max(len(values) + 2 - ahead, 1)
    known = [[at, value] for at, value in enumerate(values, 1) if at <= step - 2]
    resumed = divergence.Divergences(config.Health(spike=2.0), [], json.loads(json.dumps(known)))
    assert whole.ceiling(step) == resumed.ceiling(step)
    recent = [value for at, value in known if at >= step - 1 - divergence.RECENT]
    assert whole.ceiling(step) == (2.0 * np.median(recent) if len(recent) >= divergence.FEWEST else math.inf)


@pytest.mark.parametrize(
    "policy, weights, expected", [("stop", False, None), ("skip", False, (18, 18)), ("skip", True, (16, 18)), ("back_off", False, (16, 18))]
)
def test_what_is_left_out_follows_from_the_step_and_the_interval(policy, weights, expected):
    divergences = divergence.Divergences(config.Health(divergence=policy), [])
    found = divergences.add(18, NAN, 5, weights)
    assert (found and found.left_out) == expected
    if expected:
        assert divergences.ceiling(18) == -math.inf and divergences.ceiling(19) == math.inf
        assert divergences.left_out(17) == ([[16, 17]] if expected[0] == 16 else [])


def test_a_record_that_is_none_is_refused(tmp_path):
    (tmp_path / divergence.FILE).write_text('{"step": 3}')
    with pytest.raises(config.ConfigError, match="does not list divergences"):
        divergence.read(tmp_path)
