import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.training import checkpoint, state
from kaiyuan_jax.training.checkpoints import Checkpoints


def make(experiment, mesh):
    optimizer = adamw.build(experiment.optimizer, lambda count: 1e-2)
    return state.create(experiment, mesh), state.abstract(experiment, optimizer, mesh)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(jax.device_get(one)), jax.tree.leaves(jax.device_get(other)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def saved(tiny, device_mesh, tmp_path):
    """A run folder's checkpoints 10 to 50 of which the newest three are kept, and the state of the last."""
    now, abstract = make(tiny(averaging__online_decay=0.9), device_mesh())
    checkpoints = Checkpoints(tmp_path / "checkpoints", config.Checkpoint(every=10, keep=3))
    for step in range(10, 60, 10):
        now = jax.tree.map(lambda leaf: leaf + 1, now)
        checkpoints.save(step, now, {"position": step * 8})
    checkpoints.wait()
    checkpoints.close()
    return checkpoints, now, abstract


def test_the_newest_are_kept_and_nothing_else_lies_around(saved):
    checkpoints, _, _ = saved
    assert checkpoints.steps() == [30, 40, 50]
    assert sorted(os.listdir(checkpoints.folder)) == ["30", "40", "50"]


def test_a_restored_state_is_the_saved_one_bit_for_bit(saved):
    checkpoints, now, abstract = saved
    same(checkpoints.restore(50, abstract)[0], now)
    assert checkpoint.progress(checkpoints.folder / "50") == {"position": 400}


def test_updates_in_place_after_save_returns_do_not_reach_the_checkpoint(tiny, device_mesh, tmp_path):
    experiment = tiny(model__width=256, model__feedforward=1024, model__vocabulary=4096)  # large enough to be written for a while
    now, abstract = make(experiment, device_mesh())
    kept = jax.device_get(now)
    checkpoints = Checkpoints(tmp_path / "checkpoints", config.Checkpoint(every=10, keep=3))
    add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    checkpoints.save(1, now, {})
    for _ in range(20):
        now = add(now)
    jax.block_until_ready(now)
    checkpoints.close()
    same(checkpoints.restore(1, abstract)[0], kept)


def test_a_state_is_restored_onto_another_mesh(saved, tiny, device_mesh):
    checkpoints, now, _ = saved
    _, abstract = make(tiny(averaging__online_decay=0.9), device_mesh(2, 2, 2))
    restored = checkpoints.restore(50, abstract)[0]
    same(restored, now)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(lambda leaf: leaf.sharding, abstract)


def test_what_a_kill_leaves_behind_is_no_checkpoint_and_is_cleared(saved):
    checkpoints, _, _ = saved
    shutil.copytree(checkpoints.folder / "50", checkpoints.folder / "60")
    os.remove(checkpoints.folder / "60" / "commit_success.txt")
    os.mkdir(checkpoints.folder / "70.orbax-checkpoint-tmp-3")
    os.rename(checkpoints.folder / "30", checkpoints.folder / "30.deleting")
    assert checkpoints.steps() == [40, 50]
    Checkpoints(checkpoints.folder, config.Checkpoint(every=10, keep=3))
    assert sorted(os.listdir(checkpoints.folder)) == ["40", "50"]


def test_a_missing_checkpoint_is_named_with_those_there_are(saved):
    checkpoints, _, abstract = saved
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoints/10: no complete checkpoint here.* has 30, 40, 50"):
        checkpoints.restore(10, abstract)


def test_parameters_load_alone_and_cast_to_the_dtype_asked_for(saved, tiny):
    checkpoints, now, _ = saved
    experiment = tiny()
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    same(checkpoint.load_parameters(checkpoints.folder / "50", abstract), now.params)
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), abstract)
    same(checkpoint.load_parameters(checkpoints.folder / "50", half), jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), now.params))
    same(checkpoint.load_parameters(checkpoints.folder / "50", abstract, item="average"), now.average)


def test_parameters_of_another_model_are_refused_by_name(saved, tiny):
    checkpoints, _, _ = saved
    other = tiny(model__feedforward=48)
    with pytest.raises(checkpoint.CheckpointError, match=r"parameters layers/.*F.* has shape \(2, .*32.*\), the model .*48"):
        checkpoint.load_parameters(checkpoints.folder / "50", decoder.abstract(other.model, other.precision)[1])


def test_leaves_are_read_one_by_one(saved):
    checkpoints, now, abstract = saved
    paths, read = checkpoint.leaf_reader(checkpoints.folder / "40")
    assert len(paths) == len(jax.tree.leaves(now.params))
    np.testing.assert_array_equal(read("embedding_VD"), checkpoints.restore(40, abstract)[0].params["embedding_VD"])
    name = next(path for path in paths if path.startswith("layers/"))
    assert isinstance(read(name), np.ndarray)


def test_an_average_is_read_like_a_checkpoint_and_replaces_its_older_self(saved, tiny, tmp_path):
    checkpoints, now, _ = saved
    paths, read = checkpoint.leaf_reader(checkpoints.folder / "50")
    for factor in (1, 2):
        checkpoint.save_parameters(tmp_path / "averages" / "a", {path: factor * read(path) for path in paths}, {"steps": [factor]})
    experiment = tiny()
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    same(checkpoint.load_parameters(tmp_path / "averages" / "a", abstract), jax.tree.map(lambda leaf: 2 * leaf, now.params))
    assert checkpoint.progress(tmp_path / "averages" / "a") == {"steps": [2]}
    assert os.listdir(tmp_path / "averages") == ["a"]
