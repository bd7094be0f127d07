"""The study of curriculum x decay x averaging (2511.18903): which members it trains.

    order       uniform, ascending, descending, folded                       one phase, every order reads the same rows
    two phases  U,U  U,A  A,A: everything, then the best third, each uniform or ascending; A-T: one sort over both phases together
    schedule    constant; WSD with a 1-sqrt decay to 1/3 ... 1/300 of the peak; a cosine to 1/300. The two-phase recipes have the ends only
    average     none, SMA, three readings of EMA, WMA: of the last checkpoints, so that they cost no training

All at equal tokens. The constant run and the WSDs of an order are one run up to the decay: a population trains the constant and the cosine
members (`trunk`), a second one goes on from the constant members' checkpoint with every end rate (`decays`). With a decay of a fifth that
makes 17 runs' worth of training out of 36. Members of a seed begin with the same weights, so differences between them are paired.
"""

import dataclasses
import math
from pathlib import Path

from kaiyuan_jax import config as c

ORDERS = ("uniform", "ascending", "descending", "folded")
PHASES = ("U,U", "U,A", "A,A", "A-T")
ENDS = (3, 10, 30, 100, 300)  # of the WSDs: the end rate is the peak over this
NEAR_ZERO = 300  # 2511.18903: 1e-5 of a peak of 3e-3
AVERAGES = ("none", "sma", "ema", "ema_seeded", "ema_powers", "wma")
FIRST_SHARE, BEST = 0.6, 2 / 3  # of the steps for the first phase; the second takes the text above this quantile


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text whose quality is known: stores to train on, and held-out stores of the best text, which is what a curriculum is for."""

    name: str
    sources: tuple[tuple[str, str, str], ...]  # name, folder of the training store, folder of the held-out store


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the study is; learning rates are absolute, lengths in steps, rows and tokens."""

    steps: int = 300
    warmup: int = 15
    peak: float = 1e-2
    batch_size: int = 4
    sequence_length: int = 32
    decay: float = 0.2  # share of the steps that WSD decays
    every: int = 10  # steps between the checkpoints that are averaged
    last: int = 6  # how many of them
    first_save: float = 0.8  # share of the steps before the first checkpoint; a cell that is stopped before begins again
    rows: int = 128  # held-out sequences, of all sources together
    model: c.Model = dataclasses.field(
        default_factory=lambda: c.Model(layers=1, width=32, feedforward=96, heads=1, kv_heads=1, head_size=32, vocabulary=2048)
    )

    @property
    def knee(self) -> int:
        """Updates that the constant run and the WSDs have in common."""
        return self.steps - round(self.decay * self.steps)

    @property
    def tokens(self) -> int:
        """Of one run."""
        return self.steps * self.batch_size * self.sequence_length


