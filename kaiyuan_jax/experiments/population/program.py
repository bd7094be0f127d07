"""The programs of a population: one member's step, loss or initial state, for all members at once.

    P = ceil(M / devices) devices members are computed, those beyond M copies of the last

Every device has P / devices members whole, so training moves nothing between devices. On an accelerator the members of a device are one
vectorised computation (`jax.vmap`): products of M small matrices become one large kernel. A CPU core has nothing to gain from that and a
cache to lose, so there they are computed one after the other inside the program (`jax.lax.map`), each device by a thread of its own.
Between the two lies `at_once`: so many members of a device are vectorised at a time, where the activations of all would not fit.

A member whose loss or gradient is not finite keeps its weights, moments and step count from then on; no other member sees anything of it.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax import config
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.kernels.attention import api
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models import decoder, loss
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.training import state, step

AXIS = "members"


@dataclasses.dataclass(frozen=True)
class Layout:
    """M members over devices."""

    count: int  # M
    mesh: Mesh  # one axis, `AXIS`
    at_once: int  # members of one device that are computed together

    @property
    def padded(self) -> int:
        """P."""
        return -(-self.count // self.mesh.size) * self.mesh.size

    @property
    def index_P(self) -> np.ndarray:
        """int64[P]: the member at each place."""
        return np.minimum(np.arange(self.padded), self.count - 1)

    @property
    def by_member(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def saved(self) -> NamedSharding:
        """Of arrays [M, ...] as checkpoints hold them."""
        return self.by_member if self.padded == self.count else self.everywhere

    def put(self, x_M: np.ndarray) -> jax.Array:
        """[M, ...] -> [P, ...], cut by member."""
        return jax.device_put(x_M if self.padded == self.count else x_M[self.index_P], self.by_member)

    def pad(self, tree):
        """Arrays [M, ...] on devices -> [P, ...], cut by member."""
        if self.padded == self.count:
            return jax.device_put(tree, self.by_member)
        return _take(self.by_member, tuple(self.index_P.tolist()))(jax.device_put(tree, self.everywhere))

    def unpad(self, tree):
        """Arrays [P, ...] -> [M, ...]."""
        return tree if self.padded == self.count else _take(self.everywhere, tuple(range(self.count)))(tree)


@functools.cache
def _take(sharding: NamedSharding, index: tuple[int, ...]) -> Callable:
    return jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[np.array(index)], tree), out_shardings=sharding)


def layout(count: int, devices=None, at_once: int = 0) -> Layout:
    """Of so many members over `devices` (default: all), of which no more are used than there are members.

    at_once: members of a device computed together; 0: one on a CPU, all of them on an accelerator.
    """
    devices = list(jax.devices() if devices is None else devices)[:count]
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return Layout(count, mesh, at_once or (1 if devices[0].platform == "cpu" else -(-count // len(devices))))


def place(experiment: Experiment, laid: Layout) -> Placement:
    """One member on one device."""
    kind, kernels = laid.mesh.devices.flat[0].device_kind, experiment.kernels
    return Placement(kind, attention=kernels.attention or attention(experiment, kind, laid.at_once), cross_entropy=kernels.cross_entropy)


def attention(experiment: Experiment, device_kind: str, at_once: int) -> str:
    """The implementation for so many members at once; empty: as for one member. The hand-written kernel for GPUs cannot be vectorised."""
    if at_once == 1 or Placement(device_kind).platform != "gpu":
        return ""
    model, data = experiment.model, experiment.data
    q, k = ((data.batch_size, data.sequence_length, heads, model.head_size) for heads in (model.heads, model.kv_heads))
    case = (q, k, jnp.dtype(experiment.precision.compute), data.mask_documents, model.attention_softcap, model.window, device_kind)
    return next(name for name in api.candidates("gpu", *case) if name != "pallas_gpu")


def each(function: Callable, laid: Layout) -> Callable:
    """`function(member, shared)` of one member's arrays -> the same of arrays stacked over P members, cut by member; `shared` is whole."""

    def local(stacked, shared):
        def one(member):
            return function(member, shared)

        if laid.at_once == 1:
            return jax.lax.map(one, stacked)
        if laid.at_once >= laid.padded // laid.mesh.size:
            return jax.vmap(one)(stacked)
        return jax.lax.map(one, stacked, batch_size=laid.at_once)

    cut = PartitionSpec(AXIS)
    return jax.shard_map(local, mesh=laid.mesh, in_specs=(cut, PartitionSpec()), out_specs=cut, check_vma=False)


def optimizer_of(experiment: Experiment) -> optax.GradientTransformation:
    """For the structure of its state, which no rate and no decay changes."""
    return adamw.build(experiment.optimizer, optax.constant_schedule(0.0))


