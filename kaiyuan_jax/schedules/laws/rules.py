"""The nodes that stand for the sources of a cell: Gauss rules of what `cells.Tree` knows, Chebyshev tensors where the rate is rough.

A node is a weight, a floored ln eta and a y = S(k-1), and counts like a source: weight f(ln eta, S(s) - y).
"""

import math

import numpy as np

from kaiyuan_jax.schedules.laws import cells


def gauss(tree: cells.Tree, which: np.ndarray, n: int) -> np.ndarray:
    """The n-point Gauss rules of the cells `which` int64[M]: weight, ln (eta / peak) and y, float64[3, M, n]."""
    L = {key: value[which] for key, value in tree.gram.items() if key[0] <= n and key[1] < n}
    # The recurrence side[j+1] p_{j+1} = (z - middle[j]) p_j - side[j] p_{j-1} of the orthonormal polynomials, off the Cholesky factor.
    ratio = [L[j + 1, j] / L[j, j] for j in range(n)]
    middle = np.stack([ratio[0], *(b - a for a, b in zip(ratio, ratio[1:], strict=False))])
    side = [None, *(L[j, j] / L[j - 1, j - 1] for j in range(1, n))]
    if n == 1:
        z = middle
    elif n == 2:
        half = np.hypot((middle[0] - middle[1]) / 2, side[1])
        z = (middle[0] + middle[1]) / 2 + np.stack([-half, half])
    elif n == 3:  # the three real roots of a cubic, shifted to have no square: q cos(angle + 2 pi j / 3)
        centre = (middle[0] + middle[1] + middle[2]) / 3
        a, b, c = middle - centre
        square = side[1] ** 2, side[2] ** 2
        radius = np.sqrt((a * a + b * b + c * c + 2 * square[0] + 2 * square[1]) / 6)
        determinant = a * b * c - a * square[1] - c * square[0]
        angle = np.arccos(np.clip(determinant / (2 * np.maximum(radius, 1e-100) ** 3), -1, 1)) / 3
        z = centre + 2 * radius * np.cos(angle + np.array([[2], [4], [0]]) * (math.pi / 3))
    else:
        jacobi = np.zeros((which.size, n, n))
        jacobi[:, range(n), range(n)] = middle.T
        jacobi[:, range(1, n), range(n - 1)] = np.stack(side[1:], axis=1)
        z = np.linalg.eigvalsh(jacobi).T
    p, before = np.ones_like(z), 0.0
    square, u, y = np.ones_like(z), p * tree.u[0][which], p * tree.y[0][which]
    for j in range(1, n):
        p, before = ((z - middle[j - 1]) * p - (side[j - 1] * before if j > 1 else 0.0)) / side[j], p
        square += p * p
        u += tree.u[j][which] * p
        y += tree.y[j][which] * p
    # Where the rate bends the projections overshoot, even above the peak: they must, or the first order would no longer cancel. Only x < 0
    # is kept out, and ln eta beyond e times its bounds: cells whose changes are too small to matter may have it anywhere.
    u = np.clip(u, math.log(cells.FLOOR) - 1, 1)
    return np.stack([tree.mass[which] / square, u, np.minimum(tree.last[which] + y, tree.end[which])]).transpose(0, 2, 1)


def tensors(owner: np.ndarray, weight: np.ndarray, u: np.ndarray, y: np.ndarray, degree: int) -> tuple[np.ndarray, ...]:
    """Nodes of several cells from their sources float64[K], those of cell `owner` int64[K]; u = ln (eta / peak).

    Returns owner int64[M] in order, weight, u and y float64[M] of the nodes. A band of u with few sources keeps them.
    """
    band = np.floor(-u / cells.BAND).astype(np.int64)
    key = owner * (band.max() + 1) + band
    order = np.argsort(key, kind="stable")
    key, owner, weight, u, y = (values[order] for values in (key, owner, weight, u, y))
    begin = np.flatnonzero(np.diff(key, prepend=-1))
    count = np.diff(begin, append=key.size)
    many = count > degree**2
    kept = ~np.repeat(many, count)
    found = [(owner[kept], weight[kept], u[kept], y[kept])]
    if many.any():
        count, owner, weight, u, y = count[many], owner[begin[many]], weight[~kept], u[~kept], y[~kept]
        begin = np.cumsum(count) - count
        at_u, by_u = _chebyshev(u, begin, count, degree)
        at_y, by_y = _chebyshev(y, begin, count, degree)
        weights = np.stack([np.add.reduceat(by_y * (weight * one), begin, axis=1) for one in by_u])  # [degree, degree, boxes]
        shape = weights.shape
        box = np.broadcast_to(owner, shape)
        found.append(
            [
                part.transpose(2, 0, 1).ravel()
                for part in (box, weights, np.broadcast_to(at_u[:, None], shape), np.broadcast_to(at_y, shape))
            ]
        )
    owner, weight, u, y = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(owner, kind="stable")
    return owner[order], weight[order], u[order], y[order]


def _chebyshev(values, begin, count, degree):
    """Nodes [degree, boxes] over the range of each box, and the value of every node's interpolant at every source [degree, K]."""
    low, high = np.minimum.reduceat(values, begin), np.maximum.reduceat(values, begin)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-300)
    angle = math.pi * (np.arange(degree) + 0.5) / degree
    scaled = np.clip((values - np.repeat(middle, count)) / np.repeat(half, count), -1, 1)
    powers = np.cos(np.arange(degree)[:, None] * np.arccos(scaled))  # Chebyshev polynomials
    factors = np.cos(np.outer(angle, np.arange(degree))) * (2 / degree)
    factors[:, 0] /= 2
    return middle + half * np.cos(angle)[:, None], factors @ powers
