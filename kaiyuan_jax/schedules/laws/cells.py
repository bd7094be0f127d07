"""A binary tree over the steps of a schedule, and how far from a step each of its cells may be replaced by a few nodes.

A cell holds LEAF 2^level consecutive steps; falls and rises of the rate have a tree each, so that the changes |gap_k| of a cell are a
positive measure over its steps, z = -1 to 1. Its moments m_p = sum |gap| z^p, p < 2 ORDER, give the Gauss rule of up to ORDER nodes of
that measure whatever it looks like: one jump, a cosine, a staircase of float32 roundings. What the kernel reads of a source,
u = ln eta_k and y = S(k-1), enters through the projections of u and y on the polynomials of degree < n in that measure, read off at the
nodes. Moments of a cell follow from those of its halves, so all of them cost O(T).

The error of n nodes for a kernel f(u, S(s) - y), as `build` uses it, W the cell's sum of |gap|:

* W AMPLITUDE rho^-2n for f along the projected u and y, where 1/rho^2 = 1/rho_x^2 + (h/2)^2. rho_x is the ellipse of analyticity that
  x = 0 leaves when the cell has extent e and lies d away, (rho_x + 1/rho_x)/2 = 1 + 2d/e; h is half the range of u. The constants
  bound Gauss errors measured over C, beta, gamma <= 1.4 and the exponential kernel, e/d = 1/4 to 8 and h <= 1.5.
* W sd(u - its projection) rho^-n / 2, the first order in what the projection leaves, which is orthogonal to all polynomials of
  degree < n, and SECOND / 4 W var(u - its projection), the second: it has one sign in all cells, so that they add up. The second for
  y too, relative to d: a rate that falls to one level after stretches of random length has no variance but this.
* With kernels that have a factor S(k)^-s, S = 0 on the other side of the cell counts in 1/rho^2 like x = 0, what the projection of y
  leaves counts relative to S(k) as u does, and W as EARLY (S(T) / S(k)) W.

No step of this trusts a look at the schedule: a kink, a jump or noise is in the variances. `Tree.reach[n - 1]` solves for d: the least
distance at which n nodes keep every term within TOLERANCE of the peak rate (infinite if none does). A step sees some 3 cells of each
octave of distance, so errors of cells add up to more than TOLERANCE: what the sums come to is measured, see `quadrature`.

Where the rate is so rough that cells would have to be split down to the sources, cells use a tensor of `degree` x `degree` Chebyshev
nodes in (y, u), one per band of width BAND in u, which need no smoothness of the schedule at all; a band with fewer sources keeps them.
"""

import dataclasses
import math

import numpy as np

LEAF = 8  # steps of the smallest cell
ORDER = 4  # most nodes of a Gauss rule
TOLERANCE = 8e-7  # of the peak rate, for each term of the error of one cell
VARIATION = 2.0  # a schedule whose rate goes up and down more than this many peaks has as many more cells: each gets less tolerance
AMPLITUDE = 0.5  # of the kernels, 0 to 1, in the error of a Gauss rule
SECOND = 8.0  # terms of second order have one sign in every cell and add up: each gets so much less of the tolerance
EARLY = 16.0  # the same for errors that a factor S(k)^-s makes: alike in all octaves of S, and S^-1 is steeper than the kernels
FLOOR = 1e-12  # rates below this share of the peak count as this in ln eta: the limit of eta -> 0
BAND = 0.35  # of ln eta, for tensors
_POWERS = ((2 * np.arange(LEAF) + 1 - LEAF) / LEAF)[:, None] ** np.arange(2 * ORDER)  # z^p at the middle of each step of a leaf
# Columns of what is summed over the sources of a cell: |gap| z^p, |gap| u z^p, |gap| y z^p; 1, |gap| u^2, |gap| y^2.
_M, _U, _Y = slice(0, 2 * ORDER), slice(2 * ORDER, 3 * ORDER), slice(3 * ORDER, 4 * ORDER)
_COUNT, _UU, _YY = range(4 * ORDER, 4 * ORDER + 3)


