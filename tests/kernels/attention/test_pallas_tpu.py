"""Splash attention behind our signature: numbers in the interpreters, races, lowering for every TPU generation, tiles."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from kaiyuan_jax import config
from kaiyuan_jax.kernels.attention import api, blocks, pallas_tpu, reference
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import mesh, rules, topology
from tests.kernels.attention.cases import assert_equal, tensors, value_and_gradients
from tests.kernels.attention.compiled import shapes
from tests.kernels.attention.compiled import value_and_gradients as traced

SMALL = blocks.Blocks((128, 128, 128), (128, 128, 128), (128, 128))
# On TPUs float16 is computed in bfloat16, so it is held to bfloat16's tolerance.
HELD_TO = {"float32": "float32", "bfloat16": "bfloat16", "float16": "bfloat16"}


def check(seed, B, L, heads, C, masked, softcap, window, dtype):
    q, k, v, segments = tensors(seed, B, L, *heads, C, dtype)
    options = dict(segments_BL=segments if masked else None, softcap=softcap, window=window)
    got = value_and_gradients(lambda *x: pallas_tpu.attention(*x, blocks=SMALL, interpret=True, **options), q, k, v)
    want = value_and_gradients(lambda *x: reference.attention(*x, **options), q, k, v)
    assert_equal(got, want, HELD_TO[dtype])


def test_two_rows_with_documents_soft_cap_and_padding_equal_the_definition():
    check(0, 2, 200, (4, 2), 16, True, 2.0, 0, "float16")


@pytest.mark.kernels
@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 2), st.sampled_from([7, 128, 200]), st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    st.sampled_from([16, 128, 160]), st.booleans(), st.sampled_from([0.0, 2.0]), st.sampled_from([0, 1, 150]),
    st.sampled_from(["float32", "bfloat16", "float16"]),
)  # fmt: skip
def test_value_and_gradients_equal_the_definition(seed, B, L, heads, C, masked, softcap, window, dtype):
    check(seed, B, L, heads, C, masked, softcap, window, dtype)


def test_the_tpu_simulator_finds_no_race_and_no_read_of_memory_that_was_not_written():
    # One row: JAX 0.12.0's simulator cannot run a batched kernel (it zips the grid with the unbatched dimension semantics).
    q, k, v, segments = tensors(2, 1, 200, 2, 1, 16)
    options = dict(segments_BL=segments, softcap=2.0, window=150)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")):
        got = value_and_gradients(lambda *x: pallas_tpu.attention(*x, blocks=SMALL, **options), q, k, v)
    assert_equal(got, value_and_gradients(lambda *x: reference.attention(*x, **options), q, k, v), "float32")


def test_cut_over_devices_it_equals_the_definition():
    place = rules.placement(mesh.make_mesh(config.Mesh(data=2, fsdp=1, tensor=4)))
    q, k, v, segments = tensors(5, 2, 100, 4, 2, 16)  # four parts of two key heads: each is repeated twice

    def local(q, k, v, segments_BL):
        return pallas_tpu.attention(q, k, v, segments_BL=segments_BL, blocks=SMALL, interpret=True)

    got = value_and_gradients(lambda *x: api.on_each_device(local, *x, segments, place), q, k, v)
    assert_equal(got, value_and_gradients(lambda *x: reference.attention(*x, segments_BL=segments), q, k, v), "float32")


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("v4:2x2x1", "bfloat16"), ("v5e:1x1", "bfloat16"), ("v5e:1x1", "float32"), ("v5e:1x1", "float16"), ("v5p:2x2x1", "float16"),
        ("v6e:1x1", "bfloat16"), ("tpu7x:2x2x1", "bfloat16"),
    ],
)  # fmt: skip
def test_it_lowers_for_every_generation_forward_and_backward(target, dtype):
    target = topology.target(target)
    with jax.sharding.use_abstract_mesh(topology.abstract_mesh(target)):
        run = traced(Placement(target.device_kind), segments=True, softcap=30.0, window=0)
        lowered = jax.jit(run).trace(*shapes(2, 1000, 4, 2, 64, dtype)).lower(lowering_platforms=("tpu",))
    assert all(f"splash_mha_{kernel}" in lowered.as_text() for kernel in ("fwd", "dq", "dkv"))


@given(
    st.integers(1, 40_000), st.sampled_from([8, 64, 128, 256]), st.sampled_from([2, 4]), st.integers(0, 5000),
    st.sampled_from(["TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x", "TPU v99"]),
)  # fmt: skip
def test_tiles_divide_the_padded_row_which_is_at_most_a_sixteenth_longer_than_it_must_be(L, C, itemsize, window, kind):
    chosen = blocks.choose(L, C, itemsize, window, kind)
    length, shortest = chosen.padded(L), -(-L // 128) * 128
    sizes = (*chosen.forward, *chosen.backward_kv, *chosen.backward_q)
    assert all(length % size == 0 and size % 128 == 0 for size in sizes)
    assert L <= length <= shortest * 17 // 16
    assert not window or max(sizes) < max(256, 2 * window)


def test_the_2b_model_takes_the_tables_tiles():
    assert blocks.choose(4096, 128, 2, 0, "TPU v5 lite") == blocks.MEDIUM
    assert blocks.choose(4096, 128, 2, 0, "TPU v6 lite") == blocks.WIDE


def test_other_dtypes_and_older_tpus_are_refused_with_the_reason():
    case = ((1, 8, 4, 8), (1, 8, 2, 8))
    assert "found dtype float64" in pallas_tpu.supports(*case, jnp.dtype("float64"), True, 0.0, 0, "TPU v4")
    assert "must be a TPU from v4 on" in pallas_tpu.supports(*case, jnp.dtype("bfloat16"), True, 0.0, 0, "TPU v3")
