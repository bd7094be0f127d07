"""One update: loss, gradient, optimizer, in one jitted function that reuses the memory of the state it replaces.

    objective = mean over tokens of  loss + z_loss * logsumexp^2

A batch is cut into `accumulation` micro-batches scanned one after the other; their gradients are averaged in float32, so the update
equals that of the whole batch to rounding. Micro-batch a of A takes rows a, a + A, a + 2A ...: every device cuts its own rows and
nothing moves.

The loss of every row is returned, so that the host, which knows where each row came from, counts loss by source. A step whose loss or
gradient is not finite leaves the state as it was and says so in `finite`. In float16 the objective is scaled, the float32 gradient unscaled
before its norm is taken, and a gradient that is not finite is a skipped step (optimizers/loss_scale.py): weights, moments, average and the
optimizer's count stay, the scale shrinks, and the run goes on to its next batch.

Both are known before the update, so keeping the old value is part of the one pass that writes the new: no second pass over the state, no
two states at a time. A finite norm is a finite square of every entry, hence finite moments and, as epsilon > 0, finite Adam directions;
what is left is a rate or a decay so large that the weights overflow, which the loop looks for before it saves them.

The rates of the whole run are an argument, rates_T: the float32 numbers that the host computed, looked up at the step, which is how many
batches were read. So a rate has the same bits whatever kind of schedule it is from, runs that differ in the schedule alone share one
compiled program, and a skipped step loses its update but moves neither the data nor the schedule against one another.

Processes decide together through an argument, `said`: each brings a few words for every device of its own, and the metrics return those
of all. So every process reads the same at the same step, and none needs a collective besides the step. An update whose objective lies
above the ceiling is left out: a spike if the ceiling is a number, a batch known to be bad if it is -inf. Under `config.health.divergence`
skip the state goes on without an update that had to be left out; else it stands still, and the host acts (training/divergence.py).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax import config
from kaiyuan_jax.averaging import online
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models import decoder, loss
from kaiyuan_jax.optimizers import adamw, loss_scale
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.training.state import TrainState

BATCH_KEYS = ("inputs_BL", "targets_BL", "segments_BL", "positions_BL")
FLAG, FAILED, WAIT, BUSY, CEILING = range(5)  # columns of `said`


def decisive(experiment: Experiment) -> Experiment:
    """An experiment with those fields alone that decide the program of a step: it is the same for all that agree in them."""
    data, averaging = experiment.data, experiment.averaging
    return Experiment(
        model=experiment.model,
        data=config.Data(sequence_length=data.sequence_length, batch_size=data.batch_size, mask_documents=data.mask_documents),
        optimizer=experiment.optimizer,
        precision=experiment.precision,
        kernels=experiment.kernels,
        health=config.Health(divergence=experiment.health.divergence),
        averaging=averaging if averaging.online_decay or averaging.online_every else config.Averaging(),
        logging=config.Logging(statistics=experiment.logging.statistics),
    )


def gradients(experiment: Experiment, graphdef, place: Placement) -> Callable:
    """`(params, batch, scale) -> (scaled objective, (objective, loss_B, statistics)), scaled gradient`.

    All float32 but the gradient, which has the dtype of the parameters. `scale` is a number or float32 []: cotangents are the objective's
    times it. `statistics` is empty unless `measures(experiment)`, else models/statistics.py's values, [N] by layer, [] for logits.
    """
    z_loss, accumulation = experiment.optimizer.z_loss, experiment.optimizer.accumulation

    def objective(params, batch, scale):
        statistics = {} if measures(experiment) else None
        if not experiment.data.mask_documents:  # a row is one segment: attention without segments has faster kernels
            batch = batch | {"segments_BL": None}
        scaled, loss_BL, logsumexp_BL = loss.mean_objective(
            decoder.merge(graphdef, params), batch, place, statistics, z_loss=z_loss, scale=scale
        )
        value = loss_BL.mean() + z_loss * jnp.square(logsumexp_BL).mean()
        return scaled, (value, loss_BL.mean(axis=1), statistics or {})

    differentiate = jax.value_and_grad(objective, has_aux=True)
    if accumulation == 1:
        return differentiate

    def accumulated(params, batch, scale):
        micro = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, part):
            # the batch axis of each micro-batch stays where the whole batch had it
            part = jax.tree.map(lambda x: place.constrain(x, "B" + "L" * (x.ndim - 1)), part)
            (_, measured), gradient = differentiate(params, part, scale)
            return jax.tree.map(lambda t, g: t + g.astype(jnp.float32) / accumulation, total, gradient), measured

        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        total, (values, loss_AB, statistics) = jax.lax.scan(add, zero, micro)
        gradient = jax.tree.map(lambda t, leaf: t.astype(leaf.dtype), total, params)
        largest = jax.tree.map(lambda value: value.max(axis=0), statistics)
        return (values.mean() * scale, (values.mean(), loss_AB.T.reshape(-1), largest)), gradient

    return accumulated


def measures(experiment: Experiment) -> bool:
    """Whether the step also returns the largest values inside the layers."""
    return experiment.logging.statistics or experiment.precision.compute == "float16"


def said(mesh: Mesh, *, flag: int = 0, failed: bool = False, wait: float = 0.0, busy: float = 0.0, ceiling: float = np.inf) -> jax.Array:
    """float32 [devices, 5] of which this process brings the rows of its own devices.

    flag: why the run should stop (training/preemption.py), 0 for no reason; failed: a checkpoint could not be written; wait: seconds for
    which the host waited for this batch; busy: its seconds between the metrics it read last and this step, that wait among them; ceiling:
    an objective above it leaves the update out. No part of the batch because processes that cut the same rows hold equal copies of them.
    """
    row = np.array([[flag, failed, wait, busy, ceiling]], np.float32)
    return jax.make_array_from_callback((mesh.size, row.size), _by_device(mesh), lambda index: row)


def _by_device(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def abstract_inputs(experiment: Experiment, mesh: Mesh, steps: int) -> tuple[dict, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """(batch, rates_T, said): what `build`'s function takes beside the state, as ShapeDtypeStructs with their shardings."""
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    batch = dict.fromkeys(BATCH_KEYS, jax.ShapeDtypeStruct(shape, np.int32, sharding=rules.batch_sharding(mesh, 2)))
    rates_T = jax.ShapeDtypeStruct((steps,), np.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    return batch, rates_T, jax.ShapeDtypeStruct((mesh.size, 5), np.float32, sharding=_by_device(mesh))


def build(experiment: Experiment, graphdef, mesh: Mesh, abstract: TrainState) -> Callable:
    """The jitted `(state, batch, rates_T, said) -> (state, metrics)`; the state given is consumed.

    `batch` is a dict of int32 arrays [B, L] sharded by rows: inputs_BL, targets_BL, segments_BL, positions_BL. `rates_T` float32 [T] holds
    the learning rate of every step; later ones have the last. `said`: see there. Metrics are replicated:

        loss_B          float32 [B], nats per token, row by row;   objective and gradient_norm (before clipping), float32
        finite, above   bool: loss and gradient let the run go on;   the objective is above its ceiling
        skipped         bool: float16's scale was too large, and the run goes on without this update
        said            float32 [devices, 5], of all processes
        statistics      see `gradients`;   loss_scale: the LossScale after the step, or ()
    """
    step = update(experiment, graphdef, rules.placement(mesh, experiment.kernels))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    inputs = jax.tree.map(lambda leaf: leaf.sharding, abstract_inputs(experiment, mesh, 1))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, in_shardings=(shardings, *inputs), out_shardings=(shardings, everywhere))


