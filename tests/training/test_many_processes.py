"""Real processes that train one experiment: the same batches, the same numbers, checkpoints for any number of them.

One group of four processes with a device each and one of two with two devices each do all the work; a process costs seconds to start.
"""

import copy
import shutil

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import loop
from tests import processes
from tests.training import many_processes

PLACE = many_processes.__file__
STEPS = 6
FIELDS = dict(model__layers=1, checkpoint__every=3, logging__every=1, schedule__warmup=2, data__mask_documents=True)


def meshed(experiment, folder, **axes):
    made = copy.deepcopy(experiment)
    made.output, made.mesh = str(folder), config.Mesh(**axes)
    return made


@pytest.fixture(scope="module")
def base(tiny_in, tmp_path_factory):
    experiment = tiny_in(tmp_path_factory.mktemp("base"), **FIELDS)
    experiment.data.phases[0].tokens = STEPS * experiment.data.batch_size * experiment.data.sequence_length
    return experiment


@pytest.fixture(scope="module")
def one(base, tmp_path_factory):
    """The run of this process alone, on the mesh of `four`."""
    made = meshed(base, tmp_path_factory.mktemp("one") / "run", data=2, fsdp=2)
    loop.train(made, jax.devices()[:4])
    return made


@pytest.fixture(scope="module")
def four(base, tmp_path_factory):
    """(experiment, what each of four processes with one device saw), rows cut over two and parameters over two."""
    made = meshed(base, tmp_path_factory.mktemp("four") / "run", data=2, fsdp=2)
    return made, processes.call(PLACE, "train", 4, 1, config.to_json(made))


@pytest.fixture(scope="module")
def half(four):
    """half(folder): a copy of the run of `four` as it stood half way."""

    def make(folder):
        shutil.copytree(four[0].output, folder)
        shutil.rmtree(folder / "checkpoints" / str(STEPS))
        return folder

    return make


@pytest.fixture(scope="module")
def two(base, half, tmp_path_factory):
    """Runs of two processes with two devices, and what they saw: positions of rows cut over processes; the rest of the run of `four`."""
    folder, axes = tmp_path_factory.mktemp("two"), dict(data=1, context=2, tensor=2)
    runs = meshed(base, folder / "cut", **axes), meshed(base, half(folder / "resumed"), **axes)
    return runs, processes.call(PLACE, "train_both", 2, 2, *map(config.to_json, runs))


def assert_equal_to_rounding(got, want, lines, parameters):
    for one, other in zip(lines(got), lines(want), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key] == (pytest.approx(other[key], rel=1e-4) if isinstance(one[key], float) else other[key]), (key, one["step"])
    for a, b in zip(*(jax.tree.leaves(parameters(run, STEPS)) for run in (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_four_processes_train_bit_for_bit_as_one_process_on_the_same_mesh_does(four, one, lines, parameters):
    assert [facts["step"] for facts in four[1]] == [STEPS] * 4
    assert lines(four[0]) == lines(one)
    for a, b in zip(*(jax.tree.leaves(parameters(run, STEPS)) for run in (four[0], one)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_cut_over_processes_and_heads_over_devices_train_as_whole_ones_do(two, one, lines, parameters):
    assert [facts["steps"] for facts in two[1]] == [[STEPS, STEPS]] * 2
    assert_equal_to_rounding(two[0][0], one, lines, parameters)


def test_a_checkpoint_of_four_processes_goes_on_in_two_on_another_mesh_and_in_one(two, half, one, lines, parameters, tmp_path):
    assert_equal_to_rounding(two[0][1], one, lines, parameters)
    alone = meshed(one, half(tmp_path / "alone"), data=1)
    loop.train(alone, jax.devices()[:1])
    assert_equal_to_rounding(alone, one, lines, parameters)


def test_global_batches_are_the_same_bits_for_one_two_and_four_processes(four, two, one):
    want = many_processes.batches(one, make_mesh(config.Mesh(data=1), jax.devices()[:1]))
    assert len(set(want)) == 3
    assert [facts["batches"] for facts in four[1]] == [want] * 4
    assert [facts["batches"] for facts in two[1]] == [want] * 2


def test_no_process_holds_more_of_a_matrix_than_its_shards_created_or_restored(four):
    assert [facts["shares"] for facts in four[1]] == [[0.5, 0.5]] * 4  # fsdp=2 of four processes: two hold each half


def test_what_processes_say_arrives_as_it_left(four):
    for i, facts in enumerate(four[1]):
        floats, integers, agreed, lengths = facts["words"]
        assert floats == [[1 / 3 + k, float(2**60 + k), np.pi] for k in range(4)], i
        assert integers == [2**60 + k for k in range(4)]
        assert agreed == {"step": 0, "text": "x"} and lengths == [0, 1, 2, 3]
