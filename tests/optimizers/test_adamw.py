"""AdamW: which leaves decay, that the rate is the schedule's, and one update by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kaiyuan_jax.config import Optimizer, Schedule
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.schedules.build import build


def parameters(value=1.0):
    shapes = {
        "embedding_VD": (6, 4), "head_DV": (4, 6), "norm_D": (4,),
        "layers": {
            "attention": {"query_NDHC": (2, 4, 2, 2), "query_norm_NC": (2, 2), "norm_ND": (2, 4), "post_norm_ND": (2, 4)},
            "feedforward": {"gate_NDF": (2, 4, 8), "norm_ND": (2, 4)},
        },
    }  # fmt: skip
    return jax.tree.map(lambda shape: jnp.full(shape, value), shapes, is_leaf=lambda x: isinstance(x, tuple))


def names_that_decay(**fields):
    mask = adamw.decay_mask(parameters(), **fields)
    return {path[-1].key for path, decays in jax.tree_util.tree_leaves_with_path(mask) if decays}


def test_matrices_decay_and_gains_do_not_although_stacked_gains_have_two_dimensions():
    assert names_that_decay(decay_embeddings=False) == {"query_NDHC", "gate_NDF"}


def test_embedding_and_head_decay_only_when_asked():
    assert names_that_decay(decay_embeddings=True) == {"query_NDHC", "gate_NDF", "embedding_VD", "head_DV"}


def test_with_zero_gradients_only_decaying_leaves_shrink_by_rate_times_decay():
    optimizer = adamw.build(Optimizer(weight_decay=0.1), lambda count: 0.5)

    @jax.jit
    def one_update(params):
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    after = one_update(parameters())
    np.testing.assert_allclose(after["layers"]["feedforward"]["gate_NDF"], 0.95, rtol=1e-6)
    for leaf in (after["norm_D"], after["embedding_VD"], after["head_DV"], after["layers"]["attention"]["query_norm_NC"]):
        np.testing.assert_array_equal(leaf, 1.0)


def test_updates_are_those_of_optax_adamw_after_clipping():
    settings = Optimizer(beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.2, clip_norm=0.5, decay_embeddings=True)
    schedule = build(Schedule(kind="cosine", warmup=2), 6, batch_size=1, sequence_length=1)
    ours = adamw.build(settings, schedule)
    mask = adamw.decay_mask(parameters(), decay_embeddings=True)
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(schedule, 0.8, 0.9, 1e-6, weight_decay=0.2, mask=mask))

    def six_updates(optimizer):
        def update(carry, step):
            params, state = carry
            gradients = jax.tree.map(lambda leaf: jnp.sin(leaf * (step + 1.0)), params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = parameters()
        return jax.jit(lambda carry: jax.lax.scan(update, carry, jnp.arange(6))[0][0])((params, optimizer.init(params)))

    params, other = six_updates(ours), six_updates(theirs)
    assert not np.allclose(params["head_DV"], parameters()["head_DV"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, other)


def test_the_rate_is_the_schedule_at_the_optimizers_own_count():
    schedule = build(Schedule(kind="wsd", peak=1e-2, end=1e-3, warmup=3, decay=0.3), 12, batch_size=1, sequence_length=1)
    optimizer = adamw.build(Optimizer(weight_decay=0.0, clip_norm=0.0, epsilon=1e-12), schedule)
    params = {"gate_DF": jnp.zeros((2, 2))}
    state = optimizer.init(params)
    for step in range(12):
        assert int(adamw.updates_done(state)) == step
        updates, state = jax.jit(optimizer.update)({"gate_DF": jnp.ones((2, 2))}, state, params)
        # Adam's direction is 1 for a constant gradient.
        np.testing.assert_allclose(updates["gate_DF"], -schedule(step), rtol=1e-4, atol=1e-12)


def test_clipping_bounds_the_gradient_and_zero_turns_it_off():
    params = {"gate_DF": jnp.zeros((2, 2))}
    first_moment = {}
    for clip in (0.0, 1.0):
        optimizer = adamw.build(Optimizer(clip_norm=clip, beta1=0.0), lambda count: 1.0)
        _, state = optimizer.update({"gate_DF": jnp.full((2, 2), 10.0)}, optimizer.init(params), params)
        first_moment[clip] = float(state[1].mu["gate_DF"][0, 0])
    assert first_moment == {0.0: 10.0, 1.0: pytest.approx(0.5)}  # the norm of four tens is 20


def test_the_state_has_one_structure_whatever_the_settings():
    def structure(settings, schedule):
        rate = build(schedule, 50, batch_size=1, sequence_length=1)
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), adamw.build(settings, rate).init(parameters()))

    plain = structure(Optimizer(), Schedule(kind="constant", warmup=0))
    for settings in (Optimizer(clip_norm=0.0), Optimizer(weight_decay=0.0), Optimizer(decay_embeddings=True)):
        assert structure(settings, Schedule(kind="wsd", warmup=5)) == plain
