"""What a device needs: exact where shapes decide, on the safe side of every step that was compiled where a compiler does."""

import math

import jax
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.plan import accuracy, ahead_of_time, compiled, memory, setting
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import state, step

SHAPE = dict(layers=3, width=64, feedforward=96, heads=4, kv_heads=2, head_size=16, vocabulary=250)
MESHES = ({"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"data": 2, "tensor": 4}, {"context": 2, "fsdp": 4})


def experiment(mesh, **model):
    sizes = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1} | mesh
    data = config.Data(batch_size=8, sequence_length=32)
    return config.Experiment(
        model=config.Model(**SHAPE | model), mesh=config.Mesh(**sizes), precision=config.Precision(compute="bfloat16"), data=data
    )


def of(tree):
    return setting.Setting(**{axis: getattr(tree.mesh, axis) for axis in setting.AXES}, accumulation=tree.optimizer.accumulation,
                           remat=tree.model.remat, names=tuple(tree.model.remat_names) if tree.model.remat == "names" else ())  # fmt: skip


@pytest.mark.parametrize("changed", [{}, {"tied": True}, {"qk_norm": False}, {"sandwich_norm": False}])
def test_the_shapes_are_those_of_the_model(changed):
    model = config.Model(**SHAPE | changed)
    _, params = decoder.abstract(model, config.Precision())
    leaves = jax.tree_util.tree_leaves_with_path(params)
    wanted = sorted((path[-1].key.rpartition("_")[2], leaf.shape) for path, leaf in leaves)
    assert sorted((name.rpartition("_")[2], shape) for name, shape in memory.leaves(model).items()) == wanted


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_state_of_a_device_is_what_training_puts_there(mesh):
    tree = experiment(mesh)
    tree.averaging.online_decay = 0.99
    held = state.abstract(tree, adamw.build(tree.optimizer, lambda count: 1e-3), make_mesh(tree.mesh))
    found = memory.estimate(tree, of(tree), "tpu")
    for name, part in (("parameters", held.params), ("optimizer", held.opt_state), ("average", held.average)):
        assert found[name] == pytest.approx(ahead_of_time._bytes(part), abs=64), name  # counts of updates


@pytest.mark.parametrize("remat, names", [("full", ()), ("names", setting.PRODUCTS), ("names", setting.BRANCHES), ("names", ("gate",))])
def test_saved_activations_are_those_of_the_traced_step(remat, names):
    tree = experiment({"fsdp": 8}, remat=remat, remat_names=names)
    mesh = make_mesh(tree.mesh)
    abstract = state.abstract(tree, adamw.build(tree.optimizer, lambda count: 1e-3), mesh)
    graphdef, _ = decoder.abstract(tree.model, tree.precision)
    traced = step.build(tree, graphdef, mesh, abstract).trace(abstract, *step.abstract_inputs(tree, mesh, 4))
    saved = ahead_of_time._saved(traced.jaxpr, tree.model.layers) / 8
    lse = tree.model.layers * 32 * 4 * tree.model.heads * ("attention_out" in names)  # which kernels for accelerators keep
    assert memory.estimate(tree, of(tree), "tpu")["saved activations"] - saved in (0, lse)


def test_micro_batches_save_activations_and_cost_a_second_gradient():
    tree = experiment({"fsdp": 2})
    whole, cut = (memory.estimate(tree, setting.Setting(1, 2, 1, 1, parts, "full"), "tpu") for parts in (1, 4))
    assert cut["saved activations"] == whole["saved activations"] / 4
    assert cut["gradients of micro-batches"] == cut["gradients"] and not whole["gradients of micro-batches"]


@pytest.mark.parametrize("result", compiled.known(), ids=lambda result: accuracy.compare(result).name)
def test_estimates_hold_against_every_step_that_was_compiled(result):
    found = accuracy.compare(result)
    assert -0.03 < found.error < memory.MARGIN
    assert found.flops == pytest.approx(found.flops_compiled, rel=0.02)
    assert 0.9 < found.received_compiled / found.received < 2.1  # TPUs write gathers as all-reduces, which count twice


def test_cutting_the_vocabulary_and_layers_over_tensor_never_costs_state():
    tree = experiment({})
    sizes = [memory.parameters(tree, setting.Setting(1, 8 // t, 1, t, 1, "full")) for t in (1, 2)]
    assert sizes[1] <= sizes[0] and math.isfinite(sizes[0])


def test_the_table_of_all_compiled_steps_has_a_row_for_each():
    (table,) = accuracy.section().parts
    assert len(table.rows) == len(compiled.known()) >= 14