def _half(centre):
    """The matrix that takes a half's sums to its parent's z = (z + centre) / 2."""
    shift = [[math.comb(p, j) * centre ** (p - j) / 2**p if j <= p else 0.0 for p in range(2 * ORDER)] for j in range(2 * ORDER)]
    whole = np.eye(_YY + 1)
    for columns in (_M, _U, _Y):
        count = columns.stop - columns.start
        whole[columns, columns] = np.array(shift)[:count, :count]
    return whole


_HALVES = _half(-1.0), _half(1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """The cells that have sources, N in all; `index` finds them.

    Levels follow each other, finest first; within a level the falls of its cells, then their rises: cell c of sign s (1 for rises) of level
    l is index[offset + s widths[l] + c] with offset the sum of 2 widths of the levels below, -1 where it has no source.
    """

    widths: tuple[int, ...]  # cells of each level, of each sign
    index: np.ndarray  # int64[2 sum of widths]
    count: np.ndarray  # float64[N]: sources
    mass: np.ndarray  # float64[N]: sum of the gaps: negative for rises
    last: np.ndarray  # float64[N]: y of the last step of the cell
    end: np.ndarray  # float64[N]: S of the last step of the cell
    reach: np.ndarray  # float64[ORDER, N]: the least S(s) - end at which n nodes are enough
    tensor: np.ndarray  # float64[N]: the same for the tensor; infinite where it is no use
    degree: int  # of the tensor: nodes in each of its directions
    gram: dict  # the Cholesky factor of the Gram matrix of 1, z, .. z^ORDER: float64[N] by entry
    u: list  # ln (eta / peak) on the ORDER orthonormal polynomials of each cell, float64[N]
    y: list  # S(k-1) - last on them


def tree(rates: np.ndarray, gap: np.ndarray, log_rate: np.ndarray, y: np.ndarray, early: bool) -> Tree:
    """Rates, gaps (0 where a step is no source), floored ln eta and S(k-1) of every step, float64[T]; at least one gap.

    `early`: nodes also serve kernels times S(k)^-s, s <= 1, singular at S = 0 as the kernels are at x = 0.
    """
    peak = rates.max()
    variation = np.abs(gap).sum()
    tolerance = TOLERANCE * peak
    rule_tolerance = tolerance * min(1.0, VARIATION * peak / variation)
    fine, widths = _leaves(gap, log_rate - math.log(peak), y)
    levels = [fine]
    while len(levels) < len(widths):
        levels.append(_parents(levels[-1], LEAF * 2 ** len(levels), y))
    cell = {name: np.concatenate([level[name] for level in levels]) for name in fine if name != "sums"}
    sums = np.concatenate([level["sums"].T for level in levels], axis=1)  # [_YY + 1, N]: long rows from here on
    mass, count = sums[0].copy(), sums[_COUNT].copy()
    size = np.concatenate([np.full(level["cell"].size, LEAF * 2**i) for i, level in enumerate(levels)])
    offset = np.cumsum([0, *(2 * width for width in widths)])
    index = np.full(offset[-1], -1)
    index[np.concatenate([level["cell"] + o for level, o in zip(levels, offset, strict=False)])] = np.arange(size.size)
    sums /= mass
    gram = _cholesky(sums[_M])
    u, v = _project(gram, sums[_U]), _project(gram, sums[_Y])
    first = y[cell["step"]]
    stop = np.minimum(cell["step"] + size, gap.size) - 1
    extent = np.maximum(cell["last"] - first, size * (peak * np.exp(cell["high"])))
    share, bend, begin = mass / tolerance, np.zeros(mass.size), math.inf  # bend: what S = 0 takes of 1/rho^2
    if early:
        begin = first + peak * np.exp(cell["low"])
        cosh = 1 + 2 * begin / extent
        bend = (cosh - np.sqrt(cosh**2 - 1)) ** 2
        share *= EARLY * (y[-1] + rates[-1]) / begin  # an early fall may weigh so much more than a late one
    spread = ((cell["high"] - cell["low"]) / 4) ** 2
    left = _left(sums[_UU], u), _left(sums[_YY], v)
    reach = _reach(count, left, share * (tolerance / rule_tolerance), extent, bend + spread, begin)
    degree = max(4, math.ceil(math.log(AMPLITUDE * max(variation / tolerance, 1)) / -math.log(BAND / 4 * math.sqrt(2))))
    tensor = np.full(mass.size, np.inf)
    rough = _rough(widths, index, count, cell, reach, extent, degree)
    if rough.any():
        tensor[rough] = _distance((AMPLITUDE * share[rough]) ** (-2 / degree) - bend[rough] - (BAND / 4) ** 2, extent[rough])
    rise = np.concatenate([level["cell"] >= width for level, width in zip(levels, widths, strict=True)])
    mass = np.where(rise, -mass, mass)
    return Tree(widths, index, count, mass, cell["last"], y[stop] + rates[stop], reach, tensor, degree, gram, u, v)


def _leaves(gap, log_rate, y):
    """Sums over the steps of every leaf that has sources, and how many cells each level has."""
    T = gap.size
    leaves = -(-T // LEAF)
    depth = max(leaves.bit_length() - 3, 1)  # 4 to 8 cells at the top
    leaves += -leaves % 2 ** (depth - 1)

    def laid(values, beyond):
        return np.concatenate([values, np.full(leaves * LEAF - T, beyond)]).reshape(leaves, LEAF)

    gaps, log_rate, y = laid(gap, 0.0), laid(log_rate, 0.0), laid(y, y[-1])
    signs = [np.flatnonzero((sign * gaps > 0) @ np.ones(LEAF)) for sign in (1, -1)]
    which = np.concatenate(signs)
    gaps = np.maximum(np.concatenate([gaps[signs[0]], -gaps[signs[1]]]), 0.0)
    u, last = log_rate[which], y[which, -1]
    y = y[which] - last[:, None]
    source = gaps > 0
    gaps_u, gaps_y = gaps * u, gaps * y
    sums = np.empty((which.size, _YY + 1))
    sums[:, _M] = gaps @ _POWERS
    sums[:, _U] = gaps_u @ _POWERS[:, :ORDER]
    sums[:, _Y] = gaps_y @ _POWERS[:, :ORDER]
    sums[:, _COUNT] = source @ np.ones(LEAF)
    sums[:, _UU] = np.einsum("ij,ij->i", gaps_u, u)
    sums[:, _YY] = np.einsum("ij,ij->i", gaps_y, y)
    level = {
        "cell": np.concatenate([signs[0], leaves + signs[1]]),
        "step": LEAF * which,
        "sums": sums,
        "low": np.where(source, u, np.inf).T.copy().min(axis=0),
        "high": np.where(source, u, -np.inf).T.copy().max(axis=0),
        "last": last,
    }
    return level, tuple(leaves // 2**i for i in range(depth))


def _parents(cell, size, y):
    """The level above, of cells of `size` steps: moments move to the parent's z, y to the parent's last step."""
    parent = cell["cell"] // 2
    new = np.ones(parent.size, bool)
    np.not_equal(parent[1:], parent[:-1], out=new[1:])
    start = np.flatnonzero(new)
    step = cell["step"][start] // size * size
    last = y[np.minimum(step + size, y.size) - 1]
    right = cell["cell"] % 2 == 1
    place = np.cumsum(new) - 1
    right, left = np.flatnonzero(right), np.flatnonzero(~right)
    sums = np.zeros((start.size, _YY + 1))
    sums[place[right]] = cell["sums"][right] @ _HALVES[1]  # the right half ends with its parent
    moved = cell["sums"][left]
    back = cell["last"][left] - last[place[left]]
    moved[:, _YY] += back * (2 * moved[:, _Y.start] + back * moved[:, 0])
    moved[:, _Y] += back[:, None] * moved[:, :ORDER]
    sums[place[left]] += moved @ _HALVES[0]
    return {
        "cell": parent[start],
        "step": step,
        "sums": sums,
        "low": np.minimum.reduceat(cell["low"], start),
        "high": np.maximum.reduceat(cell["high"], start),
        "last": last,
    }


def _cholesky(m):
    """L of the Hankel matrix m_{i+j} of moments float64[2 ORDER, N], by entries; the last row lacks its diagonal."""
    L = {}
    for i in range(ORDER + 1):
        for j in range(min(i + 1, ORDER)):
            value = m[i + j]
            for r in range(j):
                value = value - L[i, r] * L[j, r]
            # Few sources make the matrix singular: the floor is a change of the moments far below the tolerance.
            L[i, j] = np.sqrt(np.maximum(value, 1e-13)) if i == j else value / L[j, j]
    return L


def _project(L, mixed):
    """Coefficients on the orthonormal polynomials from sums with powers of z."""
    found = []
    for i in range(ORDER):
        value = mixed[i]
        for r in range(i):
            value = value - L[i, r] * found[r]
        found.append(value / L[i, i])
    return found


def _distance(inverse, extent):
    """The distance at which 1/rho_x^2 = `inverse` for a cell of that extent: 0 from 1 on, infinite to 0."""
    one_over = np.sqrt(np.clip(inverse, 1e-12, 1))
    return np.where(inverse <= 1e-12, np.inf, extent / 4 * (one_over + 1 / one_over - 2))


def _left(square, projected):
    """What projections on the polynomials of degree < 1, 2, .. ORDER leave of a mean square."""
    left = []
    for coefficient in projected:
        square = np.maximum(square - coefficient**2, 0)
        left.append(square)
    return left


def _reach(count, left, share, extent, bend, begin):
    """The least distance for each order; `bend` is the part of 1/rho^2 that does not depend on it."""
    reach = np.empty((ORDER, count.size))
    for n, (left_u, left_y) in enumerate(zip(*left, strict=True), 1):
        near = left_u + left_y / begin**2  # what no distance makes smaller
        # rho^-2n must be at most 1/(AMPLITUDE share), and at most 4/(share sd)^2 for the first order of what the projection leaves
        most = np.minimum(1 / (AMPLITUDE * share), 4 / np.maximum(share * np.sqrt(near), 1e-30) ** 2)
        distance = _distance(np.exp(np.log(most) / n) - bend, extent)
        distance = np.maximum(distance, np.sqrt(SECOND * share * left_y / 4))
        distance[SECOND * share * near > 4] = np.inf
        distance[(count <= n) | (share <= 1)] = 0  # sources themselves; or not worth more than one node
        reach[n - 1] = distance
    return np.minimum.accumulate(reach, axis=0)


def _rough(widths, index, count, cell, reach, extent, degree):
    """bool[N]: cells that take fewer nodes as a tensor than as the sum of their parts, each seen from its own extent away."""
    bands = np.floor(-cell["low"] / BAND) - np.floor(-cell["high"] / BAND) + 1
    tensor = np.minimum(bands * degree**2, count)
    smooth = 1 + sum((row > extent).astype(np.int64) for row in reach)
    cost = np.where(smooth <= ORDER, np.minimum(smooth, count), np.inf)
    rough = np.zeros(cost.size, bool)
    if np.count_nonzero(np.isinf(cost) & (tensor < count)) < 32:
        return rough  # kinks alone; or a stretch so short that its sources may be kept
    below, offset = None, 0
    for width in widths:
        here = index[offset : offset + 2 * width]
        live = np.flatnonzero(here >= 0)
        here = here[live]
        # A leaf that no rule fits costs its sources.
        split = tensor[here] if below is None else below.reshape(-1, 2).sum(axis=1)[live]
        rough[here] = (cost[here] > split) & (tensor[here] < split)
        below = np.zeros(2 * width)
        below[live] = np.minimum(np.minimum(cost[here], split), tensor[here])
        offset += 2 * width
    return rough
