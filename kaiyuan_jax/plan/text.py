"""The page of a plan: plain text of at most 120 columns."""

import dataclasses
import textwrap
from collections.abc import Mapping

import numpy as np

from kaiyuan_jax.averaging.weights import weights
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.models import flops
from kaiyuan_jax.plan import domains, forecast, repetition, section
from kaiyuan_jax.plan.checks import warnings
from kaiyuan_jax.plan.section import human, short, table
from kaiyuan_jax.plan.timeline import learning_rate, peak_rate, phase_steps, spread, window, window_rates
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.schedules import file
from kaiyuan_jax.training import branch

WIDTH, HEIGHT = 64, 8  # of the learning-rate plot, in characters
MOST_STEPS = 12  # of exposures of one source on a line
SHOWN = 24  # steps at which a rate is named
BLOCKS = " ▁▂▃▄▅▆▇█"
SIZES = {"": "planned", "public": "public", "inferred": "inferred", "ours": "ours: unknown"}  # where the size of an absent store is from


def page(experiment: Experiment, plan: Plan, tokens: Mapping[str, int], scored: Mapping[str, bool]) -> str:
    """The plan as text for a terminal; `tokens` and `scored` are facts by source name, as `recipe.facts_of` gives them."""
    parts = [_header(experiment, plan), _sources(experiment, plan, tokens, scored), *_phases(plan)]
    parts += [*_domains(experiment, plan), _exposures(experiment, plan), section.text(repetition.section(plan, tokens))]
    parts += [_learning_rate(experiment, plan), *filter(None, [forecast.section(experiment, plan)]), _checkpoints(experiment, plan)]
    if found := warnings(experiment, plan):
        parts.append("Warnings\n" + "\n".join(textwrap.fill(line, 118, initial_indent="  ! ", subsequent_indent="    ") for line in found))
    return "\n\n".join(parts) + "\n"


def _header(experiment, plan):
    count, per_token = flops.parameters(experiment.model), flops.per_token(experiment.model, plan.sequence_length)
    rows = f"{plan.batch_size:,} rows of {plan.sequence_length:,}"
    lines = [
        ("parameters", f"{count:,}"),
        ("tokens", f"{plan.tokens:,} ({human(plan.tokens)}, {short(plan.tokens / count)} a parameter)"),
        ("steps", f"{plan.steps:,} of {human(plan.batch_size * plan.sequence_length)} tokens ({rows})"),
        ("compute", f"{per_token * plan.tokens:.3g} FLOP ({per_token:.3g} a token; causal attention halved, nothing recomputed)"),
    ]
    if plan.skipped:
        lines.append(("left out", f"the first {plan.skipped:,} rows, so that the last batch is whole"))
    return "\n".join([experiment.name, *(f"  {name:<11} {text}" for name, text in lines)])


def _sources(experiment, plan, tokens, scored):
    rows = []
    for source in experiment.data.sources:
        here = domains.is_here(source)
        size = "store" if here else SIZES[source.planned_from]
        if not scored[source.name] or source.quality == "none":
            quality = "not scored"
        else:
            quality = _elided(source.quality, 40) or ("scored" if here else "taken as scored")
        rows.append((source.name, human(tokens[source.name]), size, source.domain, quality, source.path if here else ""))
    return "Sources\n" + table(("source", "tokens", "size", "domain", "quality", "store"), rows, "<><<<<")


def _domains(experiment, plan):
    if not any(source.domain for source in experiment.data.sources):
        return
    parts = domains.mixtures(experiment, plan)
    rows = [
        (domain, *(f"{human(part.tokens[domain])} {part.share(domain):6.1%}" if part.tokens[domain] else "" for part in parts))
        for domain in parts[-1].tokens
    ]
    if any(part.assumed for part in parts):
        rows.append(("sizes ours", *(f"{part.assumed:.1%}" if part.assumed else "" for part in parts)))
    for first in range(0, len(parts), 6):  # as many phases as a terminal is wide
        chosen = [0, *range(first + 1, min(first + 7, len(parts) + 1))]
        head = ("domain", *(part.name for part in parts))
        shown = [[row[i] for i in chosen] for row in (head, *rows)]
        yield "Domains: tokens and share of each phase\n" + table(shown[0], shown[1:], "<" + ">" * (len(chosen) - 1))
    if limits := experiment.data.domain_limits:
        found = list(domains.broken(limits, parts[:-1]))
        lines = []
        for limit in limits:
            where = [f"{part.name} ({part.share(limit.domain):.1%})" for other, part in found if other is limit]
            lines.append(f"  {domains.words(limit)}: {'broken in ' + ', '.join(where) if where else 'kept in every phase'}")
        yield "Limits of each phase\n" + "\n".join(lines)