# Large enough for every stage to run for real, too small to mean anything.
QUICK = Size(
    steps=20, warmup=2, batch_size=2, sequence_length=8, decay=0.4, every=2, last=3, first_save=0.6, rows=16,
    model=c.Model(layers=1, width=16, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=2048),
)  # fmt: skip
# One GPU and some hours, on stores of at least 100M tokens with a vocabulary of up to 8,192.
GPU = Size(
    steps=6000, warmup=200, peak=3e-3, batch_size=32, sequence_length=512, every=120, first_save=0.0, rows=512,
    model=c.Model(layers=6, width=256, feedforward=768, heads=4, kv_heads=2, head_size=64, vocabulary=8192),
)  # fmt: skip
SIZES = {"quick": QUICK, "cpu": Size(), "gpu": GPU}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What tells the members of one seed apart."""

    order: str  # of ORDERS or PHASES
    schedule: str  # constant, cosine or wsd_<n>

    @property
    def decays(self) -> bool:
        """Whether it goes on from the constant member of its order."""
        return self.schedule.startswith("wsd")

    @property
    def end(self) -> float:
        """The last rate as a fraction of the peak."""
        return 1.0 if self.schedule == "constant" else 1 / int(self.schedule.removeprefix("wsd_")) if self.decays else 1 / NEAR_ZERO

    def name(self, seed: int) -> str:
        """Of a member, a file and a folder."""
        return f"{self.order.replace(',', '')}_{self.schedule}_seed{seed}"


def recipes() -> list[Recipe]:
    """Every recipe of the study, 28 in one phase and 8 in two."""
    decays = [f"wsd_{end}" for end in ENDS]
    grid = [Recipe(order, schedule) for order in ORDERS for schedule in ("constant", "cosine", *decays)]
    return grid + [Recipe(order, schedule) for order in PHASES for schedule in ("constant", f"wsd_{NEAR_ZERO}")]


def check(size: Size) -> None:
    """Raises UserError where checkpoints do not fall on the knee and the end, or the window reaches back beyond the knee."""
    decay = size.steps - size.knee
    if size.steps % size.every or decay % size.every:
        raise c.UserError(f"--steps: found {size.steps}, must be a multiple of {size.every} and so must its last {size.decay:.0%} be")
    if round(size.first_save * size.steps) > size.knee:
        raise c.UserError(f"first_save: found {size.first_save:g}, must come before the decay, {1 - size.decay:g} or less")
    if (size.last - 1) * size.every > decay:
        raise c.UserError(f"--steps: found {size.steps}, too few for {size.last} checkpoints in its last {size.decay:.0%}")


def sized(size: Size, steps: int) -> Size:
    """A size with other steps, in which everything that counts steps keeps its share; 0 steps: as it is. Raises UserError."""
    if steps:
        saves = size.steps // size.every
        if steps % saves:
            raise c.UserError(f"--steps: found {steps}, must be a multiple of {saves}, so that as many checkpoints lie evenly in a run")
        scaled = {name: max(1, round(getattr(size, name) * steps / size.steps)) for name in ("warmup", "every")}
        size = dataclasses.replace(size, steps=steps, **scaled)
    check(size)
    return size


def phases(order: str, size: Size, sources: tuple[str, ...]) -> list[c.Phase]:
    """The data of a recipe; every source gives the same share of every phase.

    A-T reads text of the same quality as the others, from worst to best: what both phases take below `BEST`, then what both take above.
    """

    def phase(name: str, order: str, low: float, high: float, steps: int) -> c.Phase:
        share = 1 / len(sources)
        uses = [c.Use(source=source, window=(low, high), share=share) for source in sources]
        return c.Phase(name=name, order=order, tokens=steps * size.batch_size * size.sequence_length, uses=uses)

    if order in ORDERS:
        return [phase("all", order, 0.0, 1.0, size.steps)]
    first = round(FIRST_SHARE * size.steps)
    if order == "A-T":
        below = round(BEST * first)
        return [phase("below", "ascending", 0.0, BEST, below), phase("above", "ascending", BEST, 1.0, size.steps - below)]
    one, other = ({"U": "uniform", "A": "ascending"}[letter] for letter in order.split(","))
    return [phase("all", one, 0.0, 1.0, first), phase("best", other, BEST, 1.0, size.steps - first)]


def schedule(name: str, size: Size) -> c.Schedule:
    common = dict(peak=size.peak, warmup=size.warmup)
    if name == "constant":
        return c.Schedule(kind="constant", **common)
    if name == "cosine":
        return c.Schedule(kind="cosine", end=size.peak / NEAR_ZERO, **common)
    return c.Schedule(kind="wsd", end=size.peak / int(name.removeprefix("wsd_")), decay=size.decay, shape="sqrt", **common)


def experiment(recipe: Recipe, corpus: Corpus, size: Size, seed: int) -> c.Experiment:
    """One member."""
    decay = size.steps - size.knee
    return c.Experiment(
        name=recipe.name(seed),
        seed=seed,
        model=size.model,
        data=c.Data(
            sources=[c.Source(name=name, path=path, heldout=heldout) for name, path, heldout in corpus.sources],
            phases=phases(recipe.order, size, tuple(name for name, _, _ in corpus.sources)),
            sequence_length=size.sequence_length,
            batch_size=size.batch_size,
            seed=seed,
        ),
        schedule=schedule(recipe.schedule, size),
        checkpoint=c.Checkpoint(every=size.every, keep=decay // size.every + 1),
        evaluation=c.Evaluation(every=0, rows=max(1, size.rows // len(corpus.sources)), questions=0),
        logging=c.Logging(every=max(1, size.steps // 30), tensorboard=False),
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One seed on one corpus: the part of the study that is trained, evaluated and resumed as one."""

    corpus: Corpus
    size: Size
    seed: int
    folder: Path
    recipes: tuple[Recipe, ...] = tuple(recipes())  # with the constant one of every order that decays

    def part(self, decays: bool) -> list[c.Experiment]:
        """Members of the trunk, or of the decays."""
        return [experiment(recipe, self.corpus, self.size, self.seed) for recipe in self.recipes if recipe.decays == decays]

    @property
    def tokens(self) -> int:
        """Trained on, what decays take over from the trunk left out."""
        decaying = sum(recipe.decays for recipe in self.recipes)
        steps = (len(self.recipes) - decaying) * self.size.steps + decaying * (self.size.steps - self.size.knee)
        return steps * self.size.batch_size * self.size.sequence_length

    def trunk_rows(self) -> list[int]:
        """For every member of the decays the member of the trunk that it goes on from."""
        trunk = [recipe for recipe in self.recipes if not recipe.decays]
        return [trunk.index(Recipe(recipe.order, "constant")) for recipe in self.recipes if recipe.decays]


@dataclasses.dataclass(frozen=True)
class Study:
    """A size, corpora, how often it is repeated, and where it lives."""

    size: Size
    corpora: tuple[Corpus, ...]
    seeds: int
    folder: Path

    def cells(self) -> list[Cell]:
        """The first corpus first, so that the control is known before the rest is paid for."""
        return [
            Cell(corpus, self.size, seed, self.folder / "cells" / f"{corpus.name}_seed{seed}")
            for corpus in self.corpora
            for seed in range(self.seeds)
        ]

    @property
    def tokens(self) -> int:
        """Trained on in all."""
        return sum(cell.tokens for cell in self.cells())


def averages(kind: str, size: Size) -> dict[int, float]:
    """Step -> weight of the checkpoints of an average that ends with the run."""
    from kaiyuan_jax.averaging import weights

    if kind == "none":
        return {size.steps: 1.0}
    found = weights.weights(c.Averaging(kind=kind, last=size.last))
    return {size.steps - number * size.every: float(weight) for number, weight in enumerate(found) if not math.isclose(weight, 0)}
