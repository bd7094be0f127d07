"""Causal attention: the definition, and the chunked XLA form of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.kernels.attention import api, reference, xla
from tests.kernels.attention.cases import assert_equal, tensors, value_and_gradients


@settings(max_examples=4, deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 2), st.integers(1, 17), st.sampled_from([1, 2]), st.sampled_from([1, 3]),
    st.sampled_from([2, 8]), st.sampled_from([5, 64]), st.booleans(), st.sampled_from([0.0, 2.0]), st.sampled_from([0, 1, 6, 40]),
    st.sampled_from(["float32", "bfloat16", "float16"]),
)  # fmt: skip
def test_value_and_gradients_equal_the_definition_for_any_chunk(seed, B, L, K, group, C, chunk, masked, softcap, window, dtype):
    q, k, v, segments = tensors(seed, B, L, K * group, K, C, dtype)
    options = dict(segments_BL=segments if masked else None, softcap=softcap, window=window)
    got = value_and_gradients(lambda *x: xla.attention(*x, chunk=chunk, **options), q, k, v)
    want = value_and_gradients(lambda *x: reference.attention(*x, **options), q, k, v)
    assert_equal(got, want, dtype)


def test_definition_equals_a_loop_over_queries_in_numpy():
    q, k, v, segments = (np.asarray(x) for x in tensors(0, 2, 7, 4, 2, 8))
    got = jax.jit(lambda *x: reference.attention(*x, segments_BL=segments, softcap=1.5, window=3))(q, k, v)
    for b in range(2):
        for i in range(7):
            for h in range(4):
                keys = [j for j in range(max(0, i - 2), i + 1) if segments[b, j] == segments[b, i]]
                scores = 1.5 * np.tanh(np.array([q[b, i, h] @ k[b, j, h // 2] for j in keys]) / np.sqrt(8) / 1.5)
                weights = np.exp(scores) / np.exp(scores).sum()
                np.testing.assert_allclose(got[b, i, h], weights @ v[b, keys, h // 2], rtol=1e-5, atol=1e-6)


def gradient_program(L, chunk, window=0):
    q, k = (jax.ShapeDtypeStruct((1, L, heads, 32), jnp.float32) for heads in (4, 2))
    step = jax.grad(lambda *x: xla.attention(*x, chunk=chunk, window=window).sum(), (0, 1, 2))
    return jax.jit(step).lower(q, k, k)


def test_chunks_of_a_long_row_never_hold_the_square_of_scores():
    L = 2048
    few, all_at_once = (gradient_program(L, chunk).compile().memory_analysis().temp_size_in_bytes for chunk in (128, L))
    square = 4 * 4 * L * L
    assert few < square / 2 < square < all_at_once


def scores_computed(L, chunk, window):
    """Scores of one key head that the lowered program makes, forward and backward, over the pairs of the row's square."""
    shapes = [line.split("->")[1] for line in gradient_program(L, chunk, window).as_text().splitlines() if "stablehlo.dot_general" in line]
    sizes = [[int(n) for n in shape.split("<")[1].split("x")[:-1]] for shape in shapes]
    return sum(rows * keys for *_, rows, keys in sizes if rows % chunk == 0 and keys != 32) / 2 / L**2


def test_a_window_costs_what_it_lets_through_not_the_square():
    full, windowed = scores_computed(1024, 128, 0), scores_computed(1024, 128, 64)
    assert windowed < full / 2.5  # chunks of 128 queries see 191 keys each, against 576 on average


def test_float16_scores_beyond_its_range_are_sound():
    q, k, v, segments = tensors(3, 1, 21, 4, 2, 64, "float16", spread=60.0)  # q k^T reaches 10^6, float16 ends at 65,504
    got = value_and_gradients(lambda *x: xla.attention(*x, segments_BL=segments, softcap=30.0, chunk=16), q, k, v / 60)
    want = value_and_gradients(lambda *x: reference.attention(*x, segments_BL=segments, softcap=30.0), q, k, v / 60)
    assert all(np.isfinite(x).all() for x in got)
    assert_equal(got[:1], want[:1], "float16")


def test_heads_that_key_heads_do_not_divide_are_refused():
    q, k, v, _ = tensors(1, 1, 9, 3, 2, 8)
    with pytest.raises(ValueError, match="K dividing H"):
        api.attention(q, k, v)
