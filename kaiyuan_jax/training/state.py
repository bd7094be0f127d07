"""The train state: everything that decides the rest of a run, as one pytree.

With the position in the data (one integer, which the step gives) it is all that a resumed run needs. It is created under `jax.jit` with
the shardings it keeps, so that no device and no host ever holds all of it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kaiyuan_jax import config
from kaiyuan_jax.averaging import online
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw, loss_scale
from kaiyuan_jax.sharding import rules


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    step: Any  # int32 [], batches read; the optimizer counts the updates made, fewer where float16 skipped some
    params: Any  # nested dict of arrays, in config.precision.parameters
    opt_state: Any  # of the optax transformation
    key: Any  # uint32 key data of the run's random numbers; fold in the step to use it
    average: Any  # running float32 average of params, or {} where config.averaging.online_decay and online_every are 0
    loss_scale: Any = ()  # optimizers.loss_scale.LossScale, or () where config.precision.compute is not float16


@jax.jit
def finite(tree) -> jax.Array:
    """bool []: no array of `tree` holds an infinity or NaN; one reading of it, the same answer on every device."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def initial(experiment: Experiment, optimizer: optax.GradientTransformation, key: jax.Array, params=None) -> TrainState:
    """The state before the first step; weights are drawn from `key`, that of the experiment's seed, where none are given."""
    init_key, run_key = jax.random.split(key)
    if params is None:
        _, params = decoder.split(decoder.build(experiment.model, experiment.precision, init_key))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(run_key),
        average=online.init(params) if experiment.averaging.online_decay or experiment.averaging.online_every else {},
        loss_scale=loss_scale.init(experiment.precision),
    )


def abstract(experiment: Experiment, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """The state as ShapeDtypeStructs with their shardings; uses no memory."""
    shapes = jax.eval_shape(lambda: initial(experiment, optimizer, jax.random.key(experiment.seed)))
    # eval_shape drops shardings: the rules find them again by the names of the leaves, also inside the optimizer's state
    shardings = rules.shardings(shapes, mesh)
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)


def create(experiment: Experiment, mesh: jax.sharding.Mesh, params=None) -> TrainState:
    """The state before the first step, made in place on the devices that keep it; from `params`, which it consumes, or new weights."""
    drawn_by = Experiment(
        model=experiment.model, optimizer=experiment.optimizer, precision=experiment.precision, averaging=experiment.averaging
    )
    key = np.asarray(jax.random.key_data(jax.random.key(experiment.seed)))  # the seed is no part of the program
    return _program(config.to_json(drawn_by), mesh)(key, params)


@functools.lru_cache(maxsize=4)
def _program(drawn_by: str, mesh: jax.sharding.Mesh) -> Callable:
    """The compiled (key data, params or None) -> state of all experiments with these fields (JSON), for the runs of one process."""
    experiment = config.from_json(drawn_by)
    optimizer = adamw.build(experiment.optimizer, lambda count: 0.0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(experiment, optimizer, mesh))
    # Runs once: a CPU compiles the random number generator five times faster without LLVM's optimisations (12 s -> 2.5 s for a tiny model).
    options = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None

    def made(key, params):
        return initial(experiment, optimizer, jax.random.wrap_key_data(key), params)

    return jax.jit(made, donate_argnums=1, out_shardings=shardings, compiler_options=options)
