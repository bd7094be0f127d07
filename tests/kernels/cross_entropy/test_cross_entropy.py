"""Cross-entropy of a linear head: both forms against the definition, numpy in float64 and finite differences, for any cut of the logits."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.kernels.cross_entropy import api, reference, xla, xla_objective
from kaiyuan_jax.kernels.cross_entropy.slices import Sizes, chunks, columns_of_a_slice

# Relative to the largest entry of an array; 16-bit gradients are sums of products of numbers rounded once or twice.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3}


def tensors(seed, B, L, D, V, dtype=jnp.float32, spread=3.0, head_dtype=None):
    """x, head, targets (a fifth of them ignored, as -1 or -100) and weights."""
    keys = jax.random.split(jax.random.key(seed), 5)
    x = jax.random.normal(keys[0], (B, L, D), jnp.float32).astype(dtype)
    head = (jax.random.normal(keys[1], (D, V), jnp.float32) * spread).astype(head_dtype or dtype)
    targets = jax.random.randint(keys[2], (B, L), 0, V)
    ignored = jax.random.choice(keys[3], jnp.array([0, 0, 0, 0, 0, 0, 0, 0, -1, -100]), (B, L))
    return x, head, jnp.where(ignored < 0, ignored, targets), jax.random.uniform(keys[4], (B, L))


def gradients_of_losses(function, x, head):
    """Both outputs and the gradients of a sum that weighs both differently at every token."""

    def scalar(x, head):
        loss, logsumexp = function(x, head)
        wave = jnp.arange(loss.size, dtype=jnp.float32).reshape(loss.shape)
        return jnp.sum(jnp.cos(wave) * loss + jnp.sin(wave) * logsumexp + 0.1 * jnp.square(logsumexp)), (loss, logsumexp)

    gradients, outputs = jax.jit(jax.grad(scalar, (0, 1), has_aux=True))(x, head)
    return *outputs, *gradients


def gradients_of_objective(function, x, head):
    """Objective, loss, logsumexp and the gradients of x and head."""

    def scalar(x, head):
        objective, *measured = function(x, head)
        return objective, measured

    (objective, measured), gradients = jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True))(x, head)
    return objective, *measured, *gradients


def near(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-30, np.abs(b).max()))


SHAPES = [(1, 7, 3, 2), (2, 6, 4, 130), (3, 3, 5, 641)]  # B, L, D, V: one slice, two that overlap, six
CASES = dict(
    seed=st.integers(0, 99), shape=st.sampled_from(SHAPES), tokens=st.sampled_from([4, 1000]), softcap=st.sampled_from([0.0, 2.0]),
    dtype=st.sampled_from(sorted(TOLERANCE)),
)  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(**CASES)
def test_losses_and_their_gradients_equal_the_definition_for_any_cut(seed, shape, tokens, softcap, dtype):
    B, L, D, _ = shape
    x, head, targets, _ = tensors(seed, *shape, jnp.dtype(dtype))
    options = dict(softcap=softcap, axes=(), sizes=Sizes(tokens, 128))

    @jax.jit
    def op(x_TD, head, targets_T):
        loss_T, logsumexp_T = xla.losses(x_TD, head, targets_T, **options)
        wave_T = jnp.arange(B * L, dtype=jnp.float32)
        g_T, h_T = jnp.where(targets_T < 0, 0.0, jnp.cos(wave_T)), jnp.sin(wave_T) + 0.2 * logsumexp_T
        return loss_T, logsumexp_T, *xla.gradients(x_TD, head, targets_T, logsumexp_T, loss_T, g_T, h_T, dtype=head.dtype, **options)

    got = op(x.reshape(-1, D), head, targets.ravel())
    want = gradients_of_losses(lambda x, head: reference.linear_cross_entropy(x, head, targets, softcap=softcap), x, head)
    near(got[:2], [want[0].ravel(), want[1].ravel()], 1e-5)
    near(got[2:], [want[2].reshape(-1, D), want[3]], TOLERANCE[dtype])


@settings(max_examples=8, deadline=None)
@given(**CASES)
def test_the_objective_and_its_gradients_equal_the_definition_for_any_cut(seed, shape, tokens, softcap, dtype):
    D = shape[2]
    x, head, targets, weights = tensors(seed, *shape, jnp.dtype(dtype), head_dtype=jnp.float32)
    known = dict(z_loss=0.05, softcap=softcap)
    rounded = head.astype(x.dtype).astype(jnp.float32)  # the op casts the head, the definition does not
    want = gradients_of_objective(lambda x, head: reference.weighted_objective(x, head, targets, weights, **known), x, rounded)
    op = jax.jit(functools.partial(xla_objective.losses_and_gradients, axes=(), sizes=Sizes(tokens, 128), **known))
    got = op(x.reshape(-1, D), head, targets.ravel(), jnp.where(targets < 0, 0.0, weights).ravel())
    near(got[:2], [want[1].ravel(), want[2].ravel()], 1e-5)
    near(got[2:], [want[3].reshape(-1, D), want[4]], TOLERANCE[dtype])


@pytest.mark.parametrize("implementation", [None, "xla", "reference"])
@pytest.mark.parametrize("head_dtype", ["float32", "bfloat16"])
def test_both_forms_of_every_implementation_are_the_same_op(implementation, head_dtype):
    x, head, targets, weights = tensors(1, 2, 6, 4, 300, jnp.bfloat16, head_dtype=jnp.dtype(head_dtype))
    options = dict(softcap=30.0, implementation=implementation)

    def composed(x, head):
        loss, logsumexp = api.linear_cross_entropy(x, head, targets, **options)
        kept = jnp.where(targets < 0, 0.0, weights)
        return 3.0 * jnp.sum(kept * (loss + 0.1 * jnp.square(logsumexp))), loss, logsumexp

    made = functools.partial(api.weighted_objective, targets_BL=targets, weights_BL=weights, z_loss=0.1, scale=3.0, **options)
    got, want = gradients_of_objective(made, x, head), gradients_of_objective(composed, x, head)
    assert [array.dtype for array in got] == [array.dtype for array in want] == [jnp.float32] * 3 + [x.dtype, head.dtype]
    near(got[:3], want[:3], 1e-5)
    near(got[3:], want[3:], TOLERANCE["bfloat16"])


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_gradients_equal_finite_differences(softcap):
    x, head, targets, weights = tensors(3, 1, 5, 3, 7, spread=1.0)

    def losses(x, head):
        loss, logsumexp = api.linear_cross_entropy(x, head, targets, softcap=softcap)
        return jnp.mean(loss) + 0.1 * jnp.mean(jnp.square(logsumexp))

    def objective(x, head):
        return 2.0 * api.weighted_objective(x, head, targets, weights, z_loss=0.1, softcap=softcap, scale=0.5)[0]

    with jax.default_matmul_precision("highest"):
        for scalar in (losses, objective):
            jax.test_util.check_grads(scalar, (x, head), order=1, modes=["rev"], eps=1e-2, atol=2e-3, rtol=2e-3)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.0, 5.0]))
def test_definition_equals_numpy_in_float64(seed, softcap):
    x, head, targets, weights = (np.asarray(array, np.float64) for array in tensors(seed, 2, 3, 4, 9))
    targets = targets.astype(np.int64)
    logits = x @ head
    logits = softcap * np.tanh(logits / softcap) if softcap else logits
    logsumexp = np.log(np.exp(logits).sum(-1))
    loss = np.where(targets < 0, 0.0, logsumexp - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0])
    objective = 3.0 * (np.where(targets < 0, 0.0, weights) * (loss + 0.1 * logsumexp**2)).sum()
    got = reference.weighted_objective(
        *(jnp.asarray(array, jnp.float32) for array in (x, head)), targets.astype(np.int32), weights.astype(np.float32),
        z_loss=0.1, softcap=softcap, scale=3.0,
    )  # fmt: skip
    near(got, (objective, loss, logsumexp), 1e-4)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.floats(-300, 300))
def test_ignored_targets_have_no_loss_and_no_influence(seed, size):
    x, head, targets, weights = tensors(seed, 2, 6, 4, 9)
    changed = jnp.where((targets < 0)[..., None], size, x)

    one, other = (jax.device_get(_with_ignored(each, head, targets, weights)) for each in (x, changed))
    assert not np.any(np.asarray(one[1])[targets < 0]) and not np.any(np.asarray(one[3])[targets < 0])
    near((other[0], other[4]), (one[0], one[4]), 1e-6)


@jax.jit
def _with_ignored(x, head, targets, weights):
    return gradients_of_objective(lambda x, head: api.weighted_objective(x, head, targets, weights, z_loss=0.1), x, head)


def test_a_target_that_is_nearly_certain_keeps_the_digits_of_its_gradient():
    x = jnp.ones((1, 1, 1), jnp.bfloat16)
    head = jnp.array([[12.0, 0.0, 0.0]])
    gradient = jax.grad(lambda head: api.weighted_objective(x, head, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)))[0])(head)
    p = np.exp(-12.0) / (1 + 2 * np.exp(-12.0))  # of each of the other two; p - 1 of the target from a 16-bit p would be 0
    np.testing.assert_allclose(gradient, [[-2 * p, p, p]], rtol=1e-2)


def test_float16_loses_small_gradients_without_the_loss_scale_and_none_with_it():
    B, L, D, V = 2, 64, 16, 4096  # a mean over 128 tokens of a softmax over 4,096: most gradients of logits are near 2e-6
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (B, L, D)).astype(jnp.float16)
    head = (jax.random.normal(keys[1], (D, V)) * 0.02).astype(jnp.float16).astype(jnp.float32)
    targets, weights = jax.random.randint(keys[2], (B, L), 0, 16), jnp.full((B, L), 1e-3 / (B * L))

    def head_gradient(op, scale, x):
        return np.asarray(jax.grad(lambda head: op(x, head, targets, weights, softcap=30.0, scale=scale)[0])(head) / scale)[:, 16:]

    exact = head_gradient(reference.weighted_objective, 1.0, x.astype(jnp.float32))
    lost, kept = (head_gradient(api.weighted_objective, scale, x) for scale in (1.0, 2.0**20))
    assert not np.any(lost)
    near([kept], [exact], 2e-3)


def test_a_loss_scale_beyond_float16_shows_in_the_gradient():
    x, head, targets, weights = tensors(0, 1, 4, 4, 9, jnp.float16, head_dtype=jnp.float32)
    gradient = jax.grad(lambda head: api.weighted_objective(x, head, targets, weights, scale=2.0**24)[0])(head)
    assert not np.isfinite(gradient).all()


def test_all_logits_are_never_held():
    B, L, D, V = 4, 4096, 64, 8192
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((B, L, D), jnp.float32), ((D, V), jnp.float32), ((B, L), jnp.int32))]

    def temporaries(implementation, form):
        def scalar(x, head, targets):
            if form == "losses":
                return api.linear_cross_entropy(x, head, targets, softcap=30.0, implementation=implementation)[0].mean()
            return api.weighted_objective(x, head, targets, jnp.ones((B, L)), softcap=30.0, implementation=implementation)[0]

        return jax.jit(jax.grad(scalar, (0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * B * L * V
    assert temporaries("xla", "losses") < logits / 4 and temporaries("xla", "objective") < logits / 10
    assert logits <= temporaries("reference", "losses")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 20_000), st.integers(1, 100_000), st.integers(1, 9_000))
def test_slices_cover_the_vocabulary_and_chunks_the_tokens(V, most, T, longest):
    W = columns_of_a_slice(V, most)
    count = -(-V // W)
    assert 0 < W <= V and W <= max(most, 128) + 128 and (count - 1) * W < V
    assert V == W or W % 128 == 0 or count == 1
    parts = chunks(T, longest)
    assert -(-T // parts) <= longest and parts < 2 * -(-T // longest)


def test_an_implementation_that_does_not_exist_is_refused_by_name():
    x, head, targets, _ = tensors(1, 2, 5, 4, 9)
    with pytest.raises(ValueError, match="found implementation 'pallas', must be None or one of xla, reference"):
        api.linear_cross_entropy(x, head, targets, implementation="pallas")


def test_arrays_of_other_shapes_and_kinds_are_refused():
    x, head, targets, weights = tensors(1, 2, 5, 4, 9)
    with pytest.raises(ValueError, match=r"targets \(2, 4\); must be"):
        api.linear_cross_entropy(x, head, targets[:, 1:])
    with pytest.raises(ValueError, match=r"head \(9, 4\)"):
        api.weighted_objective(x, head.T, targets, weights)
    with pytest.raises(ValueError, match="found targets of float32, must be integers"):
        api.linear_cross_entropy(x, head, weights)
    with pytest.raises(ValueError, match=r"found weights float32 \(2, 4\), must be float32 and of the targets' shape \(2, 5\)"):
        api.weighted_objective(x, head, targets, weights[:, 1:])
    with pytest.raises(ValueError, match="found weights int32"):
        api.weighted_objective(x, head, targets, targets)
