"""What share of each phase every domain has (English, code, ...), held against the limits of the recipe.

With t_s tokens of source s in a phase, the share of a domain is sum(t_s, s in domain) / sum(t_s). Where stores are not here, t_s rests
on declared sizes; `assumed` is the share of a phase's tokens whose source has a size of ours, unknown to those who wrote the recipe.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

from kaiyuan_jax.config import DomainLimit, Experiment
from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import Plan

UNNAMED = "(none)"  # domain of a source without one


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One phase, or the run: tokens by domain, in the order of the sources, and the share of them that rests on assumed sizes."""

    name: str
    tokens: dict[str, int]
    assumed: float

    @property
    def total(self) -> int:
        return sum(self.tokens.values())

    def share(self, domain: str) -> float:
        return self.tokens.get(domain, 0) / self.total


def mixtures(experiment: Experiment, plan: Plan) -> list[Mixture]:
    """One mixture a phase, and the whole run's last."""
    sources = {source.name: source for source in experiment.data.sources}
    domain = {name: source.domain or UNNAMED for name, source in sources.items()}
    assumed = {name for name, source in sources.items() if source.planned_from == "ours" and not is_here(source)}
    portions = iter(recipe.portions(plan))
    parts = [[next(portions) for _ in phase.uses] for phase in plan.phases]
    names = [phase.name for phase in plan.phases]
    return [
        _mixture(name, part, domain, assumed)
        for name, part in [*zip(names, parts, strict=True), ("run", [one for part in parts for one in part])]
    ]


def _mixture(name, portions, domain, assumed) -> Mixture:
    tokens = dict.fromkeys(domain.values(), 0)
    for portion in portions:
        tokens[domain[portion.source]] += portion.tokens
    ours = sum(portion.tokens for portion in portions if portion.source in assumed)
    return Mixture(name, tokens, ours / sum(tokens.values()))


def broken(limits: list[DomainLimit], parts: list[Mixture]) -> Iterator[tuple[DomainLimit, Mixture]]:
    """The limits that phases break, by phase."""
    for part in parts:
        for limit in limits:
            if not limit.at_least <= part.share(limit.domain) <= limit.at_most:
                yield limit, part


def words(limit: DomainLimit) -> str:
    """A limit as a user would say it."""
    wanted = [f"at least {limit.at_least:.3g}"] * (limit.at_least > 0) + [f"at most {limit.at_most:.3g}"] * (limit.at_most < 1)
    return f"{limit.domain} {' and '.join(wanted) or 'any share'}"


def is_here(source) -> bool:
    """Whether the store of a source is on this machine."""
    return bool(source.path) and pathlib.Path(source.path).exists()
