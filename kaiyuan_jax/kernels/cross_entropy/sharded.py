"""The chunked op on a mesh: every device works on its rows of the batch and its columns of the head, and what crosses devices is explicit.

    head        gathered once over the axes that cut its width, in the dtype of the activations
    losses      one exchange of three numbers a token over the axes that cut the vocabulary
    gradients   that of x summed once over the vocabulary's axes, that of the head once over the tokens': a reduce-scatter over those
                that cut its width, in float32

A batch, row, width or vocabulary that its axes do not divide stays whole, and every device along them does the same work.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from kaiyuan_jax.kernels.cross_entropy import xla, xla_objective
from kaiyuan_jax.kernels.cross_entropy.slices import Sizes
from kaiyuan_jax.kernels.placement import Placement, ways


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh axes that cut the batch, its rows' positions, the head's width and the vocabulary; empty where one stays whole."""

    place: Placement
    batch: tuple[str, ...]
    length: tuple[str, ...]
    width: tuple[str, ...]
    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, place: Placement, x_BLD, head_DV) -> "Layout":
        def axes(letter, size):
            found = tuple(axis for axis in place.axes(letter) if place.mesh.shape[axis] > 1)
            return found if found and size % ways(place.mesh, found) == 0 else ()

        batch, length, vocabulary = axes("B", x_BLD.shape[0]), axes("L", x_BLD.shape[1]), axes("V", head_DV.shape[1])
        width = axes("d", x_BLD.shape[2])
        return cls(place, batch, length, width if set(width) <= set(batch) else (), vocabulary)

    def spec(self, dims: str) -> PartitionSpec:
        """Of an array named by its dimensions; d is the width where it is cut, D where it is whole."""
        table = {"B": self.batch, "L": self.length, "V": self.vocabulary, "d": self.width}
        return PartitionSpec(*(table.get(letter) or None for letter in dims))

    def run(self, function: Callable, inside: tuple[str, ...], outside: tuple[str, ...]) -> Callable:
        """`function` on every device's part."""
        if self.place.mesh is None or self.place.mesh.size == 1:
            return function
        specs = dict(in_specs=tuple(map(self.spec, inside)), out_specs=tuple(map(self.spec, outside)))
        return jax.shard_map(function, mesh=self.place.mesh, check_vma=False, **specs)

    def head(self, head_DV, dtype):
        """Cast before it is gathered, so that half the bytes travel; where nothing is gathered, slices of it are cast one by one."""
        if not self.width:
            return head_DV
        return jax.lax.with_sharding_constraint(head_DV.astype(dtype), NamedSharding(self.place.mesh, self.spec("dV")))

    def sum_over_tokens(self, gradient_DV):
        """The head's gradient from that of every device's tokens, cut over its width."""
        if self.width:
            gradient_DV = jax.lax.psum_scatter(gradient_DV, self.width, scatter_dimension=0, tiled=True)
        others = tuple(axis for axis in self.batch + self.length if axis not in self.width)
        return jax.lax.psum(gradient_DV, others) if others else gradient_DV

    def gradient_dtype(self, head_DV):
        """In which a device makes its part of the head's gradient: float32 where parts are summed."""
        return jnp.dtype(jnp.float32) if self.batch or self.length else head_DV.dtype


def losses(x_BLD, head_DV, targets_BL, *, softcap: float, place: Placement):
    """(loss_BL, logsumexp_BL) in float32."""
    layout = Layout.of(place, x_BLD, head_DV)

    def local(x_BLD, head_DV, targets_BL):
        x_TD, targets_T = _flat(x_BLD), _flat(targets_BL)
        sizes = _sizes(place, *x_TD.shape[:1])
        outputs = xla.losses(x_TD, head_DV, targets_T, softcap=softcap, axes=layout.vocabulary, sizes=sizes)
        return tuple(output.reshape(targets_BL.shape) for output in outputs)

    return layout.run(local, ("BLD", "DV", "BL"), ("BL", "BL"))(x_BLD, layout.head(head_DV, x_BLD.dtype), targets_BL)


