"""Causal attention: every implementation against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.kernels.attention import api, reference, xla


def tensors(seed, B, L, H, K, C, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    q, k, v = (jax.random.normal(key, (B, L, heads, C), jnp.float32).astype(dtype) for key, heads in zip(keys[:3], (H, K, K), strict=True))
    segments = jnp.cumsum(jax.random.bernoulli(keys[3], 0.2, (B, L)), axis=1).astype(jnp.int32)
    return q, k, v, segments


def values_and_gradients(function, q, k, v):
    weights = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)

    def scalar(q, k, v):
        out = function(q, k, v)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    gradients, out = jax.jit(jax.grad(scalar, (0, 1, 2), has_aux=True))(q, k, v)
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 2), st.integers(1, 17), st.sampled_from([1, 2]), st.sampled_from([1, 3]),
    st.sampled_from([2, 8]), st.sampled_from([5, 64]), st.booleans(), st.sampled_from(["float32", "bfloat16"]),
)  # fmt: skip
def test_value_and_gradients_equal_the_definition_for_any_chunk(seed, B, L, K, group, C, chunk, masked, dtype):
    q, k, v, segments = tensors(seed, B, L, K * group, K, C, jnp.dtype(dtype))
    segments = segments if masked else None
    got = values_and_gradients(lambda *x: xla.attention(*x, segments_BL=segments, chunk=chunk), q, k, v)
    want = values_and_gradients(lambda *x: reference.attention(*x, segments_BL=segments), q, k, v)
    tolerance = 1e-5 if dtype == "float32" else 4e-2
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_definition_equals_a_loop_over_queries_in_numpy():
    q, k, v, segments = (np.asarray(x) for x in tensors(0, 2, 7, 4, 2, 8))
    got = reference.attention(q, k, v, segments_BL=segments)
    for b in range(2):
        for i in range(7):
            for h in range(4):
                keys = [j for j in range(i + 1) if segments[b, j] == segments[b, i]]
                scores = np.array([q[b, i, h] @ k[b, j, h // 2] for j in keys]) / np.sqrt(8)
                weights = np.exp(scores) / np.exp(scores).sum()
                np.testing.assert_allclose(got[b, i, h], weights @ v[b, keys, h // 2], rtol=1e-5, atol=1e-6)


def test_chunks_of_a_long_row_never_hold_the_square_of_scores():
    B, L, H, K, C, chunk = 1, 2048, 4, 2, 32, 128
    q, k = (jax.ShapeDtypeStruct((B, L, heads, C), jnp.float32) for heads in (H, K))

    def temporaries(chunk):
        step = jax.grad(lambda *x: xla.attention(*x, chunk=chunk).sum(), (0, 1, 2))
        return jax.jit(step).lower(q, k, k).compile().memory_analysis().temp_size_in_bytes

    square = 4 * B * H * L * L
    assert temporaries(chunk) < square / 2 < square < temporaries(L)


@pytest.mark.parametrize("implementation", [None, "xla", "reference"])
def test_every_implementation_is_reached_by_its_name(implementation):
    q, k, v, segments = tensors(1, 1, 9, 4, 2, 8)
    got = api.attention(q, k, v, segments_BL=segments, implementation=implementation)
    np.testing.assert_allclose(got, reference.attention(q, k, v, segments_BL=segments), rtol=1e-5, atol=1e-5)


def test_an_implementation_that_does_not_exist_is_refused_by_name():
    q, k, v, _ = tensors(1, 1, 9, 4, 2, 8)
    with pytest.raises(ValueError, match="found implementation 'splash', must be None or one of xla, reference"):
        api.attention(q, k, v, implementation="splash")


def test_heads_that_key_heads_do_not_divide_are_refused():
    q, k, v, _ = tensors(1, 1, 9, 3, 2, 8)
    with pytest.raises(ValueError, match="K dividing H"):
        api.attention(q, k, v)


def test_the_choice_is_logged_once(caplog):
    api._log_once.cache_clear()
    q, k, v, _ = tensors(1, 1, 9, 4, 2, 8)
    with caplog.at_level("INFO", logger="absl"):
        api.attention(q, k, v)
        api.attention(q, k, v)
    assert [record.getMessage() for record in caplog.records] == ["attention: using the xla implementation"]
