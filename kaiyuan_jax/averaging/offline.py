"""The weighted average of checkpoints on disk, leaf by leaf.

One leaf is read from one checkpoint after another and added up in float64, then rounded once to the leaf's own dtype. So memory
holds the result, one leaf as stored and its float64 sum, however many checkpoints are averaged and however large they are.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import tqdm

PIECE = 1 << 22  # elements converted to float64 at a time, so that no second leaf-sized float64 array appears


def average[Path: Hashable](
    checkpoints: Sequence[Callable[[Path], np.ndarray]], weights: Sequence[float], leaf_paths: Iterable[Path]
) -> dict[Path, np.ndarray]:
    """`sum_i weights[i] checkpoints[i](path)` for every leaf path, with the leaf's dtype and shape.

    Each checkpoint is a function that reads one leaf; checkpoints and weights are in the same order. Raises `ValueError` when their
    numbers differ, when a leaf is not floating-point, and when it differs between checkpoints in shape or dtype.
    """
    if len(checkpoints) != len(weights) or not len(weights):
        raise ValueError(f"averaging: {len(weights)} weights for {len(checkpoints)} checkpoints, needs one for each and at least one")
    leaf_paths = list(leaf_paths)
    progress = tqdm.tqdm(leaf_paths, desc="average", unit="leaf", disable=None, leave=False)
    return {path: _leaf(checkpoints, weights, path) for path in progress}


def _leaf(checkpoints, weights, path) -> np.ndarray:
    total = like = None
    for number, (read, weight) in enumerate(zip(checkpoints, weights, strict=True)):
        leaf = np.asarray(read(path))
        if like is None:
            like = (leaf.shape, leaf.dtype)
            if "float" not in leaf.dtype.name:  # also true of bfloat16 and the 8-bit floats, which numpy does not count as floating
                raise ValueError(f"averaging: leaf {path!r} is {leaf.dtype}, only floating-point leaves have an average")
            total = np.zeros(leaf.size)
        if (leaf.shape, leaf.dtype) != like:
            raise ValueError(
                f"averaging: leaf {path!r} is {leaf.dtype}{leaf.shape} in checkpoint {number} (of the order given) and "
                f"{like[1]}{like[0]} in the first; average checkpoints of one run"
            )
        flat = leaf.reshape(-1)
        for start in range(0, flat.size, PIECE):
            total[start : start + PIECE] += weight * flat[start : start + PIECE].astype(np.float64)
    return total.astype(like[1]).reshape(like[0])
