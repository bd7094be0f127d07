"""On meshes of eight devices the op gives the numbers of one device, and exchanges only what it must."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.kernels.cross_entropy import api
from kaiyuan_jax.kernels.placement import ANYWHERE
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh

B, L, D, V = 8, 12, 16, 1024
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4)]


def place_of(axes):
    return rules.placement(make_mesh(config.Mesh(**dict(zip(("data", "fsdp", "tensor"), axes, strict=True)))))


def objective(x, head, targets, weights, place):
    value, *measured = api.weighted_objective(x, head, targets, weights, z_loss=0.1, softcap=5.0, scale=2.0, place=place)
    return value, measured


def losses(x, head, targets, weights, place):
    loss, logsumexp = api.linear_cross_entropy(x, head, targets, softcap=5.0, place=place)
    return jnp.sum(weights * loss - jnp.cos(weights) * logsumexp), [loss, logsumexp]


def values_and_gradients(form, place, arrays):
    return jax.jit(jax.value_and_grad(form, (0, 1), has_aux=True), static_argnums=4)(*arrays, place)


def arrays(B=B, V=V):
    keys = jax.random.split(jax.random.key(0), 4)
    head = jax.random.normal(keys[1], (D, V))
    return jax.random.normal(keys[0], (B, L, D)), head, jax.random.randint(keys[2], (B, L), -99, V), jax.random.uniform(keys[3], (B, L))


@pytest.mark.parametrize("form", [objective, losses])
@pytest.mark.parametrize("axes, rows, vocabulary", [*((axes, B, V) for axes in MESHES), ((2, 2, 2), 8, 301), ((2, 2, 2), 3, 1024)])
def test_sharded_equals_unsharded_also_where_nothing_divides(form, axes, rows, vocabulary):
    given = arrays(rows, vocabulary)
    got, want = values_and_gradients(form, place_of(axes), given), values_and_gradients(form, ANYWHERE, given)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(b).max())


def compiled(form, axes, length=256):
    """The program for x in bfloat16 and a float32 head, cut as in training."""
    place = place_of(axes)

    def shaped(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    head = shaped((D, V), jnp.float32, rules.shardings({"head_DV": np.zeros((D, V))}, place.mesh)["head_DV"])
    rows = [((B, length, D), jnp.bfloat16), ((B, length), jnp.int32), ((B, length), jnp.float32)]
    x, targets, weights = (shaped(shape, dtype, rules.batch_sharding(place.mesh, len(shape))) for shape, dtype in rows)
    cuts = (rules.batch_sharding(place.mesh, 3), head.sharding)
    step = jax.jit(jax.grad(form, (0, 1), has_aux=True), static_argnums=4, out_shardings=(cuts, None))
    return step.lower(x, head, targets, weights, place).compile().as_text()


def exchanged(text):
    """(kind, shape, inside a loop) of everything that the devices exchange."""
    pattern = r"= \(?(\w+\[[\d,]*\]).*? (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(.*"
    return [(match[2], match[1], "while/body" in match[0]) for match in re.finditer(pattern, text)]


@pytest.mark.parametrize("form", [objective, losses])
@pytest.mark.parametrize("axes", MESHES)
def test_the_head_and_its_gradient_cross_devices_once_and_only_sums_of_tokens_cross_in_a_loop(form, axes):
    data, fsdp, tensor = axes
    found = exchanged(compiled(form, axes))
    tokens = B * 256 // (data * fsdp)
    looped = [(kind, shape) for kind, shape, inside in found if inside]
    assert looped in ([], [("all-gather", f"f32[{tensor},3,{min(tokens, 512)}]")])
    assert bool(looped) == (form is objective and tensor > 1)
    wide = [(kind, shape) for kind, shape, _ in found if re.search(rf"\[\d+,({V}|{V // tensor})\]", shape)]
    gathers = [shape for kind, shape in wide if kind == "all-gather"]
    sums = [kind for kind, shape in wide if kind in ("reduce-scatter", "all-reduce")]
    passes = 1 if form is objective else 2  # losses gather the head again for their gradient
    assert len(gathers) == passes * (fsdp > 1) and len(sums) == (fsdp > 1) + (data > 1), wide
    assert set(gathers) <= {f"bf16[{D},{V // tensor}]", f"f32[{D},{V // tensor}]"}  # XLA on CPUs has float32 collectives only
    assert (fsdp > 1) <= ("reduce-scatter" in sums), wide


@pytest.mark.parametrize("form", [objective, losses])
def test_a_device_that_has_some_columns_never_holds_a_whole_vocabulary(form):
    whole = rf"\[(\d+,)*{V}(,\d+)*\]"
    assert not re.search(whole, compiled(form, (1, 1, 8)))
    assert re.search(whole, compiled(form, (1, 8, 1)))  # one is found where the head is gathered
