"""The update in float16: scaled, skipped where it overflows, the same on every device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.kernels.placement import ANYWHERE
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import state, step

RATES = np.full(100, 1e-2, np.float32)  # as many as the runs of test_loop_float16.py, which then share this program
HUGE = 63  # a token whose embedding overflows float16; only the row `guilty` holds it


def batch(seed=0, guilty=None, rows=8, length=16):
    tokens = np.random.default_rng(seed).integers(0, HUGE, (rows, length + 1), dtype=np.int32)
    if guilty is not None:
        tokens[guilty, 3] = HUGE
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return {"inputs_BL": tokens[:, :-1], "targets_BL": tokens[:, 1:], "segments_BL": np.ones_like(positions), "positions_BL": positions}


def program(tiny_in, axes=(1, 1, 1), **fields):
    """(begin, update): begin(scale) makes the state before the first step; update(state, rates, **of the batch) one step."""
    experiment = tiny_in("unused", **{"precision__compute": "float16", **fields})
    data, fsdp, tensor = axes
    mesh = make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    abstract = state.abstract(experiment, optimizer, mesh)
    compiled = step.build(experiment, decoder.abstract(experiment.model, experiment.precision)[0], mesh, abstract)
    made = jax.device_get(state.create(experiment, mesh))
    made.params["embedding_VD"] = made.params["embedding_VD"].copy()
    made.params["embedding_VD"][HUGE] = 1e30  # finite in float32, not in float16

    def begin(scale=2.0**16):
        now = dataclasses.replace(made, loss_scale=made.loss_scale._replace(scale=np.float32(scale)))
        return jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), now, abstract)

    def update(now, rates_T=RATES, **of_batch):
        put = {key: jax.device_put(value, rules.batch_sharding(mesh, 2)) for key, value in batch(**of_batch).items()}
        return compiled(now, put, rates_T, step.said(mesh))

    return begin, update


@pytest.fixture(scope="module")
def one_device(tiny_in):
    return program(tiny_in, averaging__online_decay=0.9, precision__growth_interval=6)


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_gradient_that_overflows_skips_the_update_and_nothing_else(one_device):
    begin, update = one_device
    before = jax.device_get(begin(2.0**40))
    now, measured = update(begin(2.0**40))
    # the loss is finite, so that it is the scale, there before cotangents are cast to float16, that makes the gradient overflow
    assert measured["finite"] and measured["skipped"] and np.isfinite(measured["loss_B"]).all()
    after = jax.device_get(now)
    for name in ("params", "opt_state", "average", "key"):
        same(getattr(after, name), getattr(before, name))
    assert after.step == 1 and adamw.updates_done(after.opt_state) == 0
    assert tuple(int(x) for x in after.loss_scale) == (2**39, 0, 1, 0)
    for seed in range(1, 40):
        now, measured = update(now, seed=seed)
    updates, skipped = int(adamw.updates_done(now.opt_state)), int(now.loss_scale.skipped)
    assert updates + skipped == int(now.step) == 40 and updates > 6 and skipped > 6


def test_the_overflow_of_one_device_skips_the_update_of_all(tiny_in):
    begin, update = program(tiny_in, (2, 2, 1), optimizer__accumulation=2)
    before = jax.device_get(begin())
    now, measured = update(begin(), guilty=5)
    assert np.isfinite(measured["loss_B"]).tolist() == [row != 5 for row in range(8)]
    for name in ("skipped", "finite"):
        assert [bool(shard.data) for shard in measured[name].addressable_shards] == [True] * 4
    assert [float(shard.data) for shard in now.loss_scale.scale.addressable_shards] == [2.0**15] * 4
    assert int(now.loss_scale.nonfinite_loss) == 1
    same(jax.device_get(now.params), before.params)
    same(jax.device_get(now.opt_state), before.opt_state)
    now, measured = update(now)
    assert not measured["skipped"] and int(now.loss_scale.good_steps) == 1
    gains = now.params["norm_D"].addressable_shards  # whole on every device
    assert len(gains) == 4 and all((np.asarray(gain.data) == np.asarray(gains[0].data)).all() for gain in gains)


def test_at_the_floor_the_run_ends_with_its_state_as_it_was(one_device):
    begin, update = one_device
    now, measured = update(begin(2.0), guilty=5)
    assert measured["finite"] and measured["skipped"]
    before = jax.device_get(now)
    now, measured = update(now, guilty=5)
    assert not measured["finite"] and not measured["skipped"]
    same(jax.device_get(now), before)


def test_a_skipped_step_keeps_its_place_in_the_schedule(one_device):
    begin, update = one_device
    now, moved = begin(), []
    for guilty in (5, None, None):
        before = jax.device_get(now.params["head_DV"])
        now, measured = update(now, np.array([1e-2, 2e-2] + [0] * 98, np.float32), guilty=guilty)
        moved.append(float(np.abs(jax.device_get(now.params["head_DV"]) - before).max()))
    assert moved[0] == moved[2] == 0  # the first rate is lost with its update
    assert moved[1] == pytest.approx(2e-2, rel=0.05)  # Adam's first update moves by its rate, with the bias correction of a first update


def test_the_running_average_begins_with_the_first_update_that_is_made(one_device):
    begin, update = one_device
    now, first = update(begin(), guilty=5)
    now, second = update(now)
    assert first["skipped"] and not second["skipped"]
    same(jax.device_get(now.average), jax.device_get(now.params))


def test_gradients_equal_those_of_float32_to_the_precision_of_float16(one_device, tiny):
    begin, update = one_device
    exact = tiny()
    graphdef, _ = decoder.abstract(exact.model, exact.precision)
    (_, (loss, _, _)), want = jax.jit(step.gradients(exact, graphdef, ANYWHERE))(begin().params, batch(), jnp.float32(1))
    now, measured = update(begin(2.0**12))
    assert not measured["skipped"] and float(measured["objective"]) == pytest.approx(float(loss), rel=2e-3)
    # the first moment after one update is the clipped gradient times 1 - beta1
    clipped = min(1.0, exact.optimizer.clip_norm / float(measured["gradient_norm"]))
    factor = (1 - exact.optimizer.beta1) * clipped
    (moments,) = [part.mu for part in now.opt_state if hasattr(part, "mu")]
    for one, other in zip(jax.tree.leaves(moments), jax.tree.leaves(want), strict=True):
        assert one.dtype == jnp.float32
        assert float(jnp.linalg.norm(one / factor - other)) <= 0.01 * float(jnp.linalg.norm(other))


def test_other_precisions_measure_the_layers_where_they_are_asked_to(tiny):
    for asked in (False, True):
        experiment = tiny(logging__statistics=asked)
        graphdef, params = decoder.abstract(experiment.model, experiment.precision)
        (_, (_, _, statistics)), _ = jax.eval_shape(step.gradients(experiment, graphdef, ANYWHERE), params, batch(), 1.0)
        shapes = {name: (value.shape, value.dtype.name) for name, value in statistics.items()}
        assert len(shapes) == (9 if asked else 0)
        assert set(shapes.values()) == ({((2,), "float32"), ((), "float32")} if asked else set())


def test_float32_and_bfloat16_have_no_scale_in_their_state(tiny, device_mesh):
    for compute in ("float32", "bfloat16"):
        experiment = tiny(precision__compute=compute)
        shapes = state.abstract(experiment, adamw.build(experiment.optimizer, lambda count: 0.0), device_mesh())
        assert shapes.loss_scale == ()
