"""A small state to save, and what may happen to a file."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from kaiyuan_jax.training import state


def some_state(seed: int, rows: int = 64) -> state.TrainState:
    random_ = np.random.default_rng(seed)
    params = {"layers": {"query": jnp.asarray(random_.normal(size=(rows, 32)), jnp.float32)}, "gain": jnp.ones((3,), jnp.bfloat16) * seed}
    return state.TrainState(
        step=jnp.int32(seed), params=params, opt_state=(jnp.int32(seed), {"mu": jax.tree.map(lambda leaf: 2 * leaf, params)}),
        key=jnp.asarray([seed, 7], jnp.uint32), average={},
    )  # fmt: skip


def abstract_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def same(one, other):
    leaves = [jax.tree.leaves(jax.device_get(tree)) for tree in (one, other)]
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(*leaves, strict=True))


def truncate(path, dice):
    os.truncate(path, dice.randrange(path.stat().st_size))


def flip(path, dice):
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


DAMAGES = {"truncated": truncate, "flipped": flip, "deleted": lambda path, dice: path.unlink()}
