"""Where a computation runs, how its arrays are cut over devices, and by which kernels: all that ops and models know of a mesh.

An op picks its implementation by the kind of the devices it will run on, which is that of the mesh, not of the machine that traces it:
programs for a pod are compiled on a laptop. A kernel written by hand cannot be cut by the compiler, so `local` runs it on each device's
own part. Activations are named by their dimensions ("BLHC"), and one table says which mesh axes cut which letter.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Cuts = tuple[tuple[str, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Hashable, so that it can be a static argument. The default is one device of unknown kind, for which ops take portable code."""

    device_kind: str = ""  # as `jax.Device.device_kind` gives it: "TPU v5 lite", "NVIDIA H200", "cpu"
    mesh: Mesh | AbstractMesh | None = None  # None: one device
    cuts: Cuts = ()  # letter of an activation's dimension -> the mesh axes that cut it
    attention: str = ""  # implementation by name; empty: the best one for the device kind
    cross_entropy: str = ""

    @property
    def platform(self) -> str:
        """tpu, gpu, cpu, or empty where the device kind is not known."""
        kind = self.device_kind
        return "tpu" if kind.startswith("TPU") else "gpu" if kind.startswith(("NVIDIA", "AMD")) else kind and "cpu"

    def axes(self, letter: str) -> tuple[str, ...]:
        """Mesh axes that cut a dimension of this letter."""
        return dict(self.cuts).get(letter, ()) if self.mesh is not None else ()

    def ways(self, letter: str) -> int:
        """Parts into which a dimension of this letter is cut, where its size allows it."""
        return ways(self.mesh, self.axes(letter)) if self.mesh is not None else 1

    def whole(self, letter: str) -> "Placement":
        """The same place, where a dimension of this letter is not cut."""
        return dataclasses.replace(self, cuts=tuple(pair for pair in self.cuts if pair[0] != letter))

    def spec(self, dims: str, shape: Sequence[int]) -> PartitionSpec:
        """The cut of an array whose axes are named by `dims`; an axis that does not divide a dimension leaves it whole."""
        return partition(dims, shape, self.mesh, self.cuts) if self.mesh is not None else PartitionSpec()

    def constrain(self, x: jax.Array, dims: str) -> jax.Array:
        """Pins the cut of an activation."""
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, self.spec(dims, x.shape)))

    def local(self, function: Callable, dims: Sequence[str], results: Sequence[str], shapes: Sequence | None = None) -> Callable:
        """`function` of arrays named by `dims`, run by every device on its part; its tuple of results is named by `results`.

        Dimensions that are cut must be ones along which the function works on its own (batch, heads). What is to cross devices is the
        function's to move, such as by `jax.lax.psum` over `axes(letter)`; it then needs `shapes`: arrays shaped as its whole results.
        """
        if self.mesh is None or self.mesh.size == 1:
            return function

        def call(*arrays):
            inside = tuple(self.spec(d, x.shape) for d, x in zip(dims, arrays, strict=True))
            whole = shapes or jax.eval_shape(function, *arrays)
            outside = tuple(self.spec(d, x.shape) for d, x in zip(results, whole, strict=True))
            return jax.shard_map(function, mesh=self.mesh, in_specs=inside, out_specs=outside, check_vma=False)(*arrays)

        return call


ANYWHERE = Placement()


def ways(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    """Devices along these axes of a mesh together."""
    count = 1
    for axis in axes:
        count *= mesh.shape[axis]
    return count


def partition(dims: str, shape: Sequence[int], mesh: Mesh | AbstractMesh, cuts: Cuts) -> PartitionSpec:
    """The cut of every dimension by its letter; one that its axes do not divide stays whole."""
    table, parts = dict(cuts), []
    for letter, size in zip(dims, shape, strict=True):
        axes = table.get(letter, ())
        divides = axes and size % ways(mesh, axes) == 0
        parts.append((axes[0] if len(axes) == 1 else tuple(axes)) if divides else None)
    return PartitionSpec(*parts)
