"""Which text is read again, and what that is worth: distinct tokens, repeated ones, and how many fresh ones they stand for.

What passes are worth, and the limit, are those of `data.reuse`, by the fit of 2305.16264. 2511.13421 finds, in theory and for 0.3B
parameters on 0.2B to 2B tokens, that up to about 5 passes are each worth nearly a fresh one and that the plateau rises with the size of
the set, which that fit does not know: it is a lower reading for large sources. The dependence on size that 2511.13421 fits to its runs
comes without the unit of the size in what was at hand, and is not used here.
"""

import dataclasses
import math
from collections.abc import Mapping

from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.data.reuse import LIMIT, Band, allot, worth
from kaiyuan_jax.plan.section import Section, Table, human

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


def within_limit(plan: Plan, limit: float = LIMIT) -> dict[str, str]:
    """By source that has a quantile read more than `limit` times in all: how to read as much of it within the limit, best text first."""
    found = {}
    sizes = {plan.sources[use.source]: use.sequences * plan.sequence_length for phase in plan.phases for use in phase.uses}
    for name, steps in recipe.exposures(plan).items():
        beyond = [step for step in steps if step.passes > limit]
        if not beyond:
            continue
        bands = [Band(name, step.low, step.high, (step.high - step.low) * sizes[name], 1 + step.low) for step in steps]
        read = math.fsum(band.tokens * step.passes for band, step in zip(bands, steps, strict=True))
        places = ", ".join(f"{step.passes:.3g} times between {step.low:.3g} and {step.high:.3g}" for step in beyond)
        if read > limit * sizes[name]:
            most = limit * sizes[name]
            advice = f"all of it {limit:.1f} times is {human(round(most))}: {human(round(read - most))} tokens have to come from other text"
        else:
            low = min(
                one.band.high - (one.band.high - one.band.low) * one.passes / limit
                for one in allot(bands, read, limit=limit, decay=math.inf)
                if one.passes
            )
            advice = f"the window ({low:.3g}, 1) read {limit:.1f} times is as much text"
        found[name] = f"{name} is read {places} of its quality; {advice}"
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
