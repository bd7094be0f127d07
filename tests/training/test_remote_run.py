"""A run folder in s3:// is one as on a local disk: trained into, killed, resumed, branched off, averaged, read."""

import dataclasses
import pathlib
import signal
import time

import fsspec
import jax
import numpy as np
import pytest

from kaiyuan_jax import storage
from kaiyuan_jax.averaging import offline
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.report import load
from kaiyuan_jax.training import checkpoint, loop, metrics, trained

FIELDS = dict(checkpoint__every=10, checkpoint__keep=20, evaluation__every=50)


def train(experiment):
    return loop.train(experiment, devices=jax.devices()[:1], page="the plan\n")


@pytest.fixture(scope="module")
def local(tiny_in, tmp_path_factory):
    """The undisturbed run on a local disk."""
    experiment = tiny_in(tmp_path_factory.mktemp("local") / "run", **FIELDS)
    assert train(experiment).finished
    return experiment


@pytest.fixture(scope="module")
def remote(tiny_in, launch, s3):
    """The same run in s3://, killed while it trained and gone on with, with a board."""
    experiment = tiny_in(f"{s3}/runs/killed", **FIELDS, logging__tensorboard=True)
    process, folder = launch(experiment, wait=False), storage.path(experiment.folder)
    while not checkpoint.steps(folder / "checkpoints"):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begun = checkpoint.steps(folder / "checkpoints")
    assert begun and begun[-1] < 100
    assert train(experiment).finished
    return experiment


def test_killed_and_resumed_it_is_the_undisturbed_local_run_to_the_bit(remote, local, lines, parameters):
    assert lines(remote) == lines(local)
    assert checkpoint.steps(storage.path(remote.folder) / "checkpoints") == list(range(10, 101, 10))
    for step in (10, 100):
        for one, other in zip(jax.tree.leaves(parameters(remote, step)), jax.tree.leaves(parameters(local, step)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_its_folder_holds_what_a_local_one_does_and_no_credentials(remote, local):
    there, here = (set(storage.inside(experiment.folder)) for experiment in (remote, local))
    assert {name for name in here if "/" not in name} - {".lock"} <= there
    assert sum(name.startswith("tensorboard/events") for name in there) >= 1
    assert (storage.path(remote.folder) / "plan.txt").read_text() == "the plan\n"
    for name, content in fsspec.filesystem("s3").cat(remote.folder, recursive=True).items():
        assert b"never-to-be-seen" not in content and b"tester" not in content, name


def test_the_same_command_says_it_is_finished_and_another_experiment_is_refused(remote, capfd):
    assert train(remote).finished
    assert f"{remote.folder}: finished before, at step 100" in capfd.readouterr().out
    with pytest.raises(ConfigError, match="holds another experiment"):
        train(dataclasses.replace(remote, seed=9))


@pytest.mark.parametrize("parent", ("local", "remote"))
def test_a_run_branches_off_a_checkpoint_wherever_it_is(parent, request, tiny_in, s3, lines, parameters):
    parent = request.getfixturevalue(parent)
    child = tiny_in(f"{s3}/runs/child_of_{request.node.callspec.id}", **FIELDS, branch=f"{parent.folder}/checkpoints/80")
    assert train(child).finished
    assert lines(child) == lines(parent)
    for one, other in zip(jax.tree.leaves(parameters(child, 100)), jax.tree.leaves(parameters(parent, 100)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(remote, tiny_in, s3, lines, capfd):
    damaged = tiny_in(f"{s3}/runs/damaged", **FIELDS)
    storage.copy(remote.folder, damaged.folder)
    folder = storage.path(damaged.folder) / "checkpoints" / "100"
    largest = max((path for path in storage.inside(folder) if "ocdbt.process_0/d/" in path and path.startswith("parameters")),
                  key=lambda name: len((folder / name).read_bytes()))  # fmt: skip
    content = bytearray((folder / largest).read_bytes())
    content[len(content) // 2] ^= 1
    storage.replace(folder / largest, bytes(content))
    assert train(damaged).finished
    said = capfd.readouterr()
    assert "resuming from step 90 of 100" in said.out and f"{folder}" in said.err
    assert storage.names(folder.parent)[:2] == ["10", "100"] and lines(damaged) == lines(remote)
    assert "damaged.txt" in storage.inside(folder.with_name("100.damaged"))


def test_its_checkpoints_are_averaged_and_read_by_name(remote, local, parameters):
    folder = storage.path(remote.folder)
    assert trained.find("--model", remote.folder) == (folder, folder / "checkpoints" / "100")
    readers = [checkpoint.leaf_reader(folder / "checkpoints" / str(step)) for step in (100, 90)]
    leaves = offline.average([read for _, read in readers], [0.5, 0.5], readers[0][0])
    checkpoint.save_parameters(folder / "averages" / "two", leaves, {"steps": [100, 90], "step": 100})
    assert trained.find("--model", f"{remote.folder}/averages/two") == (folder, folder / "averages" / "two")
    model = trained.load("--model", f"{remote.folder}/checkpoints/100")
    for one, other in zip(jax.tree.leaves(model.params), jax.tree.leaves(parameters(local, 100)), strict=True):
        np.testing.assert_array_equal(one, other)
    (run,) = load.load([remote.folder])
    assert (
        run.name == "killed" and run.averages == {"two": [90, 100]} and len(run.training) == len(metrics.read(folder / "metrics.jsonl")) - 2
    )


def test_a_checkpoint_half_written_or_half_deleted_is_none_and_is_cleaned_up(remote, tiny_in, s3, capfd):
    torn = tiny_in(f"{s3}/runs/torn", **FIELDS)
    storage.copy(remote.folder, torn.folder)
    folder = storage.path(torn.folder) / "checkpoints"
    storage.delete(folder / "100" / checkpoint.COMPLETE)
    storage.delete(folder / "90" / checkpoint.COMPLETE)
    assert checkpoint.steps(folder)[-1] == 80
    assert train(torn).finished
    assert "resuming from step 80 of 100" in capfd.readouterr().out
    assert checkpoint.steps(folder)[-2:] == [90, 100]


def test_nothing_of_a_remote_name_lands_on_the_local_disk(remote):
    assert not [path for path in pathlib.Path().iterdir() if path.name.startswith(("s3:", "gs:"))]
