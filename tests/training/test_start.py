"""A run that begins with the weights of another, on longer rows and with a larger base of RoPE."""

import contextlib
import pathlib
import shutil

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import checkpoint, loop, state
from kaiyuan_jax.training.checkpoints import Checkpoints

FIELDS = dict(model__layers=1, checkpoint__every=3, logging__every=1, schedule__warmup=0)


def train(experiment, devices: int = 1):
    for source in experiment.data.sources:
        source.heldout = ""
    return loop.train(experiment, jax.devices()[:devices])


@pytest.fixture(scope="module")
def parent(tiny_in, stores, tmp_path_factory):
    """A run at step 3, of drawn weights and moments: nothing is compiled for it."""
    experiment = tiny_in(tmp_path_factory.mktemp("start") / "parent", **FIELDS)
    random, folder = np.random.default_rng(0), pathlib.Path(experiment.folder)

    def draw(path, leaf):
        drawn = 0.1 * random.standard_normal(leaf.shape) if leaf.dtype == np.float32 else np.full(leaf.shape, 3)
        drawn = np.abs(drawn) if "nu" in jax.tree_util.keystr(path) else drawn  # mean squares
        return jax.device_put(drawn.astype(leaf.dtype), leaf.sharding)

    optimizer = adamw.build(experiment.optimizer, lambda count: 1e-3)
    abstract = state.abstract(experiment, optimizer, make_mesh(experiment.mesh, jax.devices()[:1]))
    with contextlib.closing(Checkpoints(folder / "checkpoints", experiment.checkpoint)) as checkpoints:
        checkpoints.save_now(3, jax.tree_util.tree_map_with_path(draw, abstract), {"step": 3})
    (folder / "config.json").write_text(config.to_json(experiment))
    shutil.copy(stores / "code/train/tokenizer.json", folder)
    return experiment


@pytest.fixture
def longer(tiny, parent):
    """longer(**fields): rows twice as long, from the parent's checkpoint at step 3."""

    def make(**fields):
        start = f"{parent.folder}/checkpoints/3"
        fields = dict(start=start, data__sequence_length=32, model__rope_base=500_000.0) | fields
        experiment = tiny(**FIELDS | fields)
        experiment.data.phases[0].tokens = 3 * 8 * 32
        return experiment

    return make


def test_it_has_the_weights_and_moments_and_its_own_steps_and_goes_on_alone(longer, parent, parameters, lines, capsys, tmp_path):
    experiment = longer(schedule__peak=1e-30, schedule__end=1e-30)  # rates that move no weight
    train(experiment)
    assert "and its moments, RoPE base 10,000 -> 500,000, tokens of a row 16 -> 32" in capsys.readouterr().out
    for a, b in zip(*(jax.tree.leaves(parameters(run, 3)) for run in (experiment, parent)), strict=True):
        np.testing.assert_array_equal(a, b)
    read = checkpoint.leaf_reader(f"{experiment.folder}/checkpoints/3", "rest")[1]
    assert (int(read("step")), int(read("opt_state/1/count")), int(read("opt_state/3/count"))) == (3, 6, 3)
    shutil.move(parent.folder, tmp_path / "elsewhere")
    try:
        assert train(experiment).step == 3  # it has begun: its own checkpoints are all it needs
    finally:
        shutil.move(tmp_path / "elsewhere", parent.folder)


def test_rows_cut_over_devices_with_another_base_of_rope_train_as_whole_ones_do(longer, parameters, lines, tmp_path):
    whole, cut = longer(), longer(output=str(tmp_path / "cut"), mesh__context=2, mesh__fsdp=2)
    train(whole), train(cut, 4)
    assert [line["loss"] for line in lines(cut) if "loss" in line] == pytest.approx(
        [x["loss"] for x in lines(whole) if "loss" in x], rel=1e-5
    )
    for a, b in zip(*(jax.tree.leaves(parameters(run, 3)) for run in (whole, cut)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_weights_without_moments_are_a_start_too(longer, parent, capsys):
    leaves = checkpoint.leaf_reader(f"{parent.folder}/checkpoints/3")
    checkpoint.save_parameters(f"{parent.folder}/averages/sma", {path: leaves[1](path) for path in leaves[0]}, {"step": 3})
    train(longer(start=f"{parent.folder}/averages/sma"))
    said = capsys.readouterr().out
    assert "begins with the weights of" in said and "and its moments" not in said


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(model__feedforward=64), "config.model.feedforward: was 32, now 64"),
        (dict(model__logit_softcap=0.0), "config.model.logit_softcap: was 30.0, now 0.0"),
        (dict(start="nowhere/checkpoints/3"), "config.start: found 'nowhere/checkpoints/3', must be a run"),
    ],
)
def test_what_cannot_be_a_start_is_refused_before_any_work(longer, fields, message):
    experiment = longer(**fields)
    with pytest.raises(ConfigError, match=message):
        train(experiment)
    assert not pathlib.Path(experiment.folder).exists()
