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
STEPS = 8
FIELDS = dict(model__layers=1, checkpoint__every=4, logging__every=1, data__mask_documents=True)


def meshed(experiment, folder, **axes):
    made = copy.deepcopy(experiment)
    made.output, made.mesh = str(folder), config.Mesh(**axes)
    made.data.phases[0].tokens = STEPS * made.data.batch_size * made.data.sequence_length
    return made


@pytest.fixture(scope="module")
def base(tiny_in, tmp_path_factory):
    return tiny_in(tmp_path_factory.mktemp("base"), **FIELDS)


@pytest.fixture(scope="module")
def single(base, tmp_path_factory):
    """The run of one process on one device."""
    made = meshed(base, tmp_path_factory.mktemp("single") / "run", data=1)
    loop.train(made, jax.devices()[:1])
    return made


@pytest.fixture(scope="module")
def four(base, tmp_path_factory):
    """(experiment, what each of four processes with one device saw), rows cut over two and parameters over two."""
    made = meshed(base, tmp_path_factory.mktemp("four") / "run", data=2, fsdp=2)
    return made, [facts for (facts,) in processes.call(PLACE, "train", 4, 1, config.to_json(made))]


@pytest.fixture(scope="module")
def two(base, four, tmp_path_factory):
    """What two processes with two devices saw: positions of every row cut over the processes; then the run of `four` from its step 4."""
    folder = tmp_path_factory.mktemp("two")
    cut = meshed(base, folder / "cut", data=1, context=2, tensor=2)
    resumed = meshed(base, folder / "resumed", data=1, context=2, tensor=2)
    shutil.copytree(four[0].output, resumed.output)
    shutil.rmtree(folder / "resumed" / "checkpoints" / str(STEPS))
    return (cut, resumed), processes.call(PLACE, "train", 2, 2, config.to_json(cut), config.to_json(resumed))


def assert_equal_to_rounding(got, want, lines, parameters):
    for one, other in zip(lines(got), lines(want), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key] == (pytest.approx(other[key], rel=1e-4) if isinstance(one[key], float) else other[key]), (key, one["step"])
    for a, b in zip(*(jax.tree.leaves(parameters(run, STEPS)) for run in (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_four_processes_train_as_one_does(four, single, lines, parameters):
    assert [facts["step"] for facts in four[1]] == [STEPS] * 4
    assert_equal_to_rounding(four[0], single, lines, parameters)


def test_rows_cut_over_processes_and_heads_over_devices_train_as_one_device_does(two, single, lines, parameters):
    assert_equal_to_rounding(two[0][0], single, lines, parameters)


def test_a_checkpoint_of_four_processes_goes_on_in_two_on_another_mesh_and_in_one(four, two, single, lines, parameters, tmp_path):
    assert_equal_to_rounding(two[0][1], single, lines, parameters)
    alone = meshed(four[0], tmp_path / "alone", data=1)
    shutil.copytree(four[0].output, alone.output)
    shutil.rmtree(tmp_path / "alone" / "checkpoints" / str(STEPS))
    loop.train(alone, jax.devices()[:1])
    assert_equal_to_rounding(alone, single, lines, parameters)


def test_global_batches_are_the_same_bits_for_one_two_and_four_processes(four, two, single):
    want = many_processes.batches(single, make_mesh(single.mesh, jax.devices()[:1]))
    assert len(set(want)) == 3
    assert [facts["batches"] for facts in four[1]] == [want] * 4
    assert [facts["batches"] for both in two[1] for facts in both] == [want] * 4


def test_no_process_holds_more_of_a_matrix_than_its_shards(four, two):
    assert [facts["largest_share"] for facts in four[1]] == [0.5] * 4  # fsdp=2 of four processes: two hold each half
    assert all(facts["largest_share"] == 1 for both in two[1] for facts in both)  # tensor=2 lies inside a process


def test_what_processes_say_arrives_as_it_left(four):
    for i, facts in enumerate(four[1]):
        floats, integers, agreed, lengths = facts["words"]
        assert floats == [[1 / 3 + k, float(2**60 + k), np.pi] for k in range(4)], i
        assert integers == [2**60 + k for k in range(4)]
        assert agreed == {"step": 0, "text": "x"} and lengths == [0, 1, 2, 3]
