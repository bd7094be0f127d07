"""QK-norm + RoPE by the TPU kernel against the formulas: values and gradients, what it lowers to, and what it refuses."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from kaiyuan_jax.kernels.head_norm import api, pallas_tpu, xla
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models.layers import rope_angles

C, EPSILON = 128, 1e-6


def inputs(T, H, dtype, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    x, dy = (jax.random.normal(key, (T, H, C)).astype(dtype) for key in keys[:2])
    gain = 1 + 0.2 * jax.random.normal(keys[2], (C,))
    angles = rope_angles(jax.random.randint(keys[3], (1, T), 0, 5000), C, 1e4)
    return x, gain, angles, dy


def by_formulas(x, gain, angles):
    return xla.head_norm(x[None], gain, angles, EPSILON)[0]


def by_kernel(x, gain, angles, interpret=True):
    return pallas_tpu.head_norm(x, gain, jnp.concatenate(angles, -1)[0, :, 0], EPSILON, interpret)


@functools.partial(jax.jit, static_argnums=0)
def both(function, x, gain, angles, dy):
    y, back = jax.vjp(lambda x, gain: function(x, gain, angles), x, gain)
    return y, *back(dy)


CASES = dict(blocks=st.integers(1, 3), H=st.sampled_from([8, 16]), dtype=st.sampled_from(["float32", "bfloat16"]), seed=st.integers(0, 99))


@hypothesis.settings(max_examples=4, deadline=None)
@hypothesis.given(**CASES)
def test_value_and_gradients_are_those_of_the_formulas(monkeypatch_block, blocks, H, dtype, seed):
    x, gain, angles, dy = inputs(8 * blocks, H, dtype, seed)
    exact = both(by_formulas, x.astype(jnp.float32), gain, angles, dy.astype(jnp.float32))
    for found, wanted in zip(both(by_kernel, x, gain, angles, dy), exact, strict=True):
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=0.02, atol=(1e-5 if dtype == "float32" else 0.04) * 4)


@pytest.fixture(scope="module")
def monkeypatch_block():
    """Blocks of 8 tokens, so that few tokens make several."""
    before, pallas_tpu.BLOCK = pallas_tpu.BLOCK, 8 * 8 * C
    yield
    pallas_tpu.BLOCK = before


def test_no_block_reads_what_another_writes_or_beyond_its_array(monkeypatch_block):
    x, gain, angles, dy = inputs(16, 8, "float32")
    careful = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="raise", uninitialized_memory="nan")
    found = both(functools.partial(by_kernel, interpret=careful), x, gain, angles, dy)
    for one, other in zip(found, both(by_formulas, x, gain, angles, dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def lowered(x, gain, angles):
    call = functools.partial(api.head_norm, gain_C=gain, angles=angles, epsilon=EPSILON, place=Placement("TPU v5 lite"))
    return jax.jit(call).trace(x[None]).lower(lowering_platforms=("tpu",)).as_text()


def test_it_is_taken_on_tpus_where_heads_are_whole_registers():
    x, gain, angles, _ = inputs(16, 8, "bfloat16")
    assert "tpu_custom_call" in lowered(x, gain, angles)
    for other in (x.astype(jnp.float16), x[:, :4], x[:15]):
        at = tuple(angle[:, : other.shape[0]] for angle in angles)
        assert "tpu_custom_call" not in lowered(other, gain, at)
        with pytest.raises(ValueError, match="pallas_tpu cannot run"):
            api.head_norm(other[None], gain, at, EPSILON, place=Placement("TPU v5 lite"), implementation="pallas_tpu")
    with pytest.raises(ValueError, match="found implementation 'triton'"):
        api.head_norm(x[None], gain, angles, EPSILON, implementation="triton")


def test_blocks_divide_the_tokens():
    for tokens in (8, 24, 4096, 40_960):
        assert tokens % pallas_tpu.block_tokens(tokens, 16, 128) == 0
    assert pallas_tpu.block_tokens(32_768, 16, 128) * 16 * 128 <= 2**19
    assert pallas_tpu.block_tokens(12, 16, 128) == 0
