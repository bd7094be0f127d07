"""A run folder in s3:// is one as on a local disk: trained into, killed, resumed, branched off, averaged, read."""

import dataclasses
import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest

from kaiyuan_jax import storage
from kaiyuan_jax.averaging import offline
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.report import load
from kaiyuan_jax.training import checkpoint, loop, metrics, trained

FIELDS = dict(checkpoint__every=25, checkpoint__keep=20)


def train(experiment):
    return loop.train(experiment, devices=jax.devices()[:1], page="the plan\n")


@pytest.fixture(scope="module")
def run_in(tiny_in):
    """run_in(output, **fields): `tiny_in` with four checkpoints and nothing held out."""

    def make(output, **fields):
        experiment = tiny_in(output, **FIELDS, **fields)
        for source in experiment.data.sources:
            source.heldout = ""
        return experiment

    return make


@pytest.fixture(scope="module")
def local(run_in, tmp_path_factory):
    """The undisturbed run on a local disk."""
    experiment = run_in(tmp_path_factory.mktemp("local") / "run")
    assert train(experiment).finished
    return experiment


@pytest.fixture(scope="module")
def remote(run_in, launch, s3):
    """The same run in s3://, killed while it trained and gone on with, with a board."""
    experiment = run_in(f"{s3}/runs/killed", logging__tensorboard=True)
    process, folder = launch(experiment, wait=False), storage.path(experiment.folder)
    while not (begun := checkpoint.steps(folder / "checkpoints")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.3)  # each question costs the server as much as a step of training
    process.send_signal(signal.SIGKILL)
    said = "".join(process.communicate())
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said and os.environ["AWS_ACCESS_KEY_ID"] not in said
    assert begun[-1] < 100 and 100 not in checkpoint.steps(folder / "checkpoints")
    assert train(experiment).finished
    return experiment


@pytest.fixture(scope="module")
def child(run_in, remote, s3):
    """A run that branches off the one in s3://."""
    experiment = run_in(f"{s3}/runs/child", branch=f"{remote.folder}/checkpoints/75")
    assert train(experiment).finished
    return experiment


def same_weights(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_killed_and_resumed_it_is_the_undisturbed_local_run_to_the_bit(remote, local, lines, parameters):
    assert lines(remote) == lines(local)
    assert checkpoint.steps(storage.path(remote.folder) / "checkpoints") == [25, 50, 75, 100]
    for step in (25, 100):
        same_weights(parameters(remote, step), parameters(local, step))


def test_its_folder_holds_what_a_local_one_does_and_no_credentials(remote, local):
    there, here = (set(storage.inside(experiment.folder)) for experiment in (remote, local))
    assert {name for name in here if "/" not in name} - {".lock"} <= there
    assert sum(name.startswith("tensorboard/events") for name in there) >= 1
    assert (storage.path(remote.folder) / "plan.txt").read_text() == "the plan\n"
    for name in there:
        content = storage.read(storage.path(f"{remote.folder}/{name}"))
        for key in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
            assert os.environ[key].encode() not in content, name


def test_the_same_command_says_it_is_finished_and_another_experiment_is_refused(remote, capfd):
    assert train(remote).finished
    assert f"{remote.folder}: finished before, at step 100" in capfd.readouterr().out
    with pytest.raises(ConfigError, match="holds another experiment"):
        train(dataclasses.replace(remote, seed=9))


def test_a_run_branches_off_a_checkpoint_of_another(child, remote, lines, parameters):
    assert lines(child) == lines(remote)
    assert checkpoint.steps(storage.path(child.folder) / "checkpoints") == [25, 50, 75, 100]
    same_weights(parameters(child, 100), parameters(remote, 100))


def test_one_damaged_checkpoint_and_one_half_deleted_are_none_and_the_one_before_is_used(child, remote, lines, parameters, capfd):
    folder = storage.path(child.folder) / "checkpoints"
    storage.delete(folder / "100" / checkpoint.COMPLETE)
    arrays = [name for name in storage.inside(folder / "75") if name.startswith("parameters/") and "ocdbt.process_0/d/" in name]
    contents = {name: bytearray(storage.read(folder / "75" / name)) for name in arrays}
    largest = max(contents, key=lambda name: len(contents[name]))
    contents[largest][len(contents[largest]) // 2] ^= 1
    storage.replace(folder / "75" / largest, bytes(contents[largest]))
    assert checkpoint.steps(folder) == [25, 50, 75]
    assert train(child).finished
    said = capfd.readouterr()
    assert "resuming from step 50 of 100" in said.out and f"{folder}/75" in said.err
    assert checkpoint.steps(folder) == [25, 50, 75, 100] and "damaged.txt" in storage.inside(folder / "75.damaged")
    assert lines(child) == lines(remote)
    same_weights(parameters(child, 100), parameters(remote, 100))


def test_its_checkpoints_are_averaged_and_read_by_name(remote, parameters):
    folder = storage.path(remote.folder)
    assert trained.find("--model", remote.folder) == (folder, folder / "checkpoints" / "100")
    readers = [checkpoint.leaf_reader(folder / "checkpoints" / str(step)) for step in (100, 75)]
    leaves = offline.average([read for _, read in readers], [0.5, 0.5], ["norm_D"])
    wanted = (parameters(remote, 75)["norm_D"] + parameters(remote, 100)["norm_D"]) / 2
    np.testing.assert_allclose(leaves["norm_D"], wanted, rtol=1e-6)
    checkpoint.save_parameters(folder / "averages" / "two", leaves, {"steps": [100, 75], "step": 100})
    assert trained.find("--model", f"{remote.folder}/averages/two") == (folder, folder / "averages" / "two")
    (run,) = load.load([remote.folder])
    assert run.name == "killed" and run.averages == {"two": [75, 100]}
    assert len(run.training) == len(metrics.read(folder / "metrics.jsonl"))


def test_nothing_of_a_remote_name_lands_on_the_local_disk(remote):
    assert not [path for path in pathlib.Path().iterdir() if path.name.startswith(("s3:", "gs:"))]
