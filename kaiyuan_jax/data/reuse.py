"""How often text may be read: what passes are worth, and a budget of tokens turned into passes per quantile under a limit.

U tokens read K times are worth, by the fit of 2305.16264 (its appendix A; models to 8.7B parameters, up to 1,500 passes),

    U [1 + R (1 - exp(-(K - 1) / R))],   R = 15.39:   3.7 U at 4 passes, 16.4 U at most

so pass K brings exp(-(K - 1) / R) of a fresh one. LIMIT, where that falls below one half, is ours. 2511.13421 finds that R grows with U
(experiments/reuse measures how, at the size of one's own models), so R is an argument everywhere.

The planner. Bands of text, U_i tokens each of worth v_i a token (of their quality; any unit), and a budget of T tokens to read:

    maximise  sum_i v_i U_i worth(K_i)    subject to   sum_i U_i K_i = T,   0 <= K_i <= limit.

Every term is concave in K_i, so one price m settles all: K_i = 0 where v_i < m, else 1 + R ln(v_i / m), at most the limit. At a price equal
to some v_i that band is read in part, which is where a budget usually falls that is less than all text once. With R = inf a second pass is
worth a first one, and the best band is read to the limit before the next is opened.
"""

import dataclasses
import math
from collections.abc import Sequence

from kaiyuan_jax.config import UserError

DECAY = 15.387756  # R of 2305.16264
LIMIT = 1 + DECAY * math.log(2)  # passes, 11.7


def worth(passes: float, decay: float = DECAY) -> float:
    """Fresh passes that `passes` over the same text are worth; up to one they are fresh."""
    if passes <= 1 or math.isinf(decay):
        return passes
    return 1 + decay * -math.expm1(-(passes - 1) / decay)


def limit_of(share: float, decay: float = DECAY) -> float:
    """Passes after which one more is worth less than `share`, in (0, 1], of a fresh one."""
    return 1 - decay * math.log(share)


@dataclasses.dataclass(frozen=True)
class Band:
    """Text of one source between two quantiles of quality (0 worst, 1 best, of token mass)."""

    source: str
    low: float
    high: float
    tokens: float  # unique
    value: float = 1.0  # worth of one fresh token, beside that of other bands


@dataclasses.dataclass(frozen=True)
class Allotment:
    """How often a band is read, in all phases together."""

    band: Band
    passes: float

    @property
    def tokens(self) -> float:
        return self.band.tokens * self.passes


def allot(bands: Sequence[Band], budget: float, *, limit: float = LIMIT, decay: float = DECAY) -> list[Allotment]:
    """Passes of every band, in the order given, that make the most of `budget` tokens (see above).

    Bands of equal value are read equally often. Raises UserError where the budget is more than `limit` passes of everything, or a number
    makes no sense.
    """
    _check(bands, budget, limit, decay)
    if math.isclose(budget, limit * math.fsum(band.tokens for band in bands), rel_tol=1e-9):
        return [Allotment(band, float(limit)) for band in bands]

    def passes(band: Band, log_price: float) -> float:
        above = math.log(band.value) - log_price
        if above < 0:
            return 0.0
        return min(limit, 1 + decay * above if above and math.isfinite(decay) else limit if above else 1.0)

    def read(log_price: float) -> float:
        return math.fsum(band.tokens * passes(band, log_price) for band in bands)

    edges = sorted({math.log(band.value) for band in bands}, reverse=True)
    below = edges[-1] - max(0.0, limit - 1) / decay - 1  # here all are read to the limit
    for price, cheaper in zip(edges, [*edges[1:], below], strict=True):
        # Just above this price its own bands are not read at all; at it they may be read up to once (or the limit, when R is infinite).
        before = read(math.nextafter(price, math.inf))
        at_price = [band for band in bands if math.log(band.value) == price]
        size, most = math.fsum(band.tokens for band in at_price), limit if math.isinf(decay) else min(1.0, limit)
        if budget <= before + most * size:
            part = max(0.0, (budget - before) / size)
            return [Allotment(band, part if band in at_price else passes(band, math.nextafter(price, math.inf))) for band in bands]
        if budget <= read(math.nextafter(cheaper, math.inf)) and math.isfinite(decay):
            low, high = cheaper, price
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (low, middle) if read(middle) < budget else (middle, high)
            return [Allotment(band, passes(band, high)) for band in bands]
    raise AssertionError("a budget within the limit has a price")


def _check(bands, budget, limit, decay):
    if not bands:
        raise UserError("bands: found none; give at least one band of text")
    for band in bands:
        if not (band.tokens > 0 and band.value > 0 and 0 <= band.low < band.high <= 1):
            raise UserError(f"band {band}: tokens and value must be above 0, and 0 <= low < high <= 1")
    if not (limit > 0 and decay > 0 and budget >= 0):
        raise UserError(f"limit {limit:g}, decay {decay:g}, budget {budget:g}: limit and decay must be above 0, the budget not below")
    unique = math.fsum(band.tokens for band in bands)
    if budget > limit * unique * (1 + 1e-9):
        raise UserError(
            f"budget: {budget:,.0f} tokens are more than {limit:.3g} passes of {unique:,.0f} unique ones; lower the budget to "
            f"{limit * unique:,.0f}, raise the limit to {budget / unique:.4g}, or add {budget / limit - unique:,.0f} tokens of other text"
        )
