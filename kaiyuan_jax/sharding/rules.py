"""Where every array lives, from the letters of its dimensions.

A parameter's name ends in its dimensions (query_NDHC), and one table says which mesh axis cuts which letter; optimizer states and
averages that carry the same names follow. Gains (one dimension besides the layers' N) are kept whole on every device: they are small,
and cutting them would only add communication. An axis that does not divide a dimension is dropped for that array, which is then whole
along it: 2 key/value heads on tensor=4 sit on all four devices. `describe` prints every array, its cut and what was dropped.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax import config
from kaiyuan_jax.kernels.placement import Placement, partition

LETTERS = "NBLDFHKCV"
BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Rules:
    """(letter, mesh axes) for parameters and for activations; a letter that is not listed is never cut.

    b and d are the batch and the width while the embedding is read: the table is cut over its width there, so the batch is not.
    """

    parameters: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("D", ("fsdp",)),
        ("F", ("tensor",)),
        ("H", ("tensor",)),
        ("K", ("tensor",)),
        ("V", ("tensor",)),
    )
    activations: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("B", BATCH_AXES),
        ("F", ("tensor",)),
        ("H", ("tensor",)),
        ("K", ("tensor",)),
        ("L", ("context",)),
        ("V", ("tensor",)),
        ("b", ("data",)),
        ("d", ("fsdp",)),
    )

    def __str__(self) -> str:
        rows = [("letter", "parameters", "activations")]
        parameters, activations = dict(self.parameters), dict(self.activations)
        rows += [(letter, *("+".join(table.get(letter, ())) or "-" for table in (parameters, activations))) for letter in LETTERS + "bd"]
        return "\n".join(f"{letter:<8}{parameter:<12}{activation}" for letter, parameter, activation in rows)


DEFAULT = Rules()


def spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules = DEFAULT) -> PartitionSpec:
    """The cut of a parameter by the suffix of its name. Raises ValueError when the suffix does not name every dimension."""
    dims = _dims(name)
    if dims is None or len(dims) != len(shape):
        raise ValueError(f"parameter {name}: found shape {tuple(shape)}; its name must end in _ and one letter of {LETTERS} per dimension")
    return partition(dims, shape, mesh, rules.parameters if len(dims.replace("N", "")) > 1 else ())


def shardings(tree: Any, mesh: Mesh, rules: Rules = DEFAULT) -> Any:
    """The same tree with a NamedSharding for every array, by the name of the innermost dict key that ends in dimensions.

    Works for parameters and for whatever embeds their tree (optimizer states, averages); scalars and arrays without such a key (steps,
    counters) are whole on every device.
    """

    def one(path, leaf):
        name, shape = _name(path), np.shape(leaf)
        return NamedSharding(mesh, PartitionSpec() if name is None or shape == () else spec(name, shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (ndim - 1)))


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh, rows: np.ndarray, batch_size: int) -> dict[str, jax.Array]:
    """Global arrays [batch_size, ...], cut as `batch_sharding` says, of which this process brings `rows` (ascending, as `process_rows`)."""

    def one(x):
        def part(index):
            begin, end, _ = index[0].indices(batch_size)
            first = np.searchsorted(rows, begin)
            return x[(slice(first, first + end - begin), *index[1:])]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), batch_sharding(mesh, x.ndim), part)

    return {key: one(x) for key, x in batch.items()}


def placement(mesh: Mesh, kernels: config.Kernels | None = None, rules: Rules = DEFAULT) -> Placement:
    """What models and ops know of a mesh: the kind of its devices, the cut of activations, kernels asked for by name."""
    chosen = kernels or config.Kernels()
    kind = mesh.devices.flat[0].device_kind
    return Placement(kind, mesh, rules.activations, attention=chosen.attention, cross_entropy=chosen.cross_entropy)


def process_rows(mesh: Mesh, batch_size: int, devices=None) -> np.ndarray:
    """Ascending global row numbers (int64) of a batch that `devices` (default: those of this process) hold.

    Raises ValueError when the data and fsdp axes do not divide the batch.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % ways:
        raise ValueError(f"batch_size: found {batch_size}, must be a multiple of {ways} (mesh axes data x fsdp)")
    held = batch_sharding(mesh, 1).devices_indices_map((batch_size,))
    if devices is None:
        devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return np.unique(np.concatenate([np.arange(batch_size, dtype=np.int64)[held[device]] for device in devices]))


def describe(tree: Any, mesh: Mesh, rules: Rules = DEFAULT) -> str:
    """A table: name, shape, cut, bytes on each device, and what was dropped because it does not divide."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _name(path)
        cut = shardings(leaf, mesh, rules).spec if name is None or np.shape(leaf) == () else spec(name, leaf.shape, mesh, rules)
        size = math.prod(NamedSharding(mesh, cut).shard_shape(leaf.shape)) * leaf.dtype.itemsize
        place = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        lines.append((place, "x".join(map(str, leaf.shape)), str(tuple(cut)), f"{size:,} B", _dropped(name, leaf.shape, mesh, rules)))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _dropped(name, shape, mesh, rules) -> str:
    dims = _dims(name or "") or ""
    if len(dims.replace("N", "")) < 2 or len(dims) != len(shape):
        return ""
    pairs = [(letter, size, axis) for letter, size in zip(dims, shape, strict=True) for axis in dict(rules.parameters).get(letter, ())]
    return "; ".join(
        f"{letter}={size} is whole: {axis}={mesh.shape[axis]} does not divide it" for letter, size, axis in pairs if size % mesh.shape[axis]
    )


def _dims(name: str) -> str | None:
    stem, _, dims = name.rpartition("_")
    return dims if stem and dims and all(letter in LETTERS for letter in dims) else None


def _name(path) -> str | None:
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str)]
    return next((name for name in reversed(names) if _dims(name)), None)
