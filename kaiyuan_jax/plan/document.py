"""The page of a plan on a machine, as text for a terminal and as one HTML file that needs nothing beside it."""

import dataclasses
import html
from collections.abc import Mapping, Sequence

from kaiyuan_jax import page
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.plan import forecast, machine, section, svg, text, traffic
from kaiyuan_jax.plan.checks import problems, store_problems, warnings
from kaiyuan_jax.plan.section import Section
from kaiyuan_jax.plan.timeline import learning_rate, phase_steps, spread, window
from kaiyuan_jax.sharding import topology


@dataclasses.dataclass(frozen=True)
class Document:
    """Everything on the page, before it is text or HTML."""

    experiment: Experiment
    plan: Plan
    title: str
    machine: list[Section]  # what the machine has to do with
    words: str  # the rest: data, rates, checkpoints, warnings, as plan.text has it

    def text(self) -> str:
        """For a terminal, at most 120 columns."""
        return "\n\n".join([self.title, *map(section.text, self.machine), self.words])

    def html(self) -> str:
        """One file; the figures are drawn inside it."""
        experiment, plan = self.experiment, self.plan
        parts = [f"<h1>{page.text(self.title)}</h1>"]
        if found := warnings(experiment, plan):
            parts.append(f'<div class="notice"><strong>Warnings</strong>{page.bullets(found)}</div>')
        parts += [section.html(self.machine[0]), *map(section.html, self.machine[1:])]
        parts += [page.section("Learning rate", _rates(experiment, plan)), *_forecast(experiment, plan)]
        parts.append(page.section("Data, phases, checkpoints", page.preformatted(self.words)))
        return page.page(self.title, parts)


def describe(
    experiment: Experiment,
    target: topology.Target,
    *,
    hours: float = 0.0,
    prices: Mapping[str, float] | None = None,
    elsewhere: Sequence[topology.Target] = (),
) -> Document:
    """The page. Raises `ConfigError` with everything that keeps the experiment from running anywhere, one line each."""
    tokens, scored = recipe.facts_of(experiment.data)
    plan = recipe.resolve(experiment.data, tokens, scored)
    if found := problems(experiment, plan) + store_problems(experiment):
        raise ConfigError("\n".join(found))
    looked = machine.look(experiment, target)
    sections = machine.sections(experiment, plan, looked, hours=hours, prices=prices or {}, elsewhere=elsewhere)
    if looked.chosen:
        seconds = looked.chosen.speed.worst, looked.chosen.speed.line.seconds
        sections.append(traffic.section(experiment, plan, target, seconds))
    title = f"{experiment.name} on {target.name}, {target.chips} chip{'s' * (target.chips > 1)}"
    return Document(experiment, plan, title, sections, text.page(experiment, plan, tokens, scored))


def _rates(experiment, plan):
    steps = spread(0, plan.steps, 600)
    phases = [svg.Stretch(*ends, phase.name) for phase, ends in zip(plan.phases, phase_steps(plan), strict=True)]
    saved = window(experiment, plan.steps)
    averaged = svg.Stretch(saved[0], saved[-1], "averaged") if len(saved) > 1 else None
    drawn = svg.chart(
        "learning rate over steps", steps, learning_rate(experiment, plan)(steps).tolist(),
        last=plan.steps - 1, stretches=phases, marked=averaged,
    )  # fmt: skip
    return f"<figure>{drawn}</figure>"


def _forecast(experiment, plan):
    found = forecast.curve(experiment, plan, 200)
    if found is None:
        return
    steps, _, loss, low, high = found
    drawn = svg.chart(
        "forecast of the loss, and the band that 90% of runs stay in",
        steps,
        loss.tolist(),
        last=plan.steps - 1,
        band=(low.tolist(), high.tolist()),
        zero=False,
    )  # fmt: skip
    words = html.escape(forecast.section(experiment, plan))
    yield page.section("Forecast of the loss", f"<figure>{drawn}</figure>", f'<pre class="scroll">{words}</pre>')
