"""Quality sampling with a temperature: how many rows of each part of a window are read, better parts more densely, nothing twice.

Gumbel top-k. Sequence j of quality z_j gets the weight w_j = exp(z_j / T), and the k largest of z_j / T + G_j are taken, G_j independent
Gumbel noise: the same as drawing k times without replacement, each time in proportion to the weights that are left (Plackett and Luce;
QuRating, arXiv 2402.09739, selects documents so). T near 0 takes the best k, a large T takes all alike. Since exp(-G_j) is an exponential
waiting time, j is taken when a clock of rate w_j rings among the first k, which happens at a time t that hardly varies when k is large:
of n_b sequences of one weight w_b there are on average

    m_b = n_b (1 - exp(-t w_b)),    t such that sum_b m_b = k.

A window is cut into 100 parts of equal token mass. A store knows ranks, so a part's quality is the normal score of its middle quantile q,
z = Phi^-1(q): what a standardised score is where scores are normally distributed, and the same for every score that sorts alike.

The plan keeps whole numbers in place of the m_b: their cumulative sums, moved by one seeded offset below 1 and rounded down, so that they
add up to k and are right on average over seeds. A part gives every (n_b / m_b)-th sequence from a seeded start on: stratum k is the
sequence (k n_b + v) // m_b, v uniform in [0, n_b), which takes each with the same probability and none twice. So over seeds a sequence is
taken as often as Gumbel top-k takes it, to the width of a part; what chance would add to the counts by quality is left out; and no noise
is drawn for every sequence of a store, nor remembered.
"""

import itertools
import math
import statistics

import numpy as np

from kaiyuan_jax.data.permutation import seed_of

PARTS = 100
_FINE = 10**9  # densities are rounded to this share of the largest before counts are made of them, so that every machine makes the same


def edges(width: int) -> np.ndarray:
    """int64[parts + 1]: where the parts of a window of `width` sequences begin and end, none of them empty."""
    parts = min(PARTS, width)
    return np.arange(parts + 1) * width // parts


def counts(begin: int, end: int, sequences: int, rows: int, temperature: float, seed: int) -> tuple[int, ...]:
    """Rows read of each part of the window [begin, end) of a store of `sequences`, from worst to best; they add up to `rows`."""
    cuts = edges(end - begin)
    sizes = np.diff(cuts)
    shares = inclusion((begin + (cuts[:-1] + cuts[1:]) / 2) / sequences, sizes, rows, temperature)
    densities = np.rint(shares / shares.max() * _FINE).astype(np.int64)
    mass = list(itertools.accumulate((int(one) * int(size) for one, size in zip(densities, sizes, strict=True)), initial=0))
    offset = seed_of(seed, "counts") % mass[-1]
    below = [(rows * one + offset) // mass[-1] for one in mass]
    found, spare = [after - before for before, after in itertools.pairwise(below)], 0
    for part in reversed(range(len(found))):  # a part that rounding gave a row too many passes it on to the next best
        wanted = found[part] + spare
        found[part] = min(wanted, int(sizes[part]))
        spare = wanted - found[part]
    return tuple(found)


def inclusion(quantiles, sizes, rows: int, temperature: float) -> np.ndarray:
    """float64[parts]: the probability that Gumbel top-k at `rows` takes a sequence of each part.

    quantiles: of the middle of each part, inside (0, 1); sizes: its sequences; rows: at most all of them.
    """
    sizes = np.asarray(sizes, np.float64)
    if rows >= sizes.sum():
        return np.ones(len(sizes))
    normal = statistics.NormalDist()
    logarithms = np.array([normal.inv_cdf(float(quantile)) for quantile in quantiles]) / temperature

    def taken(log_time):
        return -np.expm1(-np.exp(np.minimum(log_time + logarithms, 700.0)))

    low, high = -logarithms.max() - 60.0, -logarithms.min() + 60.0  # of log t: nothing is taken, all is taken
    while high - low > 1e-13 * max(abs(low), abs(high), 1.0):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if math.fsum(sizes * taken(middle)) < rows else (low, middle)
    return taken((low + high) / 2)
