"""Sums over all past changes of the learning rate, in O(log T) nodes for each evaluated step.

Every law here with a memory has the form

    sum over k = 1..s of (eta_{k-1} - eta_k) f(eta_k, x_k),        x_k = eta_k + ... + eta_s = S(s) - S(k-1)

with a smooth f. Only steps whose rate changed are sources. (prototype; owner rewrites this docstring)
"""

import dataclasses

import numpy as np

LEAF = 16
RATIO = 1.0  # a cell is far when its extent in y is at most RATIO times its least distance
FLOOR = 1e-12  # rates below this share of the peak count as this in eta^-gamma


@dataclasses.dataclass(frozen=True, eq=False)
class Nodes:
    """The sources as evaluated steps see them: pair p of step i (start[i] <= p < start[i + 1]) adds weight[p] f(rate[p], x[p], begin[p])."""

    step: np.ndarray  # int64[E]
    total: np.ndarray  # float64[E]: S(s), the sum of the rates 0 to s
    rate: np.ndarray  # float64[E]: eta_s
    peak: np.ndarray  # float64[E]: the highest rate of the schedule
    start: np.ndarray  # int64[E + 1]
    weight: np.ndarray  # float64[P]: eta_{k-1} - eta_k, or the weight of a quadrature node
    log_rate: np.ndarray  # float64[P]: ln eta_k, floored at ln(FLOOR peak)
    x: np.ndarray  # float64[P]: S(s) - S(k-1)
    begin: np.ndarray  # float64[P]: S(k)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """float64[E]: for every step the sum of weight * values over its pairs; `values` is float64[P], or float64[n, P] -> [n, E]."""
        padded = np.zeros((*values.shape[:-1], self.weight.size + 1))
        np.multiply(values, self.weight, out=padded[..., :-1])
        sums = np.add.reduceat(padded, self.start[:-1], axis=-1)
        sums[..., self.start[:-1] == self.start[1:]] = 0.0
        return sums


def concatenate(parts) -> Nodes:
    """Several curves as one set of nodes, in order."""
    parts = list(parts)
    offsets = np.cumsum([0, *(part.weight.size for part in parts)])
    starts = [part.start[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    fields = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Nodes)
        if field.name != "start"
    }
    return Nodes(start=np.concatenate([*starts, offsets[-1:]]), **fields)


def exact(rates: np.ndarray, steps: np.ndarray, first: int = 1) -> Nodes:
    """Every source of every step: the oracle. Sources are the changes at updates `first` and later."""
    rates, steps = np.asarray(rates, np.float64), np.asarray(steps, np.int64)
    k, gap, log_rate, total = _sources(rates, first)
    count = np.searchsorted(k, steps, side="right")
    start = np.concatenate([[0], np.cumsum(count)])
    index = np.arange(start[-1]) - np.repeat(start[:-1], count)
    return Nodes(
        step=steps, total=total[steps], rate=rates[steps], peak=np.full(steps.size, rates.max()), start=start, weight=gap[index],
        log_rate=log_rate[index], x=np.repeat(total[steps], count) - (total - rates)[k][index], begin=total[k][index],
    )


def _sources(rates, first):
    gap = rates[:-1] - rates[1:]
    k = np.flatnonzero(gap) + 1
    k = k[k >= max(first, 1)]
    log_rate = np.log(np.maximum(rates[k], FLOOR * max(rates.max(), 1e-300)))
    return k, gap[k - 1], log_rate, np.cumsum(rates)


