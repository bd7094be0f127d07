"""The cells of a benchmark: a window of one source at one quality, with one seed.

Quantiles count from the top, as published: t = 0 is the best text of a source, and window t holds the token mass [t, t + w), which is
`Use.window = (1 - t - w, 1 - t)` of the sorted store. Nothing is copied. All cells have the same model, rates and budget of N tokens;
cells of one seed begin with the same weights. A window of W < N tokens is read N / W times.

Two windows differ in quality, and in which documents happen to lie in them. The second is noise too, and seeds that read the same text do
not show it. So a window is cut into `slices` equal parts, neighbours in quality, and seed s reads part s mod slices: what scatters between
seeds then contains the choice of documents. slices = 1 gives every seed the whole window, as published.
"""

import dataclasses
import math
from collections.abc import Sequence

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError, UserError
from kaiyuan_jax.data import recipe

CHECKPOINTS = 4  # in a cell; the second, at half of the budget, tells what more tokens are worth


@dataclasses.dataclass(frozen=True)
class Text:
    """One source: a quality-sorted store."""

    name: str
    folder: str
    tokens: int
    scored: bool
    domain: str  # sources of one domain compete in the recipe
    digest: str  # of its tokens


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared with what."""

    base: config.Experiment  # model, batch, length, rates; its data only where the tokens come from when `tokens` is not given
    texts: tuple[Text, ...]
    quantiles: tuple[float, ...]  # of the windows' upper ends, from the top: 0 is the best text
    window: float  # of token mass
    tokens: int  # budget of a cell
    seeds: int
    slices: int = 1

    @property
    def row(self) -> int:
        """Tokens of a step."""
        return self.base.data.batch_size * self.base.data.sequence_length

    @property
    def steps(self) -> int:
        return self.tokens // self.row

    @property
    def half(self) -> int:
        """The step at half of the budget that is kept."""
        return self.every * (CHECKPOINTS // 2)

    @property
    def every(self) -> int:
        return -(-self.steps // CHECKPOINTS)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model of the benchmark."""

    text: Text
    quantile: float
    seed: int
    experiment: config.Experiment
    tokens: int  # that the window holds
    passes: float

    @property
    def name(self) -> str:
        return self.experiment.name


def budget(base: config.Experiment) -> int:
    """Tokens that the phases of an experiment ask for; 0 where one has no budget."""
    sizes = [phase.tokens for phase in base.data.phases]
    return sum(sizes) if all(sizes) else 0


def problems(study: Study) -> list[str]:
    """What is wrong with the flags of a study, a line each, before any store is read."""
    found, inside = [], [t for t in study.quantiles if 0 <= t and t + study.window <= 1 + 1e-9]
    if not 0 < study.window <= 1:
        found.append(f"--window: found {study.window:g}, must be a share of token mass above 0 and at most 1")
    elif len(inside) < len(study.quantiles):
        odd = next(t for t in study.quantiles if t not in inside)
        found.append(f"--quantiles: found {odd:g} with --window={study.window:g}, must be at least 0 and end at or below 1 - window")
    elif list(study.quantiles) != sorted(set(study.quantiles)):
        found.append(f"--quantiles: found {','.join(f'{t:g}' for t in study.quantiles)}, must ascend without repetition")
    if len(study.quantiles) < 2:
        said = ",".join(f"{t:g}" for t in study.quantiles) or "none"
        found.append(f"--quantiles: found {said}, must be two or more, since what is noise is seen by comparing windows")
    names = [text.name for text in study.texts]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        found.append(f"--stores: {repeated[0]!r} is the name of several stores; rename a folder")
    if study.steps < CHECKPOINTS:
        found.append(f"--tokens: found {study.tokens:,}, must be at least {CHECKPOINTS} steps of {study.row:,} tokens")
    return found


def cells(study: Study) -> list[Cell]:
    """All cells, seed by seed, so that a study that is cut short has whole seeds. Raises UserError, ConfigError."""
    if found := problems(study):
        raise UserError("\n".join(found))
    every = [(seed, text, t) for seed in range(study.seeds) for text in study.texts for t in study.quantiles]
    return [_cell(study, text, t, seed) for seed, text, t in every]


def window(study: Study, quantile: float, seed: int) -> tuple[float, float]:
    """`Use.window` of a cell: token mass from the worst, 0 to 1."""
    width = study.window / study.slices
    begin = quantile + width * (seed % study.slices)
    return max(0.0, round(1 - begin - width, 9)), round(1 - begin, 9)


def _cell(study: Study, text: Text, quantile: float, seed: int) -> Cell:
    base = study.base
    rows = study.steps * base.data.batch_size
    use = config.Use(source=text.name, window=window(study, quantile, seed))
    data = dataclasses.replace(
        base.data,
        sources=[config.Source(name=text.name, path=text.folder, domain=text.domain)],
        phases=[config.Phase(name="window", uses=[use])],
        domain_limits=[],
        batch_size=1,
        seed=seed,
    )
    try:
        found = recipe.resolve(data, {text.name: text.tokens}, {text.name: text.scored}).positions
    except ConfigError:
        need = base.data.sequence_length / (study.window / study.slices)
        raise UserError(
            f"--window: {study.window / study.slices:g} of the {text.tokens:,} tokens of {text.name!r} holds no sequence of "
            f"{base.data.sequence_length} tokens; a source needs {need:,.0f} tokens for it, or take a larger window or fewer --slices"
        ) from None
    passes = rows / found
    use = dataclasses.replace(use, passes=max(1.0, math.ceil(passes * 1e6) / 1e6))
    phase = config.Phase(name="window", uses=[use], tokens=rows * base.data.sequence_length)
    experiment = dataclasses.replace(
        base,
        name=f"{text.name}_q{100 * quantile:g}_s{seed}",
        output="",
        seed=seed,
        data=dataclasses.replace(data, phases=[phase], batch_size=base.data.batch_size),
        checkpoint=dataclasses.replace(base.checkpoint, every=study.every, keep=2, keep_steps=(study.half,)),
        averaging=config.Averaging(),
        evaluation=dataclasses.replace(base.evaluation, every=0),
    )
    return Cell(text, quantile, seed, experiment, found * base.data.sequence_length, passes)


def repetition(study: Study, found: Sequence[Cell]) -> list[str]:
    """What a user should know of windows smaller than the budget, a line a source."""
    lines = []
    for text in study.texts:
        one = next(cell for cell in found if cell.text == text)
        if one.passes > 1:
            lines.append(f"{text.name}: a window holds {one.tokens:,} tokens, read {one.passes:.2f} times to reach {study.tokens:,}")
    return lines