def gradients(x_BLD, head_DV, targets_BL, loss_BL, logsumexp_BL, g_BL, h_BL, *, softcap: float, place: Placement):
    """Gradients of x and head, in their dtypes, of sum(g loss + h logsumexp); ignored targets have no loss to give a gradient."""
    layout = Layout.of(place, x_BLD, head_DV)
    dtype = layout.gradient_dtype(head_DV)

    def local(x_BLD, head_DV, *columns):
        columns = [_flat(column) for column in columns]
        sizes = Sizes.by_vocabulary(place.platform, x_BLD.shape[0] * x_BLD.shape[1])
        options = dict(softcap=softcap, axes=layout.vocabulary, dtype=dtype, sizes=sizes)
        x_gradient_TD, head_gradient_DV = xla.gradients(_flat(x_BLD), head_DV, *columns, **options)
        return x_gradient_TD.reshape(x_BLD.shape).astype(x_BLD.dtype), layout.sum_over_tokens(head_gradient_DV)

    call = layout.run(local, ("BLD", "DV", "BL", "BL", "BL", "BL", "BL"), ("BLD", "dV"))
    g_BL = jnp.where(targets_BL < 0, 0.0, g_BL)
    x_gradient, head_gradient = call(x_BLD, layout.head(head_DV, x_BLD.dtype), targets_BL, logsumexp_BL, loss_BL, g_BL, h_BL)
    return x_gradient, head_gradient.astype(head_DV.dtype)


def losses_and_gradients(x_BLD, head_DV, targets_BL, g_BL, *, z_loss: float, softcap: float, place: Placement):
    """(loss_BL, logsumexp_BL, gradients of x and head in their dtypes) of sum(g (loss + z_loss logsumexp^2))."""
    layout = Layout.of(place, x_BLD, head_DV)
    if layout.gradient_dtype(head_DV) != jnp.float32:  # a float32 sum of the head's gradient would cost more than a fourth product
        loss_BL, logsumexp_BL = losses(x_BLD, head_DV, targets_BL, softcap=softcap, place=place)
        h_BL = 2.0 * z_loss * g_BL * logsumexp_BL
        found = gradients(x_BLD, head_DV, targets_BL, loss_BL, logsumexp_BL, g_BL, h_BL, softcap=softcap, place=place)
        return loss_BL, logsumexp_BL, *found

    def local(x_BLD, head_DV, targets_BL, g_BL):
        sizes = Sizes.by_tokens(place.platform, head_DV.shape[1], x_BLD.dtype.itemsize)
        options = dict(z_loss=z_loss, softcap=softcap, axes=layout.vocabulary, sizes=sizes)
        outputs = xla_objective.losses_and_gradients(_flat(x_BLD), head_DV, _flat(targets_BL), _flat(g_BL), **options)
        loss_T, logsumexp_T, x_gradient_TD, head_gradient_DV = outputs
        x_gradient = x_gradient_TD.reshape(x_BLD.shape).astype(x_BLD.dtype)
        return loss_T.reshape(g_BL.shape), logsumexp_T.reshape(g_BL.shape), x_gradient, layout.sum_over_tokens(head_gradient_DV)

    call = layout.run(local, ("BLD", "DV", "BL", "BL"), ("BL", "BL", "BLD", "dV"))
    outputs = call(x_BLD, layout.head(head_DV, x_BLD.dtype), targets_BL, g_BL)
    return *outputs[:3], outputs[3].astype(head_DV.dtype)


def _sizes(place: Placement, T: int) -> Sizes:
    """For losses alone, where nothing is read or written more than once: long chunks of tokens, so that the head is read seldom."""
    if place.platform in ("tpu", "gpu"):
        tokens = min(T, 8192)
        return Sizes(tokens, Sizes.by_vocabulary(place.platform, tokens).columns)
    return Sizes.by_tokens(place.platform, 0, 0)


def _flat(x_BL):
    """[B, L, ...] -> [T, ...]"""
    return x_BL.reshape(-1, *x_BL.shape[2:])
