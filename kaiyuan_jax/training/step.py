"""One update: loss, gradient, optimizer, in one jitted function that reuses the memory of the state it replaces.

    objective = mean over tokens of  loss + z_loss * logsumexp^2

A batch is cut into `accumulation` micro-batches scanned one after the other; their gradients are averaged in float32, so the update
equals that of the whole batch to rounding. Micro-batch a of A takes rows a, a + A, a + 2A ...: every device cuts its own rows and
nothing moves.

The loss of every row is returned, so that the host, which knows where each row came from, counts loss by source. A step whose loss,
gradient or new weights are not finite leaves the state as it was and says so in `finite`.

The rates of the whole run are an argument, rates_T: the float32 numbers that the host computed, looked up at the optimizer's count. So a
rate has the same bits whatever kind of schedule it is from, and runs that differ in the schedule alone share one compiled program.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax.averaging import online
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models import decoder, loss
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.training.state import TrainState

BATCH_KEYS = ("inputs_BL", "targets_BL", "segments_BL", "positions_BL")


def gradients(experiment: Experiment, graphdef, place: Placement) -> Callable:
    """`(params, batch) -> (objective, loss_B), gradient`, all float32 but the gradient, which has the dtype of the parameters."""
    z_loss, accumulation = experiment.optimizer.z_loss, experiment.optimizer.accumulation

    def objective(params, batch):
        loss_BL, logsumexp_BL = loss.token_losses(decoder.merge(graphdef, params), batch, place)
        return loss_BL.mean() + z_loss * jnp.square(logsumexp_BL).mean(), loss_BL.mean(axis=1)

    differentiate = jax.value_and_grad(objective, has_aux=True)
    if accumulation == 1:
        return differentiate

    def accumulated(params, batch):
        micro = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, part):
            # the batch axis of each micro-batch stays where the whole batch had it
            part = jax.tree.map(lambda x: place.constrain(x, "B" + "L" * (x.ndim - 1)), part)
            (value, loss_B), gradient = differentiate(params, part)
            return jax.tree.map(lambda t, g: t + g.astype(jnp.float32) / accumulation, total, gradient), (value, loss_B)

        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        total, (values, loss_AB) = jax.lax.scan(add, zero, micro)
        gradient = jax.tree.map(lambda t, leaf: t.astype(leaf.dtype), total, params)
        return (values.mean(), loss_AB.T.reshape(-1)), gradient

    return accumulated


def build(experiment: Experiment, graphdef, mesh: Mesh, abstract: TrainState) -> Callable:
    """The jitted `(state, batch, rates_T) -> (state, metrics)`; the state given is consumed.

    `batch` is a dict of int32 arrays [B, L] sharded by rows: inputs_BL, targets_BL, segments_BL, positions_BL. `rates_T` float32 [T] holds
    the learning rate of every update; later ones have the last. Metrics are replicated:
    loss_B float32 [B] (nats per token, row by row), objective, gradient_norm (before clipping) and finite (bool).
    """
    differentiate = gradients(experiment, graphdef, rules.placement(mesh, experiment.kernels))
    decay = experiment.averaging.online_decay

    def step(state: TrainState, batch: dict, rates_T: jax.Array) -> tuple[TrainState, dict]:
        optimizer = adamw.build(experiment.optimizer, lambda count: rates_T.at[count].get(mode="clip"))
        (objective, loss_B), gradient = differentiate(state.params, batch)
        norm = optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = online.update(state.average, params, decay, state.step) if decay else state.average
        finite = jnp.isfinite(objective) & jnp.isfinite(norm)
        for leaf in jax.tree.leaves(params):
            finite &= jnp.isfinite(leaf).all()
        new = TrainState(step=state.step + 1, params=params, opt_state=opt_state, key=state.key, average=average)
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return new, {"loss_B": loss_B, "objective": objective, "gradient_norm": norm, "finite": finite}

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    rows = {key: rules.batch_sharding(mesh, 2) for key in BATCH_KEYS}
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, in_shardings=(shardings, rows, everywhere), out_shardings=(shardings, everywhere))
