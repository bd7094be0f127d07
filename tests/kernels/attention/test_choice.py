"""Which implementation of attention runs where, what is said of it, and that a mesh changes nothing but where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from kaiyuan_jax import config, config_check
from kaiyuan_jax.kernels.attention import api, pallas_tpu, reference, xla
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import mesh, rules
from tests.kernels.attention.cases import assert_equal, tensors, value_and_gradients

Q, K = (2, 256, 16, 128), (2, 256, 8, 128)
BF16 = jnp.dtype("bfloat16")


def chosen(device_kind, wanted="", dtype=BF16, segments=True, softcap=0.0, window=0):
    return api.choose(Placement(device_kind).platform, wanted, Q, K, dtype, segments, softcap, window, device_kind)


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_tpu_takes_splash_in_every_dtype(kind, dtype):
    assert chosen(kind, dtype=jnp.dtype(dtype), softcap=30.0, window=64) == "pallas_tpu"


def test_other_devices_take_what_runs_on_them():
    assert chosen("NVIDIA H200") == chosen("NVIDIA H100 80GB HBM3", window=64, softcap=5.0) == "pallas_gpu"
    assert chosen("NVIDIA H200", dtype=jnp.dtype("float32")) == "xla"
    assert chosen("NVIDIA A100-SXM4-80GB") == chosen("TPU v3") == chosen("cpu") == chosen("") == "xla"


@pytest.mark.parametrize("implementation", [None, "xla", "reference"])
def test_every_portable_implementation_is_reached_by_its_name(implementation):
    q, k, v, segments = tensors(1, 1, 9, 4, 2, 8)
    got = jax.jit(lambda *x: api.attention(*x, segments_BL=segments, implementation=implementation))(q, k, v)
    want = jax.jit(lambda *x: reference.attention(*x, segments_BL=segments))(q, k, v)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_placement_names_an_implementation_for_the_whole_model():
    q, k, v, _ = tensors(1, 1, 9, 4, 2, 8)
    with pytest.raises(config.UserError, match="found 'pallas_tpu', which cannot run"):
        api.attention(q, k, v, place=Placement("cpu", attention="pallas_tpu"))


@pytest.mark.parametrize(
    "kind, name, reason",
    [
        ("cpu", "pallas_tpu", r"found device kind 'cpu', must be a TPU\); leave it empty or take one of xla, reference"),
        ("TPU v5 lite", "pallas_gpu", r"found device kind 'TPU v5 lite'.*take one of pallas_tpu, xla, reference"),
        ("NVIDIA A100", "pallas_gpu", "compute capability 9.0"),
        ("NVIDIA H200", "cudnn", "found documents, must be plain causal.*take one of pallas_gpu, xla, reference"),
        ("cpu", "splash", "no implementation has that name"),
    ],
)
def test_a_named_implementation_that_cannot_run_is_refused_with_the_reason_and_what_can(kind, name, reason):
    with pytest.raises(ValueError, match=f"config.kernels.attention: found '{name}', which cannot run.*{reason}"):
        chosen(kind, name)


def test_every_name_is_known_to_the_config_check_and_every_order_ends_in_what_always_runs():
    assert {name for order in api.ORDER.values() for name in order} | {"reference"} == set(config_check.ATTENTION)
    assert all(order[-1] == "xla" for order in api.ORDER.values())
    experiment = config.Experiment()
    experiment.kernels.attention = "flash"
    with pytest.raises(config.ConfigError, match="config.kernels.attention: found 'flash', must be one of pallas_tpu, cudnn"):
        config_check.check(experiment)


def test_the_choice_is_logged_once_a_case_with_what_was_refused(caplog):
    api._log_once.cache_clear()
    q, k, v, segments = tensors(1, 1, 9, 4, 2, 8)
    with caplog.at_level("INFO", logger="absl"):
        for given in (None, None, segments):
            jax.eval_shape(lambda *x, given=given: api.attention(*x, segments_BL=given), q, k, v)
        for _ in range(2):
            chosen("NVIDIA H200")
    first, second = [record.getMessage() for record in caplog.records]
    assert first == "attention: xla on a device of unknown kind"
    assert second.startswith("attention: pallas_gpu on NVIDIA H200 (cudnn: found documents")


@settings(max_examples=2, deadline=None)
@given(st.sampled_from([(2, 1, 4), (1, 4, 2), (1, 1, 8)]), st.sampled_from([(8, 2), (8, 1), (6, 3), (8, 8)]), st.booleans())
def test_a_mesh_changes_neither_value_nor_gradients(axes, heads, masked):
    axes = config.Mesh(**dict(zip(("data", "fsdp", "tensor"), axes, strict=True)))
    place = rules.placement(mesh.make_mesh(axes))
    q, k, v, segments = tensors(5, 4, 12, *heads, 8)
    segments = segments if masked else None
    got = value_and_gradients(lambda *x: api.attention(*x, segments_BL=segments, place=place), q, k, v)
    want = value_and_gradients(lambda *x: reference.attention(*x, segments_BL=segments), q, k, v)
    assert_equal(got, want, "float32")


def test_devices_hold_their_own_heads_and_exchange_nothing_when_tensor_does_not_divide_the_key_heads():
    place = rules.placement(mesh.make_mesh(config.Mesh(data=2, fsdp=1, tensor=4)))
    q, k, v, segments = tensors(5, 4, 12, 8, 2, 8)
    arrays = [
        jax.device_put(x, NamedSharding(place.mesh, place.spec(dims, x.shape)))
        for x, dims in zip((q, k, v, segments), ("BLHC", "BLKC", "BLKC", "BL"), strict=True)
    ]
    compiled = jax.jit(lambda q, k, v, s: api.attention(q, k, v, segments_BL=s, place=place)).lower(*arrays).compile()
    assert not any(word in compiled.as_text() for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))
    assert compiled(*arrays).sharding.shard_shape(q.shape) == (2, 12, 2, 8)


@pytest.mark.parametrize(
    "attend, beside",
    [
        (xla.attention, ["f32[1,2,40,2]"]),  # the log-sum-exp, [B, K, L, G]
        (functools.partial(pallas_tpu.attention, device_kind="TPU v4"), ["f32[1,4,128]"]),  # [B, H, L], padded
        (reference.attention, []),
    ],
    ids=["xla", "pallas_tpu", "reference"],
)
def test_keeping_attention_out_keeps_the_output_once_and_what_spares_a_second_forward_pass(attend, beside, capsys):
    q, k, v, _ = tensors(1, 1, 40, 4, 2, 8)

    def branch(q, k, v, weight):
        return jnp.sum(jnp.einsum("BLHC,HCD->BLD", attend(2 * q, 2 * k, 2 * v), weight) ** 2)

    policy = jax.checkpoint_policies.save_only_these_names("attention_out")
    jax.ad_checkpoint.print_saved_residuals(jax.checkpoint(branch, policy=policy), q, k, v, jnp.ones((4, 8, 16)))
    kept = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "argument" not in line and "constant" not in line]
    assert len(kept) == 1 + len(beside) and set(beside) <= set(kept)