def update(experiment: Experiment, graphdef, place: Placement) -> Callable:
    """`(state, batch, rates_T, said) -> (state, metrics)`, as `build` says, to be compiled by whoever calls it."""
    differentiate = gradients(experiment, graphdef, place)
    decay, precision = experiment.averaging.online_decay, experiment.precision
    leaves_out = experiment.health.divergence == "skip"
    window = functools.partial(online.window, experiment.averaging) if experiment.averaging.online_every else None

    def step(state: TrainState, batch: dict, rates_T: jax.Array, said: jax.Array) -> tuple[TrainState, dict]:
        optimizer = adamw.build(experiment.optimizer, lambda count: rates_T.at[state.step].get(mode="clip"))
        scale = state.loss_scale.scale if state.loss_scale else 1.0
        (_, (objective, loss_B, statistics)), gradient = differentiate(state.params, batch, scale)
        if state.loss_scale:
            gradient = jax.tree.map(lambda leaf: leaf / scale, gradient)
        norm = optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = online.update(state.average, params, decay, adamw.updates_done(state.opt_state)) if decay else state.average
        usable = jnp.isfinite(objective) & jnp.isfinite(norm)
        finite, scaling = usable, state.loss_scale
        if scaling:
            scaling = loss_scale.update(scaling, usable, jnp.isfinite(objective), precision)
            finite |= ~loss_scale.exhausted(scaling, precision)
        ceiling = said[:, CEILING].min()
        known = jnp.isneginf(ceiling)
        above = (usable & (objective > ceiling)) | known
        taken, fine = usable & ~above, finite & ~above
        moves = fine | known | leaves_out
        params, average = _if(taken, params, state.params), _if(taken, average, state.average)
        if window:  # a point of it is the weights after a step, whether that step's update was made or not
            average = online.take_up(average, params, window(rates_T.shape[0]), jnp.where(moves, state.step + 1, 0))
        new = TrainState(
            step=state.step + moves,
            params=params,
            opt_state=_if(taken, opt_state, state.opt_state),
            key=state.key,
            average=average,
            loss_scale=_if(fine, scaling, state.loss_scale),
        )
        measured = {"loss_B": loss_B, "objective": objective, "gradient_norm": norm, "finite": finite, "above": above}
        return new, measured | {"skipped": fine & ~usable, "said": said, "statistics": statistics, "loss_scale": scaling}

    return step


def _if(condition, after, before):
    """The one tree or the other, of the same structure."""
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), after, before)
