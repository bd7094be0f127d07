"""One experiment on the machine that it will run on: what is made and checked before the first step."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax import config, storage
from kaiyuan_jax.averaging import online
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data import loader, recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.sharding import mesh as meshes
from kaiyuan_jax.sharding import processes, rules
from kaiyuan_jax.training import branch, resume, start, state, step


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that stays the same from the first step to the last."""

    experiment: Experiment
    plan: Plan
    stores: list
    mesh: Mesh
    schedule: Callable  # step -> learning rate
    optimizer: optax.GradientTransformation
    evaluate: Callable | None  # params -> {source: nats per token}; None: no source has held-out text

    @property
    def folder(self) -> Path:
        return storage.path(self.experiment.folder)

    @functools.cached_property
    def abstract(self) -> state.TrainState:
        """The state as ShapeDtypeStructs with their shardings."""
        return state.abstract(self.experiment, self.optimizer, self.mesh)

    @functools.cached_property
    def order(self) -> dict:
        """What the order of the data depends on (resume.order_of)."""
        return resume.order_of(self.plan, self.stores)

    @functools.cached_property
    def rates_T(self) -> jax.Array:
        """float32[T], the rate of every update as the host computes it, on every device."""
        rates = self.schedule(np.arange(self.plan.steps))
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, PartitionSpec()), rates, rates.shape)

    def average_of(self, now: state.TrainState, done: int) -> dict:
        """The running average after update `done` in the dtype of the parameters; {} where the state holds none yet."""
        averaging = self.experiment.averaging
        if not (averaging.online_decay or (averaging.online_every and online.window(averaging, self.plan.steps).holds(done))):
            return {}
        return _cast(now.average, now.params)

    @functools.cached_property
    def update(self) -> Callable:
        """The compiled step, so that compilation is in no line's speed and its errors come before the first batch."""
        begin = time.perf_counter()
        compiled = _compiled(config.to_json(step.decisive(self.experiment)), self.mesh, self.plan.steps)
        say(f"train step compiled in {time.perf_counter() - begin:.1f} s")
        return compiled


@functools.lru_cache(maxsize=4)
def _compiled(decisive: str, mesh: Mesh, steps: int) -> Callable:
    """The step of every experiment with these decisive fields (JSON): runs of one process that share them compile it once."""
    experiment = config.from_json(decisive)
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    abstract = state.abstract(experiment, adamw.build(experiment.optimizer, lambda count: 0.0), mesh)
    return step.build(experiment, graphdef, mesh, abstract).lower(abstract, *step.abstract_inputs(experiment, mesh, steps)).compile()


@jax.jit
def _cast(tree, like):
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def prepare(experiment: Experiment, devices=None) -> Job:
    """Opens the stores, resolves the plan and makes the mesh, of all devices or those given.

    Raises ConfigError when the experiment does not fit the machine or the stores, or cannot branch off as it says.
    """
    stores = loader.open_stores(experiment.data)
    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    mesh = meshes.make_mesh(experiment.mesh, devices)
    _check(experiment, stores, mesh)
    processes.connect(mesh)
    schedule = schedules.build(experiment.schedule, plan.steps, batch_size=plan.batch_size, sequence_length=plan.sequence_length)
    optimizer = adamw.build(experiment.optimizer, schedule)
    if found := branch.problems(experiment, plan):
        raise ConfigError("\n".join(found))
    start.check(experiment, stores[0].fingerprint)
    online.check(experiment.averaging, plan.steps)
    loader.verify(experiment.data, stores)  # the slow check last
    held = heldout.open_stores(experiment, stores[0].fingerprint)
    evaluate = heldout.make_evaluator(experiment, held, rules.placement(mesh, experiment.kernels)) if held else None
    return Job(experiment, plan, stores, mesh, schedule, optimizer, evaluate)


def _check(experiment: Experiment, stores, mesh) -> None:
    largest = max(store.vocabulary for store in stores)
    if largest > experiment.model.vocabulary:
        raise ConfigError(f"config.model.vocabulary: found {experiment.model.vocabulary}, the stores' tokenizer needs {largest} or more")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = experiment.data.batch_size // experiment.optimizer.accumulation
    if rows % shards:
        raise ConfigError(
            f"config.data.batch_size: {experiment.data.batch_size} rows in {experiment.optimizer.accumulation} micro-batches give {rows} "
            f"rows at a time, must be a multiple of the {shards} devices along mesh axes data and fsdp"
        )


def say(line: str) -> None:
    """A line for the user, once however many processes there are; lost where the log lies on a disk that is full."""
    if jax.process_index() == 0:
        with contextlib.suppress(OSError):
            print(line, flush=True)
