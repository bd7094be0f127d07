"""The search over meshes, micro-batches and recomputation, and the arithmetic of speed it ranks by."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config as c
from kaiyuan_jax.plan import compiled, memory, search, setting, speed
from kaiyuan_jax.sharding import topology

MODEL = c.Model(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936, remat="full")


def experiment(rows=2048, length=4096, **mesh):
    return c.Experiment(
        model=dataclasses.replace(MODEL),
        data=c.Data(batch_size=rows, sequence_length=length),
        precision=c.Precision(compute="bfloat16"),
        mesh=c.Mesh(**{"data": 1, "fsdp": -1} | mesh),
    )


TARGETS = ("v5e:4x4", "v5p:2x2x2", "v5p:4x4x4", "v6e:8x8", "tpu7x:2x2x1", "hopper:8", "hopper:64")


@pytest.mark.parametrize("name", TARGETS)
def test_the_fastest_that_fits_uses_every_device_fits_and_beats_all_that_fit(name):
    tree, target = experiment(), topology.target(name)
    best = search.best(tree, target)
    assert best.fits and best.setting.devices == setting.devices(target) and best.setting.fits_batch(tree)
    for one in setting.all_of(tree, target):
        if one.fits_batch(tree) and one.accumulation >= best.setting.accumulation:
            other = search.look(tree, target, one)
            assert not other.fits or other.speed.serial > 0.99 * best.speed.serial


@given(st.sampled_from(TARGETS), st.sampled_from((8, 64, 2048, 96)), st.sampled_from((1024, 4096)))
@settings(deadline=None, max_examples=20)
def test_a_setting_that_is_looked_at_is_on_all_devices_and_leaves_the_config_as_it_was(name, rows, length):
    tree, target = experiment(rows, length), topology.target(name)
    before = c.to_json(tree)
    for one in setting.all_of(tree, target):
        assert one.devices == setting.devices(target) and one.rows(tree) * one.data * one.fsdp * one.accumulation == rows
    assert c.to_json(tree) == before


def test_nothing_fits_where_one_row_is_too_much_and_the_least_is_named():
    tree, target = experiment(rows=16, length=131_072), topology.target("v5e:4x4")
    least = search.smallest(tree, target)
    assert search.best(tree, target) is None and least.needed > least.available and least.setting.rows(tree) == 1


def test_a_batch_that_cannot_be_cut_over_the_devices_has_no_setting():
    tree, target = experiment(rows=7), topology.target("v5e:16x16")  # tensor takes 16 of its 256
    assert search.best(tree, target) is None and search.smallest(tree, target) is None


def test_the_setting_of_a_config_takes_what_is_left_and_refuses_what_does_not_divide():
    target = topology.target("v5e:4x4")
    assert setting.asked(experiment(tensor=2), target).mesh == {"data": 1, "fsdp": 8, "context": 1, "tensor": 2}
    with pytest.raises(c.ConfigError, match="config.mesh: found data=1, fsdp=3, context=1, tensor=1, v5e:4x4 has 16 devices"):
        setting.asked(experiment(fsdp=3), target)


def test_flags_of_a_setting_make_the_config_ask_for_it():
    tree, target = experiment(), topology.target("v5p:4x4x4")
    before = setting.asked(tree, target)
    after = dataclasses.replace(before, fsdp=32, tensor=2, accumulation=8, remat="names", names=setting.BRANCHES)
    assert setting.asked(setting.applied(tree, after), target) == after
    flags = setting.flags(before, after)
    assert flags[:3] == ["--config.mesh.fsdp=32", "--config.mesh.tensor=2", "--config.optimizer.accumulation=8"]
    assert not setting.flags(before, before) and len(setting.flags(None, after)) == 7


def test_the_band_runs_from_what_waits_for_everything_to_the_bound():
    tree, target = experiment(), topology.target("v5p:4x4x4")
    for one in (setting.asked(tree, target), search.best(tree, target).setting):
        found = speed.estimate(tree, one, target)
        worst, best = found.band
        assert worst < best == pytest.approx(found.line.tokens_per_second * 64)
        assert found.utilisation[0] <= speed.LOW and found.worst >= found.serial
        assert found.line.hfu == pytest.approx(0.7) and found.line.bound == "compute"


def test_recomputing_everything_costs_a_third_forward_pass_over_layers_and_keeping_products_none():
    tree = experiment()
    full, products, none = (
        speed.executed_per_token(tree, setting.Setting(1, 1, 1, 1, 1, *remat))
        for remat in (("full",), ("names", setting.PRODUCTS), ("none",))
    )
    matrices = sum(math.prod(shape) for name, shape in memory.leaves(MODEL).items() if len(name.rpartition("_")[2]) > 2)
    attention = 2 * MODEL.layers * MODEL.heads * MODEL.head_size * 4096
    assert products == none and full - products == pytest.approx(2 * matrices + attention)


def test_every_micro_batch_exchanges_the_weights_again():
    tree = experiment()
    one, four = (speed.collectives(tree, setting.Setting(1, 16, 1, 1, parts, "full")) for parts in (1, 4))
    assert four["fsdp"] == 4 * one["fsdp"] and set(one) == {"fsdp"}


def test_groups_that_leave_a_host_of_gpus_go_over_the_network():
    tree, target = experiment(), topology.target("hopper:64")
    inside, across = setting.Setting(8, 8, 1, 1, 4, "full"), setting.Setting(1, 64, 1, 1, 4, "full")
    assert speed._speed(target, inside, "fsdp") == 450e9 and speed._speed(target, across, "fsdp") == 50e9
    assert speed.estimate(tree, inside, target).line.exchange < speed.estimate(tree, across, target).line.exchange


def test_a_compiled_step_is_found_by_what_decides_its_program_and_by_nothing_else():
    result = next(one for one in compiled.known() if one["key"]["target"] == "v5e:4x4")
    tree = compiled.experiment_of(result["key"])
    target = topology.target("v5e:4x4")
    one = setting.asked(tree, target)
    tree.name, tree.schedule.peak, tree.checkpoint.every = "another", 1e-4, 7
    assert compiled.find(tree, target, one)["memory"] == result["memory"]
    assert compiled.find(tree, target, dataclasses.replace(one, accumulation=2)) is None
    tree.model.window = 1024
    assert compiled.find(tree, target, one) is None