def _phases(plan):
    portions = iter(recipe.portions(plan))
    for phase, (first, after) in zip(plan.phases, phase_steps(plan), strict=True):
        parts = [next(portions) for _ in phase.uses]
        sampled = [", the better the denser" * bool(use.taken) for use in phase.uses]
        windows = ["{:.3g} to {:.3g}{}".format(*part.window, how) for part, how in zip(parts, sampled, strict=True)]
        rows = [
            (part.source, human(part.tokens), f"{part.share:.1%}", f"{part.passes:.3g}", part.order, window)
            for part, window in zip(parts, windows, strict=True)
        ]
        size = phase.entries * plan.sequence_length
        about = f"steps {first:,} to {after - 1:,}" if after > first else "shorter than a batch"
        shuffle = f", shuffled in windows of {phase.shuffle_window:,} rows" if phase.shuffle_window else ""
        title = f"Phase {phase.name}: {about}, {human(size)} tokens ({phase.entries / plan.positions:.1%} of the run){shuffle}"
        yield title + "\n" + table(("source", "tokens", "share", "passes", "order", "quality window"), rows, "<>>><<")


def _exposures(experiment, plan):
    rows, kept = [], {source.name: source.precut for source in experiment.data.sources}
    for name, steps in recipe.exposures(plan).items():
        steps = tenths(steps) if len(steps) > MOST_STEPS else steps
        spans = [f"{step.low:.3g}-{step.high:.3g}: {step.passes:.3g}x" for step in of_corpus(steps, kept[name])]
        rows.append((name, "   ".join(spans) or "not used"))
    title = "Exposures: how often text of a quality is read in the whole run (0 worst, 1 best)"
    if cut := [f"{name} {share:.3g}" for name, share in kept.items() if share < 1]:
        title += f"\n  (quantiles of the whole corpus, of which the store holds the best part: {', '.join(cut)})"
    return title + "\n" + table((), rows, "<<")


def tenths(steps: list[recipe.Exposure]) -> list[recipe.Exposure]:
    """The mean exposure of every tenth of a source, of one that is sampled with a temperature and so has a step a percent."""
    edges = [(number / 10, (number + 1) / 10) for number in range(10)]
    reads = [[step.passes * max(0.0, min(high, step.high) - max(low, step.low)) for step in steps] for low, high in edges]
    return [recipe.Exposure(low, high, sum(read) / (high - low)) for (low, high), read in zip(edges, reads, strict=True)]


def of_corpus(steps: list[recipe.Exposure], kept: float) -> list[recipe.Exposure]:
    """Exposures by quantile of a whole corpus, of which the store holds the best share `kept`; what was cut away is read 0 times."""
    if kept == 1 or not steps:
        return steps
    within = [recipe.Exposure(1 - kept * (1 - step.low), 1 - kept * (1 - step.high), step.passes) for step in steps]
    if within[0].passes == 0:
        return [dataclasses.replace(within[0], low=0.0), *within[1:]]
    return [recipe.Exposure(0.0, 1 - kept, 0.0), *within]


