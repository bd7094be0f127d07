"""How far the largest values of a model stay below the largest number of float16.

    headroom = log2(65,504 / largest)     in bits: 3 means a tensor could grow eightfold; 0 or less, that it does not fit

Values come from models/statistics.py. This file needs no jax: metrics and plans read it too.
"""

import math

import numpy as np

LARGEST = float(np.finfo(np.float16).max)
IN_FLOAT32 = ("scores", "logits")  # numbers that are never in the compute dtype


def headroom(largest: dict[str, np.ndarray]) -> float:
    """Bits left below float16's largest number, the least over all layers and tensors that are in the compute dtype.

    0 where a value is not finite; infinite where all are 0. Below 0 only where the dtype computed in has a wider range.
    """
    values = np.concatenate([np.ravel(value) for name, value in largest.items() if name not in IN_FLOAT32])
    top = float(np.max(values))  # NaN stays NaN
    return math.log2(LARGEST / top) if math.isfinite(top) and top > 0 else math.inf if top == 0 else 0.0
