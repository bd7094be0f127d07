"""Cross-entropy of a linear head: the chunked form against the definition, its gradients, and its memory."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.kernels.cross_entropy import api, reference, xla


def tensors(seed, B, L, D, V, dtype=jnp.float32, scale=3.0):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (B, L, D), jnp.float32).astype(dtype)
    head = (jax.random.normal(keys[1], (D, V), jnp.float32) * scale).astype(dtype)
    return x, head, jax.random.randint(keys[2], (B, L), 0, V)


def values_and_gradients(function, x, head):
    """Both outputs and the gradients of a sum that weighs both differently at every token."""

    def scalar(x, head):
        loss, logsumexp = function(x, head)
        wave = jnp.arange(loss.size, dtype=jnp.float32).reshape(loss.shape)
        return jnp.sum(jnp.cos(wave) * loss + jnp.sin(wave) * logsumexp + 0.1 * jnp.square(logsumexp)), (loss, logsumexp)

    gradients, outputs = jax.jit(jax.grad(scalar, (0, 1), has_aux=True))(x, head)
    return [np.asarray(array, np.float32) for array in (*outputs, *gradients)]


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 3), st.integers(1, 11), st.integers(1, 5), st.integers(2, 40),
    st.sampled_from([1, 7, 1000]), st.sampled_from([0.0, 2.0, 30.0]), st.sampled_from(["float32", "bfloat16"]),
)  # fmt: skip
def test_value_and_gradients_equal_the_definition_for_any_chunk(seed, B, L, D, V, chunk, softcap, dtype):
    x, head, targets = tensors(seed, B, L, D, V, jnp.dtype(dtype))
    got = values_and_gradients(lambda x, head: xla.linear_cross_entropy(x, head, targets, softcap=softcap, chunk=chunk), x, head)
    want = values_and_gradients(lambda x, head: reference.linear_cross_entropy(x, head, targets, softcap=softcap), x, head)
    for a, b in zip(got, want, strict=True):
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_gradients_equal_finite_differences(softcap):
    x, head, targets = tensors(3, 1, 5, 3, 7, scale=1.0)

    def scalar(x, head):
        loss, logsumexp = xla.linear_cross_entropy(x, head, targets, softcap=softcap, chunk=2)
        return jnp.mean(loss) + 0.1 * jnp.mean(jnp.square(logsumexp))

    with jax.default_matmul_precision("highest"):
        jax.test_util.check_grads(scalar, (x, head), order=1, modes=["rev"], eps=1e-2, atol=2e-3, rtol=2e-3)


def test_definition_equals_numpy_in_float64():
    x, head, targets = (np.asarray(array) for array in tensors(0, 2, 3, 4, 9))
    logits = 5.0 * np.tanh(x.astype(np.float64) @ head.astype(np.float64) / 5.0)
    logsumexp = np.log(np.exp(logits).sum(-1))
    loss, got = reference.linear_cross_entropy(x, head, targets, softcap=5.0)
    np.testing.assert_allclose(got, logsumexp, rtol=1e-5)
    np.testing.assert_allclose(loss, logsumexp - np.take_along_axis(logits, targets[..., None], -1)[..., 0], rtol=1e-4, atol=1e-5)


def test_all_logits_are_never_held():
    B, L, D, V = 4, 4096, 64, 8192
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((B, L, D), jnp.float32), ((D, V), jnp.float32), ((B, L), jnp.int32))]

    def temporaries(op):
        step = jax.grad(lambda x, head, targets: op(x, head, targets, softcap=30.0)[0].mean(), (0, 1))
        return jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * B * L * V
    assert temporaries(xla.linear_cross_entropy) < logits / 4 < logits <= temporaries(reference.linear_cross_entropy)


def test_shards_let_chunks_grow_and_change_no_value():
    x, head, targets = tensors(5, 2, 12, 4, 9)
    one = xla.linear_cross_entropy(x, head, targets, chunk=4, shards=1)
    many = xla.linear_cross_entropy(x, head, targets, chunk=4, shards=4)
    np.testing.assert_allclose(one, many, rtol=1e-6)


@pytest.mark.parametrize("implementation", [None, "xla", "reference"])
def test_every_implementation_is_reached_by_its_name(implementation):
    x, head, targets = tensors(1, 2, 5, 4, 9)
    got = api.linear_cross_entropy(x, head, targets, softcap=30.0, implementation=implementation)
    np.testing.assert_allclose(got, reference.linear_cross_entropy(x, head, targets, softcap=30.0), rtol=1e-5, atol=1e-5)
    assert all(array.dtype == jnp.float32 for array in got)


def test_an_implementation_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match="found implementation 'pallas', must be None or one of xla, reference"):
        api.linear_cross_entropy(*tensors(1, 2, 5, 4, 9), implementation="pallas")


def test_targets_of_another_shape_are_refused():
    x, head, targets = tensors(1, 2, 5, 4, 9)
    with pytest.raises(ValueError, match=r"targets \(2, 4\)"):
        api.linear_cross_entropy(x, head, targets[:, 1:])
