"""Fingerprints of arrays: 64 bits that say whether what was read back is what was saved, the same whatever mesh computes them.

For an element with the bits b (as uint32) at place i of the array in row-major order, and `mix` a bijection of 32 bits (the finaliser of
MurmurHash3), two lanes are

    sum over i of mix(b ^ mix(i))        sum over i of mix(rotate(b, 16) + mix(i ^ 0x9e3779b9))        modulo 2**32

Sums modulo 2**32 are exact in any order, so that every device adds up its own shards and one small all-reduce is all that travels. A change
of one element always shows, because mix is a bijection; two different arrays of more changes agree with probability 2**-64. One reading of
the array, about forty integer operations an element: a thousandth of a training step's arithmetic. It guards against accidents, not
against an adversary.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

_UINT = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def of(tree) -> dict[str, str]:
    """Leaf path -> such as `float32[2, 16] 0123456789abcdef`: dtype, shape and fingerprint of every jax or numpy array in `tree`.

    All processes that hold shards must call it together. They get the same, unless copies of one shard differ between them.
    """
    leaves = {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    # One after the other: collectives of two programs in flight may meet in another order on another process.
    lanes = [jax.device_get(_program(_mesh(leaf))(leaf)) for leaf in leaves.values()]
    return {path: f"{kind(leaf)} {a:08x}{b:08x}" for (path, leaf), (a, b) in zip(leaves.items(), lanes, strict=True)}


def kind(leaf) -> str:
    """Dtype and shape as a fingerprint begins with, such as `float32[2, 16]`."""
    return f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}"


def path_of(keys) -> str:
    """The path of a leaf as its names joined by slashes, such as `layers/query_NDHC`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)


def _mesh(leaf):
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


@functools.cache
def _program(mesh):
    """Compiled once for every shape, a fifth of a second each: weights and their moments share one."""
    return jax.jit(_lanes, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def _lanes(leaf) -> jax.Array:
    """uint32[2]."""
    width = leaf.dtype.itemsize
    bits = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(leaf, _UINT[width])
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis in range(leaf.ndim):
        stride = math.prod(leaf.shape[axis + 1 :]) % 2**32
        place += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
    one = _mix(bits ^ _mix(place))
    other = _mix((bits << 16 | bits >> 16) + _mix(place ^ jnp.uint32(0x9E3779B9)))
    return jnp.stack([one.sum(dtype=jnp.uint32), other.sum(dtype=jnp.uint32)])


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ x >> 16) * jnp.uint32(0x85EBCA6B)
    x = (x ^ x >> 13) * jnp.uint32(0xC2B2AE35)
    return x ^ x >> 16