def abstract(experiment: Experiment, count: int, sharding: NamedSharding) -> state.TrainState:
    """The stacked state [count, ...] as ShapeDtypeStructs."""
    one = jax.eval_shape(lambda: state.initial(experiment, optimizer_of(experiment), jax.random.key(0)))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=sharding), one)


def create(experiment: Experiment, seeds, laid: Layout) -> state.TrainState:
    """The stacked state [P, ...] before the first step; the weights of a member are those that its seed gives it alone."""
    keys_M = np.stack([jax.random.key_data(jax.random.key(seed)) for seed in seeds])
    return _initial(_decisive(experiment), laid)(laid.put(keys_M), ())


def _decisive(experiment: Experiment) -> str:
    """JSON of the fields that decide a program: populations of one process that agree in them compile it once."""
    data, optimizer = experiment.data, dataclasses.replace(experiment.optimizer, weight_decay=0.0)
    shapes = config.Data(sequence_length=data.sequence_length, batch_size=data.batch_size, mask_documents=data.mask_documents)
    fields = dict(model=experiment.model, optimizer=optimizer, precision=experiment.precision, kernels=experiment.kernels)
    return config.to_json(Experiment(data=shapes, **fields))


@functools.lru_cache(maxsize=4)
def _initial(decisive: str, laid: Layout) -> Callable:
    experiment = config.from_json(decisive)
    begin = each(lambda key, _: state.initial(experiment, optimizer_of(experiment), jax.random.wrap_key_data(key)), laid)
    # as state.create: it runs once, and a CPU compiles random numbers five times faster without LLVM's optimisations
    options = {"xla_backend_optimization_level": 0} if laid.mesh.devices.flat[0].platform == "cpu" else None
    return jax.jit(begin, out_shardings=laid.by_member, compiler_options=options)


def update(experiment: Experiment, laid: Layout, steps: int) -> Callable:
    """The compiled `(state, diverged_P, batch, rates_PT, decay_P, done) -> (state, diverged_P, metrics)`; consumes the first two.

    batch: int32 arrays [P, B, L]; rates_PT float32 [P, steps]; decay_P float32, weight decay; done int32 [], updates made before this one.
    diverged_P int32: the update at which a member diverged, 0 for none. metrics: loss_B float32 [P, B], gradient_norm float32 [P], finite
    and skipped bool [P], as training/step.py has them.
    """
    return _update(_decisive(experiment), laid, steps)


@functools.lru_cache(maxsize=4)
def _update(decisive: str, laid: Layout, steps: int) -> Callable:
    experiment = config.from_json(decisive)
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    where = place(experiment, laid)

    def one(member, done):
        now, diverged, batch, rates_T, decay = member
        mine = dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, weight_decay=decay))
        said = jnp.zeros((1, 5), jnp.float32).at[:, step.CEILING].set(jnp.where(diverged > 0, -jnp.inf, jnp.inf))
        new, measured = step.update(mine, graphdef, where)(now, batch, rates_T, said)
        diverged = jnp.where((diverged == 0) & ~measured["finite"], done + 1, diverged)
        kept = ("loss_B", "gradient_norm", "finite", "skipped")
        return dataclasses.replace(new, step=now.step + 1), diverged, {key: measured[key] for key in kept}

    def everyone(now, diverged_P, batch, rates_PT, decay_P, done):
        return each(one, laid)((now, diverged_P, batch, rates_PT, decay_P), done)

    P, cut = laid.padded, laid.by_member
    rows = jax.ShapeDtypeStruct((P, experiment.data.batch_size, experiment.data.sequence_length), np.int32, sharding=cut)
    numbers = jax.ShapeDtypeStruct((P,), np.float32, sharding=cut)
    inputs = (
        abstract(experiment, P, cut),
        jax.ShapeDtypeStruct((P,), np.int32, sharding=cut),
        dict.fromkeys(step.BATCH_KEYS, rows),
        jax.ShapeDtypeStruct((P, steps), np.float32, sharding=cut),
        numbers,
        jax.ShapeDtypeStruct((), np.int32, sharding=laid.everywhere),
    )
    return jax.jit(everyone, donate_argnums=(0, 1), out_shardings=cut).lower(*inputs).compile()


@functools.cache
def token_losses(graphdef, where: Placement, laid: Layout) -> Callable:
    """`(params [P, ...], batch) -> float32 [B, P, L]`, nats: every member on the same rows."""

    def one(params, batch):
        return loss.token_losses(decoder.merge(graphdef, params), batch, where)[0]

    return jax.jit(lambda params, batch: each(one, laid)(params, batch).swapaxes(0, 1), out_shardings=laid.everywhere)


@functools.cache
def finite(laid: Layout) -> Callable:
    """`tree [P, ...] -> bool [P]`: no array of the member holds an infinity or NaN."""
    return jax.jit(each(lambda member, _: state.finite(member), laid))