def _learning_rate(experiment, plan):
    rate, top = learning_rate(experiment, plan), peak_rate(experiment, plan)
    edges = np.linspace(0, plan.steps, WIDTH + 1).astype(np.int64)
    # A column is the mean of up to 16 steps spread over its stretch.
    columns = np.array([rate(spread(a, max(a + 1, b), 16)).mean() for a, b in zip(edges, edges[1:], strict=False)])
    levels = np.round(columns / top * HEIGHT * 8).astype(int) if top else np.zeros(WIDTH, int)
    lines = []
    for row in reversed(range(HEIGHT)):
        label = f"{top * (row + 1) / HEIGHT:.1e}" if (row + 1) % (HEIGHT // 2) == 0 else ""
        lines.append(f"  {label:>8} ┤" + "".join(BLOCKS[int(np.clip(level - 8 * row, 0, 8))] for level in levels))
    marks = [" "] * WIDTH
    for number, (first, after) in enumerate(phase_steps(plan)):
        if after > first:
            marks[min(WIDTH - 1, int(first / plan.steps * WIDTH))] = str((number + 1) % 10)
    lines.append(f"  {'0':>8} └" + "─" * WIDTH)
    lines.append(f"  {'phase':>8}  " + "".join(marks).rstrip())
    knots, unnamed = _knots(experiment, plan)
    more = max(0, len(knots) + unnamed - SHOWN)
    if more:
        knots = [*knots[: SHOWN // 2], *knots[-SHOWN // 2 :]]
    rows = [(f"{step:,}", f"{float(rate(step)):.3g}", text) for step, text in knots]
    if more:
        rows.insert(SHOWN // 2, ("...", "", f"{more:,} more"))
    return "\n".join([f"Learning rate ({experiment.schedule.kind})", *lines, table(("step", "rate", ""), rows, ">><")])


def _knots(experiment, plan):
    """(step, what begins there) in order, without the inner ones of a file of many stretches, and how many those are."""
    unnamed = 0
    notes = {0: ["first update"], plan.steps - 1: ["last update"]}
    if experiment.schedule.kind == "power":
        notes.setdefault(experiment.schedule.warmup, []).append("end of warm-up")
    elif experiment.schedule.kind == "file":
        starts, stretches = _stretches(file.read(experiment.schedule.path))
        for first, stop, begin, end, lines in stretches:
            if begin == end:
                text = f"constant at {end:.3g}"
            else:
                of = f" in {lines} lines" if lines > 1 else ""
                text = f"{'rise' if end > begin else 'fall'} from {begin:.3g} to {end:.3g} by step {stop:,}{of} begins"
            notes.setdefault(first, []).append(text)
    else:
        held = None
        for part in schedules.segments(experiment.schedule, plan.steps):
            if part.begin == part.end:
                text = f"constant at {part.end:.3g}"
            else:
                text = f"{part.shape} {'rise' if part.end > part.begin else 'decay'} from {part.begin:.3g} to {part.end:.3g} begins"
            if part.stop > part.start and text != held:
                notes.setdefault(part.start, []).append(text)
                held = text if part.begin == part.end else None
    for phase, (first, after) in zip(plan.phases, phase_steps(plan), strict=True):
        if after > first:
            notes.setdefault(first, []).append(f"phase {phase.name} begins")
    if experiment.schedule.kind == "file":
        unnamed = int((~np.isin(starts, list(notes))).sum())
    return [(step, "; ".join(texts)) for step, texts in sorted(notes.items())], unnamed


def _stretches(found: file.ScheduleFile):
    """The lines of a schedule in a file, those that go on in one direction as one: there may be a line a step.

    Returns the steps int64[S] at which they begin, and for the first and the last that the page can name their first and last step,
    first and last rate and number of lines.
    """
    turns = 1 + np.flatnonzero(np.diff(np.sign(np.diff(found.rates))))
    starts, stops = np.append(0, turns), np.append(turns, found.knots.size - 1)
    columns = found.knots[starts], found.knots[stops], found.rates[starts], found.rates[stops], stops - starts
    named = np.arange(starts.size)
    if named.size > SHOWN:
        named = np.append(named[: SHOWN // 2], named[-SHOWN // 2 :])
    return found.knots[starts], list(zip(*(column[named].tolist() for column in columns), strict=True))


def _checkpoints(experiment, plan):
    checkpoint, averaging = experiment.checkpoint, experiment.averaging
    per_step = plan.batch_size * plan.sequence_length
    spacing = f"{checkpoint.every:,} steps ({human(checkpoint.every * per_step)} tokens)"
    lines = [f"every {spacing} and after the last step; the newest {checkpoint.keep} are kept"]
    if parent := branch.parent_of(experiment):
        lines.insert(0, f"the first {parent.step:,} steps {'were' if branch.begun(experiment) else 'are'} taken from {parent.folder}")
    if steps := window(experiment, plan.steps):
        rates = window_rates(experiment, plan, steps)
        covered = steps[-1] - steps[0]
        lines += [
            f"average: {averaging.kind} of the last {len(steps)}, after steps {_listed([f'{step:,}' for step in steps])}",
            f"weights, oldest first: {_listed([f'{weight:.3g}' for weight in weights(averaging)[::-1]])}",
            f"the window covers {covered:,} steps, {human(covered * per_step)} tokens ({covered / plan.steps:.1%} of the run), "
            f"at rates {rates.max():.3g} to {rates.min():.3g}",
        ]
        if len(steps) > 1 and (short := steps[-1] - steps[-2]) < checkpoint.every:
            lines.append(f"the last one comes {short:,} steps after the one before: {plan.steps:,} is no multiple of {checkpoint.every:,}")
    if (decay := averaging.online_decay) > 0:
        lines.append(f"running average in the train state: decay {decay:g} a step, about the last {1 / (1 - decay):,.0f} steps")
    return "Checkpoints\n" + "\n".join(f"  {line}" for line in lines)


def _listed(items: list[str]) -> str:
    return ", ".join(items if len(items) <= 9 else [*items[:4], "...", *items[-4:]])


def _elided(text: str, width: int) -> str:
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"
