"""One table decides where every array lives, and living there changes no number."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from kaiyuan_jax import config
from kaiyuan_jax.kernels.placement import ANYWHERE
from kaiyuan_jax.models import decoder
from kaiyuan_jax.models.loss import token_losses
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh

MODEL = config.Model(layers=2, width=32, feedforward=64, heads=4, kv_heads=2, head_size=8, vocabulary=64, init_std=0.2)
MESHES = [(2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 2, 4), (1, 2, 2, 2), (2, 1, 1, 4)]  # the last two cut rows over context
B, L = 8, 16


def mesh_of(data, fsdp, tensor, context=1):
    return make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor, context=context))


def initialise(key):
    return decoder.split(decoder.build(MODEL, config.Precision(), key))[1]


def batch():
    inputs, targets = np.asarray(jax.random.randint(jax.random.key(1), (2, B, L), 0, MODEL.vocabulary))
    segments = np.broadcast_to(np.repeat([1, 2], L // 2), (B, L)).astype(np.int32)
    positions = np.broadcast_to(np.tile(np.arange(L // 2), 2), (B, L)).astype(np.int32)
    return dict(inputs_BL=inputs, targets_BL=targets, segments_BL=segments, positions_BL=positions)


def step(place, params, batch):
    graphdef, _ = decoder.abstract(MODEL, config.Precision())

    def objective(params):
        loss, logsumexp = token_losses(decoder.merge(graphdef, params), batch, place)
        return loss.mean() + 1e-2 * jnp.square(logsumexp).mean(), loss

    (_, loss), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    return loss, gradients


@functools.cache
def unsharded():
    params = jax.jit(initialise)(jax.random.key(0))
    return jax.device_get((params, jax.jit(functools.partial(step, ANYWHERE))(params, batch())))


@pytest.mark.parametrize("axes", MESHES)
def test_sharded_losses_and_gradients_equal_unsharded_ones(axes):
    mesh = mesh_of(*axes)
    _, abstract = decoder.abstract(MODEL, config.Precision())
    places = rules.shardings(abstract, mesh)
    params = jax.jit(initialise, out_shardings=places)(jax.random.key(0))
    sharded_batch = jax.device_put(batch(), rules.batch_sharding(mesh, 2))
    outputs = (rules.batch_sharding(mesh, 2), places)
    loss, gradients = jax.jit(functools.partial(step, rules.placement(mesh)), out_shardings=outputs)(params, sharded_batch)

    want_params, (want_loss, want_gradients) = unsharded()
    assert jax.tree.map(lambda leaf: leaf.sharding, gradients) == places == jax.tree.map(lambda leaf: leaf.sharding, params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), jax.device_get(params), want_params)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    for (path, got), (_, want) in zip(*map(jax.tree_util.tree_leaves_with_path, (gradients, want_gradients)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max(), err_msg=jax.tree_util.keystr(path))


def test_no_device_ever_holds_the_whole_model_while_it_is_created():
    mesh = mesh_of(1, 8, 1)
    model = config.Model(layers=2, width=256, feedforward=512, heads=4, kv_heads=2, head_size=32, vocabulary=4096)
    _, abstract = decoder.abstract(model, config.Precision())
    create = jax.jit(
        lambda key: decoder.split(decoder.build(model, config.Precision(), key))[1], out_shardings=rules.shardings(abstract, mesh)
    )
    memory = create.lower(jax.random.key(0)).compile().memory_analysis()
    whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    assert memory.output_size_in_bytes < whole / 7
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < whole / 2


def test_activations_between_layers_are_cut_over_the_batch_alone():
    mesh = mesh_of(2, 2, 2)
    x = jax.jit(lambda x: rules.placement(mesh).constrain(x, "BLD"))(jnp.zeros((B, L, 32)))
    heads = jax.jit(lambda x: rules.placement(mesh).constrain(x, "BLHC"))(jnp.zeros((B, L, 4, 8)))
    assert x.sharding.shard_shape(x.shape) == (2, L, 32) and heads.sharding.shard_shape(heads.shape) == (2, L, 2, 8)


@pytest.mark.parametrize(
    ("name", "shape", "want"),
    [
        ("embedding_VD", (64, 32), P("tensor", "fsdp")),
        ("query_NDHC", (2, 32, 4, 8), P(None, "fsdp", "tensor", None)),
        ("out_NHCD", (2, 4, 8, 32), P(None, "tensor", None, "fsdp")),
        ("key_NDKC", (2, 32, 2, 8), P(None, "fsdp", None, None)),  # 2 heads on tensor=4: whole
        ("post_norm_ND", (2, 32), P(None, None)),  # gains are whole
        ("norm_D", (32,), P(None)),
    ],
)
def test_a_name_says_where_its_parameter_lives(name, shape, want):
    assert rules.spec(name, shape, mesh_of(1, 2, 4)) == want


@pytest.mark.parametrize("name", ["query", "query_DH", "query_XYZ", "NDHC"])
def test_a_name_that_does_not_say_its_dimensions_is_refused(name):
    with pytest.raises(ValueError, match=f"parameter {name}: found shape"):
        rules.spec(name, (2, 32, 4), mesh_of(1, 8, 1))


def test_optimizer_states_live_where_their_parameters_do():
    mesh = mesh_of(2, 2, 2)
    _, params = decoder.abstract(MODEL, config.Precision())
    state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-3))).init, params)
    places = rules.shardings(dict(params=params, optimizer=state, step=jax.ShapeDtypeStruct((), jnp.int32)), mesh)
    adam = places["optimizer"][1][0]
    assert adam.mu == adam.nu == places["params"]
    assert adam.count.spec == places["step"].spec == P()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MESHES), st.integers(1, 6))
def test_rows_of_all_processes_together_are_the_batch_each_once(axes, multiple):
    mesh = mesh_of(*axes)
    size = multiple * axes[0] * axes[1]
    np.testing.assert_array_equal(rules.process_rows(mesh, size), np.arange(size))
    for processes in (2, 4, 8):  # simulated: consecutive devices share a host
        hosts = np.split(mesh.devices.ravel(), processes)
        held = [rules.process_rows(mesh, size, host) for host in hosts]
        assert set(np.concatenate(held)) == set(range(size))
        for rows, host in zip(held, hosts, strict=True):
            assert rows.dtype == np.int64 and np.all(np.diff(rows) > 0)
            global_array = jax.device_put(np.arange(size), rules.batch_sharding(mesh, 1))
            on_host = [shard.data for shard in global_array.addressable_shards if shard.device in set(host)]
            assert set(rows) == set(np.concatenate(on_host))


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size: found 6, must be a multiple of 4"):
        rules.process_rows(mesh_of(2, 2, 2), 6)


def test_the_printed_table_says_what_was_dropped():
    _, params = decoder.abstract(MODEL, config.Precision())
    table = rules.describe(params, mesh_of(1, 2, 4))
    assert len(table.splitlines()) == len(jax.tree.leaves(params))
    (line,) = (line for line in table.splitlines() if "key_NDKC" in line)
    assert "2x32x2x8" in line and "K=2 is whole: tensor=4 does not divide it" in line
    assert str(rules.DEFAULT).splitlines()[1:4] == ["N       -           -", "B       -           data+fsdp", "L       -           context"]


def collectives(compiled):
    """(kind, shape, inside a loop) of everything that the devices exchange."""
    pattern = r"= \(?(\w+\[[\d,]*\]).*? (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(.*"
    return [(match[2], match[1], "while/body" in match[0]) for match in re.finditer(pattern, compiled.as_text())]


@pytest.mark.parametrize("axes", [(1, 8, 1), (2, 2, 2)])
def test_the_embedding_table_stays_where_it_is(axes):
    mesh, vocabulary, width = mesh_of(*axes), 4096, 32
    place = rules.shardings({"embedding_VD": np.zeros((vocabulary, width))}, mesh)["embedding_VD"]

    model = dataclasses.replace(MODEL, vocabulary=vocabulary, layers=1)
    graphdef, params = decoder.abstract(model, config.Precision())
    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), params, rules.shardings(params, mesh)
    )
    tokens = jax.ShapeDtypeStruct((16, 512), jnp.int32, sharding=rules.batch_sharding(mesh, 2))
    forward = jax.jit(lambda params, tokens: decoder.merge(graphdef, params)(tokens, tokens, tokens, rules.placement(mesh)))
    local = place.shard_shape((vocabulary, width))
    found = [shape for kind, shape, _ in collectives(forward.lower(params, tokens).compile()) if kind == "all-gather"]
    assert not [shape for shape in found if shape.startswith((f"f32[{vocabulary},", f"f32[{local[0]},"))], found
