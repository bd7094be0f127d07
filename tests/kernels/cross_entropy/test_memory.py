"""Temporaries at 8,192 tokens x 2048 x 151,936, and programs for accelerators that are not here."""

import jax
import jax.numpy as jnp
import pytest

from kaiyuan_jax.kernels.cross_entropy import api
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import topology

B, L, D, V = 2, 4096, 2048, 151_936
LIMIT = 0.6 * 2**30


def step(form: str, place: Placement):
    def scalar(x, head, targets, weights):
        if form == "objective":
            return api.weighted_objective(x, head, targets, weights, z_loss=1e-4, softcap=30.0, place=place)[0]
        loss, logsumexp = api.linear_cross_entropy(x, head, targets, softcap=30.0, place=place)
        return jnp.sum(weights * (loss + 1e-4 * jnp.square(logsumexp)))

    return jax.jit(jax.value_and_grad(scalar, (0, 1)))


def shapes(head: str, compute: str, sharding=None, sizes=(B, L, D, V)):
    B, L, D, V = sizes
    kinds = (((B, L, D), compute), ((D, V), head), ((B, L), "int32"), ((B, L), "float32"))
    return [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding) for shape, dtype in kinds]


def temporaries(target, form: str, head: str, compute: str) -> int:
    """Bytes, in a process that has the target's compiler."""
    device = topology.devices(target)[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    place = Placement(device.device_kind)
    return step(form, place).trace(*shapes(head, compute, sharding)).lower().compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("form", ["objective", "losses"])
@pytest.mark.parametrize("head", ["float32", "bfloat16"])
def test_temporaries_on_a_cpu_are_within_the_limit(form, head):
    compiled = step(form, Placement("cpu")).lower(*shapes(head, "bfloat16")).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < LIMIT


@pytest.mark.kernels
@pytest.mark.parametrize("form", ["objective", "losses"])
@pytest.mark.parametrize("head", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["v5e:1x1", "v5p:2x2x1", "v6e:1x1", "hopper:1"])
def test_temporaries_on_accelerators_are_within_the_limit(name, head, form):
    target = topology.target(name)
    if why := topology.missing(target):
        pytest.skip(why)
    found = topology.call(target, f"{__file__}:temporaries", dict(form=form, head=head, compute="bfloat16"))
    assert found < LIMIT, f"{found / 2**30:.2f} GiB"


@pytest.mark.parametrize("form", ["objective", "losses"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["v5e:1x1", "hopper:1"])
def test_the_op_can_be_written_down_for_accelerators(name, compute, form):
    target = topology.target(name)
    with jax.sharding.use_abstract_mesh(topology.abstract_mesh(target)):
        traced = step(form, Placement(target.device_kind)).trace(*shapes("float32", compute, sizes=(2, 4096, 128, 20_000)))
    text = traced.lower(lowering_platforms=topology.lowering_platforms(target)).as_text()
    kind = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[compute]
    assert f"tensor<2x4096x128x{kind}>" in text and "tensor<128x20000xf32>" in text
    assert "8192x20000x" not in text and "4096x20000x" not in text