def build(rates: np.ndarray, steps: np.ndarray, first: int = 1) -> Nodes:
    """The same sums as `exact` in O(log T) nodes for each step."""
    rates, steps = np.asarray(rates, np.float64), np.asarray(steps, np.int64)
    k, gap, log_rate, total = _sources(rates, first)
    y = total[k] - rates[k]  # S(k-1)
    cells = _tree(k, gap, log_rate, y)
    count = np.searchsorted(k, steps, side="right")
    out_step, out_weight, out_rate, out_y = [], [], [], []
    S = total[steps]

    def emit(step_index, w, u, yy):
        out_step.append(step_index), out_weight.append(w), out_rate.append(u), out_y.append(yy)

    level = len(cells) - 1
    who, cell = np.arange(steps.size)[count > 0], np.zeros(np.sum(count > 0), np.int64)
    while level >= 0 and who.size:
        c = cells[level]
        lo, hi = c["lo"][cell], c["hi"][cell]
        keep = lo < count[who]
        who, cell, lo, hi = who[keep], cell[keep], lo[keep], hi[keep]
        inside = hi <= count[who]
        # distance from s to the end of the cell
        near = S[who] - y[np.minimum(hi, y.size) - 1]
        far = inside & c["smooth"][cell] & (c["extent"][cell] <= RATIO * near)
        if far.any():
            f = cell[far]
            emit(np.repeat(who[far], 3), c["weight"][f].ravel(), c["u"][f].ravel(), c["y"][f].ravel())
        who, cell, lo, hi = who[~far], cell[~far], lo[~far], hi[~far]
        if level == 0:
            n = np.minimum(hi, count[who]) - lo
            rep = np.repeat(np.arange(who.size), n)
            idx = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + lo[rep]
            emit(who[rep], gap[idx], log_rate[idx], y[idx])
            break
        who = np.repeat(who, 2)
        cell = (2 * cell[:, None] + np.arange(2)).ravel()
        ok = cell < cells[level - 1]["lo"].size
        who, cell = who[ok], cell[ok]
        level -= 1
    if not out_step:
        out_step, out_weight, out_rate, out_y = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    who = np.concatenate(out_step)
    order = np.argsort(who, kind="stable")
    who = who[order]
    w, u, yy = (np.concatenate(part)[order] for part in (out_weight, out_rate, out_y))
    keep = w != 0
    who, w, u, yy = who[keep], w[keep], u[keep], yy[keep]
    start = np.concatenate([[0], np.cumsum(np.bincount(who, minlength=steps.size))])
    return Nodes(
        step=steps, total=S, rate=rates[steps], peak=np.full(steps.size, rates.max()), start=start, weight=w, log_rate=u, x=S[who] - yy,
        begin=yy + np.exp(u),
    )


def _tree(k, gap, log_rate, y):
    levels, size = [], LEAF
    n = k.size
    while n:
        lo = np.arange(0, n, size)
        hi = np.minimum(lo + size, n)
        y0, y1 = y[lo], y[hi - 1]
        extent = y1 - y0
        sign = np.sign(gap)
        csum = np.concatenate([[0], np.cumsum(sign)])
        same = np.abs(csum[hi] - csum[lo]) == hi - lo
        contiguous = k[hi - 1] - k[lo] == hi - lo - 1
        umax, umin = np.maximum.reduceat(log_rate, lo), np.minimum.reduceat(log_rate, lo)
        smooth = same & contiguous & (umax - umin <= 0.7)
        centre, half = (y0 + y1) / 2, np.maximum((y1 - y0) / 2, 1e-300)
        z = (y - np.repeat(centre, hi - lo)) / np.repeat(half, hi - lo)
        m = np.stack([np.add.reduceat(np.abs(gap) * z**p, lo) for p in range(6)], -1)
        zs, ws = _gauss3(m)
        yy = centre[:, None] + half[:, None] * zs
        u = np.interp(yy.ravel(), y, log_rate).reshape(yy.shape) if n > 1 else np.full(yy.shape, log_rate[0])
        levels.append(
            dict(lo=lo, hi=hi, extent=extent, smooth=smooth, weight=ws * np.sign(gap[lo])[:, None], u=u, y=yy)
        )
        if lo.size == 1:
            break
        size *= 2
    return levels


def _gauss3(m):
    """Nodes and weights of 3-point Gauss quadrature from the moments 0 to 5 of positive measures, float64[..., 6]."""
    mu = m / np.maximum(m[:, :1], 1e-300)
    a0 = mu[:, 1]
    # modified moments by explicit orthogonalisation
    b1 = np.maximum(mu[:, 2] - a0**2, 1e-14)
    # p1 = z - a0
    e = lambda coef: sum(coef[j] * mu[:, j] for j in range(len(coef)))  # noqa: E731
    p1 = [-a0, 1]
    zp1p1 = e([0, p1[0] ** 2, 2 * p1[0], 1])
    a1 = zp1p1 / b1
    # p2 = (z - a1) p1 - b1
    p2 = [a1 * a0 - b1, -a0 - a1, 1]
    sq = [p2[0] ** 2, 2 * p2[0] * p2[1], p2[1] ** 2 + 2 * p2[0], 2 * p2[1], 1]
    n2 = np.maximum(e(sq), 1e-14)
    b2 = n2 / b1
    a2 = e([0, *sq]) / n2
    a1, a2 = np.clip(a1, -1, 1), np.clip(a2, -1, 1)
    J = np.zeros((m.shape[0], 3, 3))
    J[:, 0, 0], J[:, 1, 1], J[:, 2, 2] = a0, a1, a2
    J[:, 0, 1] = J[:, 1, 0] = np.sqrt(b1)
    J[:, 1, 2] = J[:, 2, 1] = np.sqrt(b2)
    z, v = np.linalg.eigh(J)
    return np.clip(z, -1, 1), m[:, :1] * v[:, 0, :] ** 2
