"""From a stored tensor to our leaves and back: which axes are merged, which leaves share a tensor. Shapes and transposition, no values.

Dimensions are the letters of our names. A leaf `query_NDHC` of one layer is [D, H, C]; stored as "HC,D" it is [H C, D].
"""

import math

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.models.hf.names import Row

Sizes = dict[str, int]


def sizes(model: config.Model) -> Sizes:
    """Letter of a dimension -> its size."""
    return dict(N=model.layers, D=model.width, F=model.feedforward, H=model.heads, K=model.kv_heads, C=model.head_size, V=model.vocabulary)


def dims(leaf: str) -> str:
    """Letters of a leaf's dimensions in one layer: DHC of layers/attention/query_NDHC."""
    return leaf.rsplit("_", 1)[1].removeprefix("N")


def leaf_shape(leaf: str, size: Sizes) -> tuple[int, ...]:
    """Shape of a leaf as our tree holds it, layers first where it has them."""
    return tuple(size[letter] for letter in leaf.rsplit("_", 1)[1])


def shape(row: Row, size: Sizes) -> tuple[int, ...]:
    """Shape of a stored tensor."""
    rest = tuple(math.prod(size[letter] for letter in axis) for axis in row.axes)
    return (sum(_rows(leaf, row, size) for leaf in row.leaves), *rest) if row.joined else rest


def ours(row: Row, tensor: np.ndarray, size: Sizes) -> dict[str, np.ndarray]:
    """The leaves of one layer that a stored tensor holds, as views of it."""
    if not row.joined:
        return {row.leaves[0]: _leaf(row.leaves[0], "".join(row.axes), tensor, size)}
    parts, start = {}, 0
    groups = size["K"] if row.joined == "groups" else 1
    tensor = tensor.reshape(groups, -1, *tensor.shape[1:])
    for leaf in row.leaves:
        count = _rows(leaf, row, size) // groups
        part = tensor[:, start : start + count].reshape(groups * count, *tensor.shape[2:])
        parts[leaf], start = _leaf(leaf, _order(leaf, row), part, size), start + count
    return parts


def stored(row: Row, leaf: np.ndarray, size: Sizes) -> np.ndarray:
    """The stored tensor of a row with one leaf, of that leaf in one layer."""
    order = "".join(row.axes)
    axes = [dims(row.leaves[0]).index(letter) for letter in order]
    return np.ascontiguousarray(leaf.transpose(axes)).reshape(shape(row, size))


def _order(leaf: str, row: Row) -> str:
    """Dimensions of a joined leaf in the order in which the tensor has them: its rows, then the axes that are named."""
    rest = "".join(row.axes)
    return "".join(letter for letter in dims(leaf) if letter not in rest) + rest


def _rows(leaf: str, row: Row, size: Sizes) -> int:
    return math.prod(size[letter] for letter in dims(leaf) if letter not in "".join(row.axes))


def _leaf(leaf: str, order: str, tensor: np.ndarray, size: Sizes) -> np.ndarray:
    return tensor.reshape([size[letter] for letter in order]).transpose([order.index(letter) for letter in dims(leaf)])
