import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kaiyuan_jax.models import decoder, loss
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.training import state, step

RATES = np.full(1, 1e-2, np.float32)  # the last one goes on


def batch(rows=8, length=16, vocabulary=64, seed=0):
    tokens = np.random.default_rng(seed).integers(0, vocabulary, (rows, length + 1), dtype=np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return {"inputs_BL": tokens[:, :-1], "targets_BL": tokens[:, 1:], "segments_BL": np.ones_like(positions), "positions_BL": positions}


def run(experiment, mesh, steps=3, rate=1e-2, seed=0):
    """(state, metrics of every step) as host arrays."""
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    abstract = state.abstract(experiment, optimizer, mesh)
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    update = step.build(experiment, graphdef, mesh, abstract)
    now, measured = state.create(experiment, mesh), []
    for k in range(steps):
        put = {key: jax.device_put(value, rules.batch_sharding(mesh, 2)) for key, value in batch(seed=seed + k).items()}
        now, one = update(now, put, np.full(1, rate, np.float32), step.said(mesh))
        one.pop("said")  # one row a device
        measured.append(jax.device_get(one))
    return jax.device_get(now), measured


def close(one, other, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_micro_batches_give_the_update_of_the_whole_batch(tiny, device_mesh, accumulation):
    whole, expected = run(tiny(optimizer__z_loss=0.1), device_mesh())
    parts, found = run(tiny(optimizer__z_loss=0.1, optimizer__accumulation=accumulation), device_mesh())
    close(parts.params, whole.params, 1e-4)
    close(found, expected)


@pytest.mark.parametrize("axes, accumulation", [((8, 1, 1), 1), ((2, 2, 2), 2)])
def test_sharded_equals_unsharded_to_rounding(tiny, device_mesh, axes, accumulation):
    experiment = tiny(optimizer__accumulation=accumulation, averaging__online_decay=0.9)
    one, expected = run(experiment, device_mesh())
    many, found = run(experiment, device_mesh(*axes))
    close(many.params, one.params, 1e-4)
    close(many.average, one.average, 1e-4)
    close(found, expected)


def test_objective_is_loss_plus_weighted_squared_logsumexp(tiny, device_mesh):
    experiment, mesh = tiny(optimizer__z_loss=0.25), device_mesh()
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    params = state.create(experiment, mesh).params
    losses = jax.jit(lambda params: loss.token_losses(decoder.merge(graphdef, params), batch()))(params)
    loss_BL, logsumexp_BL = (np.asarray(x, np.float64) for x in losses)
    _, (measured,) = run(experiment, mesh, steps=1)
    assert measured["objective"] == pytest.approx(loss_BL.mean() + 0.25 * (logsumexp_BL**2).mean(), rel=1e-5)
    np.testing.assert_allclose(measured["loss_B"], loss_BL.mean(axis=1), rtol=1e-5)
    assert measured["finite"]


def test_gradient_norm_is_that_before_clipping(tiny, device_mesh):
    experiment, mesh = tiny(optimizer__clip_norm=1e-3), device_mesh()
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    params = state.create(experiment, mesh).params
    gradient = jax.jit(jax.grad(lambda p: loss.token_losses(decoder.merge(graphdef, p), batch())[0].mean()))(params)
    _, (measured,) = run(experiment, mesh, steps=1)
    assert measured["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)


def test_loss_falls_on_a_batch_seen_again_and_again(tiny, device_mesh):
    experiment, mesh = tiny(), device_mesh()
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    abstract = state.abstract(experiment, optimizer, mesh)
    update = step.build(experiment, decoder.abstract(experiment.model, experiment.precision)[0], mesh, abstract)
    now, losses = state.create(experiment, mesh), []
    for _ in range(30):
        now, measured = update(now, batch(), RATES, step.said(mesh))
        losses.append(float(measured["loss_B"].mean()))
    assert losses[-1] < losses[0] - 1
    assert int(now.step) == 30


def test_the_rate_of_an_update_is_looked_up_at_its_count_and_the_last_one_goes_on(tiny, device_mesh):
    experiment, mesh = tiny(), device_mesh()
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    abstract = state.abstract(experiment, optimizer, mesh)
    update = step.build(experiment, decoder.abstract(experiment.model, experiment.precision)[0], mesh, abstract)
    now, moved = state.create(experiment, mesh), []
    for _ in range(4):
        before = jax.device_get(now.params["head_DV"])
        now, _ = update(now, batch(), np.array([0, 1e-2, 0], np.float32), step.said(mesh))
        moved.append(bool((jax.device_get(now.params["head_DV"]) != before).any()))
    assert moved == [False, True, False, False]


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(tiny, device_mesh):
    experiment, mesh = tiny(averaging__online_decay=0.9), device_mesh()
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    abstract = state.abstract(experiment, optimizer, mesh)
    update = step.build(experiment, decoder.abstract(experiment.model, experiment.precision)[0], mesh, abstract)
    now = state.create(experiment, mesh)
    broken = jax.tree.map(lambda leaf: leaf, now.params) | {"norm_D": now.params["norm_D"].at[3].set(jnp.inf)}
    before = state.TrainState(now.step, broken, now.opt_state, now.key, now.average)
    kept = jax.device_get(before)
    after, measured = update(before, batch(), RATES, step.said(mesh))
    assert not measured["finite"]
    for a, b in zip(jax.tree.leaves(jax.device_get(after)), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_old_state_gives_its_memory_to_the_new(tiny, device_mesh):
    experiment, mesh = tiny(), device_mesh()
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    abstract = state.abstract(experiment, optimizer, mesh)
    update = step.build(experiment, decoder.abstract(experiment.model, experiment.precision)[0], mesh, abstract)
    before = state.create(experiment, mesh)
    update(before, batch(), RATES, step.said(mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))


def test_no_device_holds_the_whole_state(tiny, device_mesh):
    experiment, mesh = tiny(), device_mesh(1, 8, 1)
    now = state.create(experiment, mesh)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(now))
    largest = max(
        sum(shard.data.nbytes for leaf in jax.tree.leaves(now) for shard in leaf.addressable_shards if shard.device == device)
        for device in mesh.devices.flat
    )
    assert largest < whole / 4


def test_bfloat16_compute_stays_near_float32(tiny, device_mesh):
    _, exact = run(tiny(), device_mesh())
    _, rough = run(tiny(precision__compute="bfloat16"), device_mesh())
    for a, b in zip(exact, rough, strict=True):
        np.testing.assert_allclose(b["loss_B"], a["loss_B"], rtol=0.02)
        assert a["loss_B"].dtype == b["loss_B"].dtype == np.float32
