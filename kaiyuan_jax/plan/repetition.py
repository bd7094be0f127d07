"""Which text is read again, and what that is worth: distinct tokens, repeated ones, and how many fresh ones they stand for.

U tokens read K times are worth, by the fit of 2305.16264 (its appendix A; models to 8.7B parameters, up to 1,500 passes),

    U [1 + R (1 - exp(-(K - 1) / R))],   R = 15.39:   3.7 U at 4 passes, 16.4 U at most

so pass K brings exp(-(K - 1) / R) of a fresh one. LIMIT, where that falls below one half, is ours. 2511.13421 finds, in theory and for 0.3B
parameters on 0.2B to 2B tokens, that up to about 5 passes are each worth nearly a fresh one and that the plateau rises with the size of
the set, which the fit above does not know: it is a lower reading for large sources. The dependence on size that it fits to its runs comes
without the unit of the size in what was at hand, and is not used here.
"""

import dataclasses
import math
from collections.abc import Mapping

from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.plan.section import Section, Table, human

DECAY = 15.387756  # R
LIMIT = 1 + DECAY * math.log(2)  # passes, 11.7
SHOWN = 10  # sources


@dataclasses.dataclass(frozen=True)
class Reading:
    """Of one source in the whole run, tokens."""

    distinct: float
    read: float
    worth: float  # fresh tokens
    most: float  # passes of what is read most often

    @property
    def repeated(self) -> float:
        return self.read - self.distinct


def worth(passes: float) -> float:
    """Fresh passes that `passes` over the same text are worth; up to one they are fresh."""
    return passes if passes <= 1 else 1 + DECAY * -math.expm1(-(passes - 1) / DECAY)


def readings(plan: Plan, tokens: Mapping[str, int]) -> dict[str, Reading]:
    """By source; `tokens` are the sizes of the sources."""
    found = {}
    for name, steps in recipe.exposures(plan).items():
        spans = [((step.high - step.low) * tokens[name], step.passes) for step in steps]
        found[name] = Reading(
            distinct=math.fsum(size * min(passes, 1) for size, passes in spans),
            read=math.fsum(size * passes for size, passes in spans),
            worth=math.fsum(size * worth(passes) for size, passes in spans),
            most=max((passes for _, passes in spans), default=0.0),
        )
    return found


def section(plan: Plan, tokens: Mapping[str, int]) -> Section:
    """What the run sees, what of it again, and what that is worth."""
    found = readings(plan, tokens)
    distinct, read, fresh = (math.fsum(getattr(one, name) for one in found.values()) for name in ("distinct", "read", "worth"))
    parts: list[str | Table] = [
        f"{human(round(read))} tokens are read, {human(round(distinct))} of them for the first time and {human(round(read - distinct))} "
        f"({(read - distinct) / read:.0%}) again. By 2305.16264's fit all of it is worth {human(round(fresh))} fresh tokens."
    ]
    again = sorted((item for item in found.items() if item[1].repeated > 0), key=lambda item: -item[1].repeated)
    if again:
        rows = [
            (name, *(human(round(size)) for size in (one.distinct, one.repeated)), f"{one.most:.3g}", f"{one.worth / one.read:.0%}",
             "below half a fresh one" if one.most > LIMIT else "")
            for name, one in again[:SHOWN]
        ]  # fmt: skip
        parts.append(Table(("source", "distinct", "read again", "most passes", "worth of a token", "last pass"), rows, "<>>>><"))
    if len(again) > SHOWN:
        parts.append(f"and {len(again) - SHOWN} more sources with {human(round(sum(one.repeated for _, one in again[SHOWN:])))} read again")
    return Section("Data seen and repeated", parts)
