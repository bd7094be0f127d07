"""What the members of a population have in common, what each has of its own, and the checks of both before any work.

Members share one compiled program, so whatever is compiled into it is equal: the shape of the model, batch and length, the number of steps,
precision, kernels, the optimizer's constants. What enters the program as an array may differ: tokens (sources, phases, their seed), the
initial weights (seed), the rate of every step (schedule), the weight decay.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence

import numpy as np

from kaiyuan_jax import config, config_check
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data import loader, recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.data.store import Store
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.training import resume

# Fields, as a regular expression on their dotted path, in which members may differ.
OWN = r"name|output|seed|schedule\..*|data\.(seed|sources|phases|domain_limits).*|optimizer\.weight_decay"
OWN_SAID = "name, seed, schedule, data.sources, data.phases, data.seed and optimizer.weight_decay"


@dataclasses.dataclass(frozen=True)
class Members:
    """The members of one population, resolved; tuples have one entry a member."""

    experiments: tuple[Experiment, ...]
    plans: tuple[Plan, ...]
    stores: tuple[list[Store], ...]

    def __len__(self) -> int:
        return len(self.experiments)

    @property
    def first(self) -> Experiment:
        """For what is equal in all."""
        return self.experiments[0]

    @property
    def names(self) -> list[str]:
        return [experiment.name for experiment in self.experiments]

    @property
    def steps(self) -> int:
        return self.plans[0].steps

    def rates(self):
        """One schedule a member: step -> float32 rate."""
        sizes = dict(batch_size=self.plans[0].batch_size, sequence_length=self.plans[0].sequence_length)
        return [schedules.build(experiment.schedule, self.steps, **sizes) for experiment in self.experiments]

    def checksums(self) -> list[str]:
        """SHA-256 of each member's rates, which a schedule's file decides and the config does not."""
        return [hashlib.sha256(np.asarray(rate(np.arange(self.steps)), np.float32).tobytes()).hexdigest() for rate in self.rates()]

    def orders(self) -> list[dict]:
        """What the order of each member's data depends on (resume.order_of)."""
        return [resume.order_of(plan, stores) for plan, stores in zip(self.plans, self.stores, strict=True)]


def check(experiments: Sequence[Experiment]) -> None:
    """Raises ConfigError, one line a problem, for members that cannot be trained or not together; opens nothing."""
    if not experiments:
        raise ConfigError("members: found none, a population needs at least one")
    names = [experiment.name for experiment in experiments]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"members: {', '.join(repeated)} given more than once, names must be unique")
    for experiment in experiments:
        try:
            config_check.check(experiment)
        except ConfigError as error:
            raise ConfigError("\n".join(f"member {experiment.name}: {line}" for line in str(error).splitlines())) from None
    if found := list(_unsupported(experiments[0])):
        raise ConfigError("\n".join(found))
    shared = dict(_leaves(dataclasses.asdict(experiments[0])))
    for experiment in experiments[1:]:
        mine = dict(_leaves(dataclasses.asdict(experiment)))
        for path in [*shared, *(path for path in mine if path not in shared)]:
            one, other = shared.get(path, "(absent)"), mine.get(path, "(absent)")
            if one != other and not re.fullmatch(OWN, path):
                raise ConfigError(
                    f"config.{path}: member {names[0]} has {one!r}, member {experiment.name} has {other!r}; members may differ in "
                    f"{OWN_SAID}, and train as populations of their own otherwise"
                )


def resolve(experiments: Sequence[Experiment]) -> Members:
    """Opens the stores and resolves the plans, each once however many members have it. Raises ConfigError."""
    check(experiments)
    opened: dict[str, list[Store]] = {}
    planned: dict[str, Plan] = {}
    plans, stores = [], []
    for experiment in experiments:
        data = experiment.data
        sources, whole = (json.dumps(dataclasses.asdict(data)[key] if key else dataclasses.asdict(data)) for key in ("sources", ""))
        try:
            if sources not in opened:
                opened[sources] = loader.open_stores(data)
            if whole not in planned:
                held = zip(data.sources, opened[sources], strict=True)
                tokens, scored = zip(*(((s.name, store.tokens), (s.name, store.scored)) for s, store in held), strict=True)
                planned[whole] = recipe.resolve(data, dict(tokens), dict(scored))
        except ConfigError as error:
            raise ConfigError("\n".join(f"member {experiment.name}: {line}" for line in str(error).splitlines())) from None
        plans.append(planned[whole])
        stores.append(opened[sources])
    for experiment, plan, held in zip(experiments, plans, stores, strict=True):
        if plan.steps != plans[0].steps:
            raise ConfigError(
                f"config.data.phases: member {experiments[0].name} has {plans[0].steps} steps, member {experiment.name} has {plan.steps}; "
                "give both the same tokens"
            )
        if held[0].fingerprint != stores[0][0].fingerprint:
            raise ConfigError(
                f"config.data.sources: stores of members {experiments[0].name} and {experiment.name} were made with different tokenizers"
            )
        if (largest := max(store.vocabulary for store in held)) > experiment.model.vocabulary:
            raise ConfigError(
                f"config.model.vocabulary: found {experiment.model.vocabulary}, the tokenizer of member {experiment.name}'s stores needs "
                f"{largest} or more"
            )
    members = Members(tuple(experiments), tuple(plans), tuple(stores))
    members.rates()  # for what is wrong with a schedule
    return members


def verify(members: Members) -> None:
    """Reads every store whole, each once, as training alone does; raises ConfigError where one is not what it says."""
    found = {}
    for experiment, stores in zip(members.experiments, members.stores, strict=True):
        found |= {source.path: (source, store) for source, store in zip(experiment.data.sources, stores, strict=True)}
    sources, stores = zip(*found.values(), strict=True)
    loader.verify(config.Data(sources=list(sources), verify_tokens=members.first.data.verify_tokens), stores)


def _unsupported(experiment: Experiment) -> Iterator[str]:
    averaging, health, mesh = experiment.averaging, experiment.health, experiment.mesh
    alone = "or train this experiment alone (launch/train.py)"
    for field in ("start", "branch"):
        if value := getattr(experiment, field):
            yield f"config.{field}: found {value!r}, members begin with new weights; leave it empty, {alone}"
    for axis in ("fsdp", "tensor", "context"):
        if (size := getattr(mesh, axis)) not in (1, -1):
            yield f"config.mesh.{axis}: found {size}, a population is cut over devices by member and no member is cut; set it to 1, {alone}"
    if averaging.online_decay or averaging.online_every:
        yield f"config.averaging: a population keeps no running average; set online_decay and online_every to 0, {alone}"
    if health.divergence != "stop" or health.spike:
        yield f"config.health: a member that diverges stands still while the others go on; set divergence to 'stop' and spike to 0, {alone}"
    if experiment.checkpoint.local:
        yield f"config.checkpoint.local: found {experiment.checkpoint.local!r}; a population keeps no local copies: leave it empty, {alone}"
    if experiment.logging.statistics:
        yield f"config.logging.statistics: a population measures none; set it to False, {alone}"


def _leaves(tree, path: str = "") -> Iterator[tuple[str, object]]:
    """(dotted path, value) of every leaf; an empty list is a leaf."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(tree, list) and tree:
        for number, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, tree
