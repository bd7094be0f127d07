"""Slices of the vocabulary and of the tokens: what exists of the logits at any time, and how one slice enters the log-sum-exp.

T tokens of a device meet V columns of the head as [S, W] logits: S tokens and W columns at a time. A vocabulary is often a prime number of
128-column tiles (151,936 = 128 x 1,187), so the last slice starts early enough to be whole, and its columns that an earlier slice has
had are not `fresh`. The head is cast to the dtype of the activations slice by slice: cast at once it would take 0.58 GiB at 2048 x 151,936.

Under tensor parallelism each device has some columns of the head; the partial sums of a token meet in one small exchange.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

LANES = 128  # columns that a TPU register or a GPU tile holds side by side


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Logits that exist at a time on one device: `tokens` rows, in slices of `columns`; and the rows for which a 16-bit copy is kept."""

    tokens: int
    columns: int

    @classmethod
    def by_tokens(cls, platform: str, V: int, itemsize: int) -> "Sizes":
        """For loops over tokens that keep an [S, V] copy of the softmax between two passes over the vocabulary.

        Every chunk of tokens reads and writes the head's float32 gradient once, so chunks should be long; the copy, and so the chunk, is
        bounded by 0.3 GiB: 1,024 tokens of 151,936 columns. 16 MiB of float32 logits fit vector memory and L2; on CPUs 8 MiB stay in cache.
        """
        if platform in ("tpu", "gpu"):
            tokens = max(LANES, min(4096, int(0.3 * 2**30) // (itemsize * V) // LANES * LANES))
            return cls(tokens, max(4 * LANES, 2**22 // tokens))
        return cls(512, 4096)

    @classmethod
    def by_vocabulary(cls, platform: str, T: int) -> "Sizes":
        """For loops over the vocabulary with all tokens at once; every slice reads and writes the float32 gradient of all x once."""
        return cls(T, max(4 * LANES, (2**25 if platform in ("tpu", "gpu") else 2**22) // T))


def chunks(T: int, longest: int) -> int:
    """Parts of equal length that T tokens are cut into: without padding where up to twice the fewest parts allow it."""
    fewest = -(-T // longest)
    return next((count for count in range(fewest, 2 * fewest) if T % count == 0), fewest)


def columns_of_a_slice(V: int, most: int) -> int:
    """W: V itself, or the multiple of 128 that cuts V into the fewest slices of at most about `most` columns."""
    count = -(-V // max(most, LANES))
    return V if count == 1 else min(V, -(-V // count // LANES) * LANES)


@dataclasses.dataclass(frozen=True)
class Slice:
    """W columns of the head from `start`, in the dtype of the activations; `fresh_W` marks those that no earlier slice had."""

    start: jax.Array
    head_DW: jax.Array
    columns_W: jax.Array
    fresh_W: jax.Array | None  # None: all of them

    @classmethod
    def take(cls, head_DV, number, W: int, dtype) -> "Slice":
        V = head_DV.shape[1]
        start = jnp.minimum(number * W, V - W)
        columns_W = start + jnp.arange(W)
        head_DW = jax.lax.dynamic_slice_in_dim(head_DV, start, W, 1)
        if head_DW.dtype != dtype:
            # XLA's TPU compiler moves a plain cast in front of the slice and out of the loop, optimization barriers notwithstanding, and
            # so casts the whole head. It cannot know that this factor, which it finds in every slice anew, is always 1.
            head_DW = (head_DW * (number < 2**30).astype(head_DW.dtype)).astype(dtype)
        return cls(start, head_DW, columns_W, columns_W >= number * W if V % W else None)

    def logits(self, x_SD, softcap: float):
        """(z_SW, slope_SW): capped logits in float32 and their derivative by the raw ones, 1 - (z / c)^2 (None without a soft-cap)."""
        raw_SW = jnp.dot(x_SD, self.head_DW, preferred_element_type=jnp.float32)
        if not softcap:
            return raw_SW, None
        u_SW = jnp.tanh(raw_SW / softcap)
        return softcap * u_SW, 1.0 - jnp.square(u_SW)

    def hits(self, targets_S):
        """bool [S, W]: the column of the token's target, in one slice only."""
        hits_SW = self.columns_W == targets_S[:, None]
        return hits_SW if self.fresh_W is None else hits_SW & self.fresh_W

    def only_fresh(self, x_SW, otherwise: float):
        return x_SW if self.fresh_W is None else jnp.where(self.fresh_W, x_SW, otherwise)

    def add_to(self, gradient_DV, part_DW):
        """gradient_DV with this slice's fresh columns of part_DW added; other columns of the part must be zero."""
        before_DW = jax.lax.dynamic_slice_in_dim(gradient_DV, self.start, part_DW.shape[1], 1)
        sum_DW = (before_DW + part_DW).astype(gradient_DV.dtype)
        gradient_DV = jax.lax.dynamic_update_slice_in_dim(gradient_DV, sum_DW, self.start, 1)
        return with_layout_constraint(gradient_DV, Layout((0, 1)))  # else XLA for v6e sums up the transpose and copies all of it at the end


def start_of_sums(S: int):
    """(largest logit, sum of exp(logit - largest), target's logit) of S tokens before any column was seen."""
    return jnp.full(S, -jnp.inf, jnp.float32), jnp.zeros(S, jnp.float32), jnp.zeros(S, jnp.float32)


def add_to_sums(sums, part: Slice, z_SW, targets_S):
    """(sums with one more slice, exp(z - largest so far) [S, W], zero where not fresh)."""
    largest_S, total_S, target_S = sums
    target_S += jnp.sum(jnp.where(part.hits(targets_S), z_SW, 0.0), axis=1)
    z_SW = part.only_fresh(z_SW, -jnp.inf)
    now_S = jnp.maximum(largest_S, z_SW.max(axis=1))
    e_SW = jnp.exp(z_SW - now_S[:, None])
    return (now_S, total_S * jnp.exp(largest_S - now_S) + e_SW.sum(axis=1), target_S), e_SW


def loss_and_logsumexp(sums, targets_S, axes: tuple[str, ...]):
    """(loss_S, logsumexp_S) from the sums over a device's columns; `axes`: mesh axes that cut the vocabulary, exchanged at once."""
    largest_S, total_S, target_S = sums
    if axes:
        parts = jax.lax.all_gather(jnp.stack(sums), axes)  # [devices, 3, S]
        largest_S = parts[:, 0].max(axis=0)
        total_S = jnp.sum(parts[:, 1] * jnp.exp(parts[:, 0] - largest_S), axis=0)
        target_S = parts[:, 2].sum(axis=0)
    logsumexp_S = largest_S + jnp.log(total_S)
    return jnp.where(targets_S < 0, 0.0, logsumexp_S - target_S), logsumexp_S


def local_targets(targets_T, V: int, axes: tuple[str, ...]):
    """Targets counted from a device's first column; negative ones, which are ignored, stay negative."""
    return jnp.where(targets_T < 0, targets_T, targets_T - jax.lax.axis_index(axes) * V) if axes else targets_T
