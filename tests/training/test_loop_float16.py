"""Whole runs in float16: what they write, and that they resume to the same bits."""

import json
import shutil

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.training import checkpoint, failure, loop, resume

# a scale that must come down first and may grow soon, so that the run skips updates in its beginning and later
SCALED = dict(precision__compute="float16", precision__loss_scale=2.0**40, precision__growth_interval=6, checkpoint__keep=10)


@pytest.fixture
def scaled(tiny):
    """scaled(**fields): `tiny` in float16, all of them one compiled step, with nothing to evaluate."""

    def make(**fields):
        experiment = tiny(**SCALED, averaging__online_decay=0.9, **fields)
        for source in experiment.data.sources:
            source.heldout = ""
        return experiment

    return make


def train(experiment):
    return loop.train(experiment, jax.devices()[:1])


def test_a_float16_run_learns_skips_and_resumes_to_the_same_bits(scaled, lines, parameters):
    experiment = scaled()
    assert train(experiment).finished
    expected, last = lines(experiment), parameters(experiment, 100)
    training = [line for line in expected if "loss_scale" in line]
    assert [line["step"] for line in training] == [*range(7, 99, 7), 100]
    first = training[0]  # of skipped updates alone: no loss, and the run goes on
    assert not {key for key in first if key.startswith(("loss/", "mixture/"))} and "loss" not in first
    assert first["gradient_norm"] is None and first["skipped"] == 7 and first["loss_scale"] == 2.0**33
    losses = [line["loss"] for line in training if "loss" in line]
    assert losses[-1] < losses[0] - 0.3
    skipped = [line["skipped"] for line in training]
    assert skipped == sorted(skipped) and skipped[-1] > skipped[2] > 7
    assert training[-1]["nonfinite_loss"] == 0 and len({line["loss_scale"] for line in training}) > 1
    for line in training:
        assert 0 < line["headroom"] < 16
        by_layer = line["largest_by_layer/residual"]
        assert len(by_layer) == 2 and max(by_layer) == line["largest/residual"]
    for later in checkpoint.steps(f"{experiment.folder}/checkpoints"):
        if later > 60:
            shutil.rmtree(f"{experiment.folder}/checkpoints/{later}")
    assert train(experiment).finished
    assert lines(experiment) == expected
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(parameters(experiment, 100)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_overflow_that_no_scale_cures_stops_the_run_with_what_was_found(scaled):
    experiment = scaled(schedule__peak=1e4, schedule__warmup=3)
    with pytest.raises(failure.DivergedError) as error:
        train(experiment)
    message = str(error.value)
    step = int(message.split()[1].rstrip(":"))
    facts = json.loads(open(f"{experiment.folder}/diverged_{step}.json").read())
    assert facts["scale"] == 0.5 and facts["skipped"] >= 41 and 0 < facts["nonfinite_loss"] < facts["skipped"]  # from 2^40 to 1, once more
    assert None in [value for by_layer in facts["largest_by_layer"].values() for value in by_layer]
    assert f"{facts['skipped']} steps skipped in the run, {facts['nonfinite_loss']} of them with a loss not finite" in message
    assert "config.precision.scale_floor" in message


def test_precision_may_not_change_between_sessions(tiny):
    with resume.session(tiny(precision__compute="float16")):
        pass
    with (
        pytest.raises(config.ConfigError, match=r"config.precision.compute: was \"float16\", now \"bfloat16\""),
        resume.session(tiny(precision__compute="bfloat16")),
    ):
        pass
