"""The average over the last points of a run, made while it trains, against the checkpoints of the same steps averaged offline."""

import json
import shutil

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.averaging import offline, weights
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint, loop, trained

WINDOW = dict(averaging__kind="ema", averaging__last=4, averaging__online_every=10)  # points at 10, 20, 30 and 40, the last step


def train(experiment):
    return loop.train(experiment, jax.devices()[:1])


@pytest.fixture(scope="module")
def run(tiny_in, tmp_path_factory):
    """A finished run of 40 steps with checkpoints at its points and between them."""
    experiment = tiny_in(tmp_path_factory.mktemp("window"), **WINDOW, checkpoint__every=5, checkpoint__keep=20, evaluation__every=8)
    experiment.data.phases[0].tokens = 40 * experiment.data.batch_size * experiment.data.sequence_length
    assert train(experiment).finished
    return experiment


def forget(experiment, after):
    for path in (trained.storage.path(experiment.folder) / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > after:
            shutil.rmtree(path)


def average(experiment, step):
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    folder, found = trained.find("--model", f"{experiment.folder}/checkpoints/{step}/average")
    return jax.device_get(trained.weights(found, abstract))


def test_it_equals_the_offline_average_of_the_same_points_to_rounding(run):
    readers = [checkpoint.leaf_reader(f"{run.folder}/checkpoints/{step}")[1] for step in (40, 30, 20, 10)]
    paths, _ = checkpoint.leaf_reader(f"{run.folder}/checkpoints/40")
    expected = offline.average(readers, weights.weights(run.averaging), paths)
    found = {"/".join(key.key for key in keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(average(run, 40))}
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, atol=3e-7 * max(np.abs(leaf).max(), 1))


def test_it_is_evaluated_during_the_run_from_its_first_point_on(run, lines):
    held = [line for line in lines(run) if "heldout/mean" in line]
    assert [line["step"] for line in held] == [8, 16, 24, 32, 40]
    assert [sorted(key for key in line if key.startswith("heldout_average/")) for line in held] == [
        [],
        *[["heldout_average/code", "heldout_average/mean", "heldout_average/prose"]] * 4,
    ]
    evaluate = heldout.make_evaluator(run, heldout.open_stores(run))
    again = evaluate(average(run, 40))
    assert again == pytest.approx({name: held[-1][f"heldout_average/{name}"] for name in ("code", "prose")}, rel=1e-6)


def test_it_resumes_inside_the_window_to_the_same_bits(run, lines, tmp_path):
    expected, before = average(run, 40), lines(run)
    shutil.copytree(run.folder, tmp_path / "copy")
    copy = config.from_json(json.dumps(json.loads(config.to_json(run)) | {"output": str(tmp_path / "copy")}))
    forget(copy, 25)
    assert train(copy).finished
    assert lines(copy) == before
    for a, b in zip(jax.tree.leaves(average(copy, 40)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    # another window: not from inside this one, but from before it begins
    forget(copy, 35)
    copy.averaging.kind = "sma"
    with pytest.raises(config.ConfigError, match="stands at step 35 with an average of 4 points from step 10; the window given has begun"):
        train(copy)
    forget(copy, 5)
    copy.averaging.online_every = 0
    assert train(copy).finished  # the average is left behind
    forget(copy, 20)
    copy.averaging.online_every = 5
    assert train(copy).finished  # and another begun, at step 25
    assert average(copy, 40).keys() == expected.keys()


def test_the_state_holds_one_more_copy_and_the_step_no_other(tiny_in, device_mesh):
    def compiled(**fields):
        from kaiyuan_jax.training.job import prepare

        experiment = tiny_in("unused", **fields)
        return prepare(experiment, jax.devices()[:1]).update.memory_analysis()

    without, online = compiled(), compiled(**WINDOW)
    copy = online.argument_size_in_bytes - without.argument_size_in_bytes
    assert copy == pytest.approx(without.argument_size_in_bytes / 3, rel=0.1)  # beside the weights and two moments
    assert online.temp_size_in_bytes - without.temp_size_in_bytes < copy / 4
