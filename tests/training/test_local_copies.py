"""Copies between checkpoints: newer ones are restored first, and only where they are whole."""

import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kaiyuan_jax import config
from kaiyuan_jax.training.checkpoints import Checkpoints
from tests.training.saved_states import DAMAGES, abstract_of, same, some_state


@pytest.fixture
def open_run(tmp_path):
    """open_run(**fields): the checkpoints of one run with copies beside them."""
    settings = {"every": 10, "keep": 3, "local": str(tmp_path / "copies"), "local_every": 2}
    opened = []

    def start(**fields):
        opened.append(Checkpoints(tmp_path / "checkpoints", config.Checkpoint(**settings | fields)))
        return opened[-1]

    yield start
    for checkpoints in opened:
        checkpoints.close()


def save(checkpoints, durable=(), copies=()):
    for step in sorted({*durable, *copies}):
        (checkpoints.save if step in durable else checkpoints.save_local)(step, some_state(step), {"step": step})
    checkpoints.wait()
    checkpoints._local.wait()
    return checkpoints._local.folder


def test_the_newest_copy_is_restored_first_and_two_are_kept(open_run):
    folder = save(open_run(), durable=(10,), copies=(12, 14, 16))
    assert sorted(os.listdir(folder)) == ["14", "16"]
    restored, progress = open_run().newest(abstract_of(some_state(1)))
    assert same(restored, some_state(16)) and progress == {"step": 16}


def test_a_newer_checkpoint_goes_before_a_copy_and_a_clean_end_leaves_none(open_run, tmp_path):
    checkpoints = open_run()
    save(checkpoints, durable=(10, 20), copies=(16, 18))
    assert checkpoints.newest(abstract_of(some_state(1)))[1] == {"step": 20}
    checkpoints.close()
    assert os.listdir(tmp_path / "copies") == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["shards", "facts.json"])
def test_a_damaged_copy_is_passed_over(open_run, damage, file):
    for seed in range(10):
        checkpoints = open_run()
        folder = save(checkpoints, durable=(10,), copies=(12, 14))
        DAMAGES[damage](folder / "14" / file, random.Random(seed))
        restored, progress = checkpoints.newest(abstract_of(some_state(1)))
        assert progress == {"step": 12} and same(restored, some_state(12))
        checkpoints.discard(10)


def test_what_a_kill_left_half_written_is_removed(open_run):
    folder = save(open_run(), durable=(10,), copies=(12,))
    shutil.copytree(folder / "12", folder / "14.writing")
    assert open_run().newest(abstract_of(some_state(1)))[1] == {"step": 12}
    assert os.listdir(folder) == ["12"]


def test_a_run_folder_begun_again_finds_no_copies_of_before(open_run, tmp_path):
    save(open_run(), durable=(10,), copies=(12,))
    shutil.rmtree(tmp_path / "checkpoints")
    assert open_run().newest(abstract_of(some_state(1))) is None


def test_a_copy_that_cannot_be_written_is_said_and_training_goes_on(open_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    checkpoints = open_run(local=str(tmp_path / "file"))
    save(checkpoints, durable=(10,), copies=(12, 14))
    assert "12: the copy could not be written" in capsys.readouterr().err
    assert checkpoints.newest(abstract_of(some_state(1)))[1] == {"step": 10}


def test_shards_come_back_to_their_devices_and_a_copy_of_another_mesh_is_left_alone(open_run):
    def sharded(seed, spec):
        mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
        place = lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec if leaf.shape == (64, 32) else PartitionSpec()))  # noqa: E731
        return jax.tree.map(place, some_state(seed))

    checkpoints = open_run()
    saved = sharded(12, PartitionSpec("a", "b"))
    checkpoints.save_local(12, saved, {"step": 12})
    checkpoints._local.wait()
    restored, _ = checkpoints.newest(abstract_of(saved))
    assert same(restored, saved) and restored.params["layers"]["query"].sharding == saved.params["layers"]["query"].sharding
    assert checkpoints.newest(abstract_of(sharded(1, PartitionSpec(("a", "b"))))) is None


def test_a_copy_is_of_the_moment_it_was_made(open_run):
    checkpoints, now = open_run(), some_state(12)
    add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), tree), donate_argnums=0)
    checkpoints.save_local(12, now, {"step": 12})
    for _ in range(5):
        now = add(now)
    jax.block_until_ready(now)
    checkpoints._local.wait()
    restored, _ = checkpoints.newest(abstract_of(now))
    assert same(restored, some_state(12))
    assert not np.array_equal(add(restored).params["gain"], some_state(12).params["gain"])  # restored arrays can be given away
