"""How a run uses a machine: the mesh, micro-batches and recomputation. None of them changes what is trained.

A device has the rows of its place on the data and fsdp axes, `accumulation` micro-batches of them one after the other:

    rows of a device in a micro-batch = batch_size / (data x fsdp x accumulation),   tokens = rows x sequence_length / context
"""

import copy
import dataclasses
from collections.abc import Iterator

from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.sharding import topology

AXES = ("data", "fsdp", "context", "tensor")
PRODUCTS = (
    "query_projection", "key_projection", "query", "key", "value", "attention_out", "attention_branch", "feedforward_in", "gate", "up",
    "feedforward_branch",
)  # fmt: skip
# Kept instead of PRODUCTS where those do not fit: what saves most products for its bytes.
BRANCHES = ("attention_out", "attention_branch", "feedforward_branch", "feedforward_in")
REMATS = (("names", PRODUCTS), ("names", BRANCHES), ("full", ()))


@dataclasses.dataclass(frozen=True)
class Setting:
    data: int
    fsdp: int
    context: int
    tensor: int
    accumulation: int
    remat: str
    names: tuple[str, ...] = ()  # kept when remat is "names"

    @property
    def mesh(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.context * self.tensor

    def rows(self, experiment: Experiment) -> int:
        """Of a device in a micro-batch."""
        return experiment.data.batch_size // (self.data * self.fsdp * self.accumulation)

    def tokens(self, experiment: Experiment) -> float:
        """Of a device in a micro-batch."""
        return self.rows(experiment) * experiment.data.sequence_length / self.context

    def fits_batch(self, experiment: Experiment) -> bool:
        """Whether the batch can be cut so."""
        length = experiment.data.sequence_length
        return experiment.data.batch_size % (self.data * self.fsdp * self.accumulation) == 0 and length % self.context == 0

    @property
    def words(self) -> str:
        """As a row of a table says it."""
        mesh = " ".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        kept = {PRODUCTS: "products kept", BRANCHES: "branches kept"}.get(self.names, f"{len(self.names)} names kept")
        remat = {"names": kept, "full": "full remat", "none": "no remat"}[self.remat]
        return f"{mesh}, {remat}, accumulation {self.accumulation}"


def devices(target: topology.Target) -> int:
    """That JAX lists for a target."""
    return target.chips * target.chip.devices


def asked(experiment: Experiment, target: topology.Target) -> Setting:
    """The setting that the config describes. Raises ConfigError where its mesh or batch does not fit the target."""
    count, sizes = devices(target), {axis: getattr(experiment.mesh, axis) for axis in AXES}
    fixed = 1
    for size in sizes.values():
        fixed *= 1 if size == -1 else size
    if count % fixed or (-1 not in sizes.values() and fixed != count):
        found = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ConfigError(f"config.mesh: found {found}, {target.name} has {count} devices; change an axis or set one to -1")
    sizes = {axis: count // fixed if size == -1 else size for axis, size in sizes.items()}
    model = experiment.model
    names = tuple(model.remat_names) if model.remat == "names" else ()
    return Setting(**sizes, accumulation=experiment.optimizer.accumulation, remat=model.remat, names=names)


def applied(experiment: Experiment, setting: Setting) -> Experiment:
    """The experiment run so; the one given stays as it is."""
    changed = copy.deepcopy(experiment)
    for axis, size in setting.mesh.items():
        setattr(changed.mesh, axis, size)
    changed.optimizer.accumulation, changed.model.remat = setting.accumulation, setting.remat
    if setting.remat == "names":
        changed.model.remat_names = setting.names
    return changed


def flags(before: Setting | None, after: Setting) -> list[str]:
    """What to give launch/train.py beside the config, which describes `before` (None: nothing that fits), to run it as `after` says."""
    found = [f"--config.mesh.{axis}={size}" for axis, size in after.mesh.items() if before is None or before.mesh[axis] != size]
    if before is None or before.accumulation != after.accumulation:
        found.append(f"--config.optimizer.accumulation={after.accumulation}")
    if before is None or (before.remat, before.names) != (after.remat, after.names):
        found.append(f"--config.model.remat={after.remat}")
        if after.remat == "names":
            found.append('--config.model.remat_names="({})"'.format("".join(f"'{name}'," for name in after.names)))
    return found


def all_of(experiment: Experiment, target: topology.Target) -> Iterator[Setting]:
    """Every setting worth looking at: fsdp x data x tensor in powers of two, context as the config has it, all micro-batches.

    tensor stays inside a host of GPUs and divides the query heads; what the config's own remat is, is looked at too.
    """
    count, model, context = devices(target), experiment.model, max(1, experiment.mesh.context)
    most = 8 if target.platform == "gpu" else 16
    own = (model.remat, tuple(model.remat_names) if model.remat == "names" else ())
    remats = [*REMATS, *([own] if own not in REMATS else [])]
    for tensor in (t for t in (1, 2, 4, 8, 16) if t <= most and model.heads % t == 0 and count % (t * context) == 0):
        ways = count // (tensor * context)
        for data in (d for d in range(1, ways + 1) if ways % d == 0 and (d & (d - 1) == 0 or d == ways)):
            rows = experiment.data.batch_size // ways if experiment.data.batch_size % ways == 0 else 0
            for accumulation in (a for a in range(1, rows + 1) if rows % a == 0):
                for remat, names in remats:
                    yield Setting(data, ways // data, context, tensor, accumulation, remat, names)
