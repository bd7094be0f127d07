"""What a run will do, on one page, before any accelerator is paid for.

Order, learning rate and averaging interact: an ascending order puts the best text at the end, a decay makes the end count for little,
and an average of the last checkpoints replaces the decay only while the rate is not near zero (2511.18903). So the page shows the
three on one axis of steps, `warnings` names the combinations that the literature shows to waste data, and `problems` what cannot run.

Steps are updates: step s in [0, steps) is update s, and a checkpoint is named by the updates done before it, as in the run folder.
Nothing here touches a device or reads a token; a plan of 2.2 trillion tokens takes milliseconds.
"""

import pathlib
import textwrap
from collections.abc import Mapping

import numpy as np

from kaiyuan_jax.averaging.weights import weights
from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data import order, recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.models import flops
from kaiyuan_jax.schedules import build as schedules

WIDTH, HEIGHT = 64, 8  # of the learning-rate plot, in characters
LOW, HIGH = 0.1, 0.34  # of the peak: below LOW a rate counts as near zero, above HIGH a decay is less than moderate
MANY_PASSES = 4.05  # 2305.16264: four passes are worth 3.7 fresh ones, later ones much less
BLOCKS = " ▁▂▃▄▅▆▇█"


def describe(experiment: Experiment) -> str:
    """The page of an experiment. Raises `ConfigError` with everything that keeps it from running, one line each."""
    tokens, scored = recipe.facts_of(experiment.data)
    plan = recipe.resolve(experiment.data, tokens, scored)
    if found := problems(experiment, plan) + _store_problems(experiment):
        raise ConfigError("\n".join(found))
    return page(experiment, plan, tokens, scored)


def page(experiment: Experiment, plan: Plan, tokens: Mapping[str, int], scored: Mapping[str, bool]) -> str:
    """The plan as text for a terminal; `tokens` and `scored` are facts by source name, as `recipe.facts_of` gives them."""
    parts = [_header(experiment, plan), _sources(experiment, plan, tokens, scored), *_phases(plan), _exposures(plan)]
    parts += [_learning_rate(experiment, plan), _checkpoints(experiment, plan)]
    if found := warnings(experiment, plan):
        parts.append("Warnings\n" + "\n".join(textwrap.fill(line, 118, initial_indent="  ! ", subsequent_indent="    ") for line in found))
    return "\n\n".join(parts) + "\n"


def curves(experiment: Experiment, plan: Plan, points: int = 512) -> dict:
    """What a picture of the plan needs, at `points` steps spread evenly over the run (fewer if the run is shorter), as numpy arrays:

    step int64[P], learning_rate float32[P], phase int32[P]; by source name, quality: mean quantile float64[P] (NaN where it has no row)
    and mixture: share of rows float64[P]. Each point looks at the batch of its step, and its neighbours up to 256 rows.
    """
    steps = _spread(0, plan.steps, points)
    batches = min(max(1, round(256 / plan.batch_size)), plan.steps)
    quality = {name: np.full(steps.size, np.nan) for name in plan.sources}
    mixture = {name: np.zeros(steps.size) for name in plan.sources}
    phase = np.empty(steps.size, np.int32)
    for i, step in enumerate(steps):
        first = int(min(max(step - batches // 2, 0), plan.steps - batches))
        rows = order.rows(plan, plan.skipped + np.arange(first * plan.batch_size, (first + batches) * plan.batch_size))
        phase[i] = rows.phase[(step - first) * plan.batch_size]
        here = rows.phase == phase[i]  # a neighbour on the other side of a phase boundary says nothing about this one
        count = np.bincount(rows.source[here], minlength=len(plan.sources))
        total = np.bincount(rows.source[here], rows.quantile[here], minlength=len(plan.sources))
        for number, name in enumerate(plan.sources):
            mixture[name][i] = count[number] / here.sum()
            if count[number]:
                quality[name][i] = total[number] / count[number]
    rate = learning_rate(experiment, plan)(steps)
    return {"step": steps, "learning_rate": rate, "phase": phase, "quality": quality, "mixture": mixture}


def learning_rate(experiment: Experiment, plan: Plan):
    """The schedule of the run, step -> rate."""
    return schedules.build(experiment.schedule, plan.steps, batch_size=plan.batch_size, sequence_length=plan.sequence_length)


def window(experiment: Experiment, steps: int) -> list[int]:
    """The checkpoints that the average is made of, oldest first; empty without one. The last step is always a checkpoint."""
    if experiment.averaging.kind == "none":
        return []
    saved = [*range(experiment.checkpoint.every, steps, experiment.checkpoint.every), steps]
    return saved[-experiment.averaging.last :]


def phase_steps(plan: Plan) -> list[tuple[int, int]]:
    """Per phase the range [first, after) of steps whose first row lies in it; empty for a phase shorter than a batch."""
    firsts = [min(max(-(-(phase.start - plan.skipped) // plan.batch_size), 0), plan.steps) for phase in plan.phases]
    return list(zip(firsts, [*firsts[1:], plan.steps], strict=True))


def problems(experiment: Experiment, plan: Plan) -> list[str]:
    """What makes the run impossible and needs the plan's sizes to see, one line each."""
    if plan.steps == 0:
        return ["config.data: all phases together give less than one batch; add data or lower config.data.batch_size"]
    found = schedules.problems(experiment.schedule, plan.steps)
    averaging, checkpoint = experiment.averaging, experiment.checkpoint
    if averaging.kind == "none":
        return found
    try:
        weights(averaging)
    except ConfigError as error:
        found.append(str(error))
    if averaging.last > checkpoint.keep:
        found.append(f"config.averaging.last: found {averaging.last}, must be at most config.checkpoint.keep = {checkpoint.keep}")
    if (averaging.last - 1) * checkpoint.every >= plan.steps:
        most = -(-plan.steps // checkpoint.every)
        found.append(
            f"config.averaging.last: found {averaging.last}, but {plan.steps} steps with config.checkpoint.every = {checkpoint.every} save "
            f"{most} checkpoint{'s' * (most > 1)}, so the window reaches before the first; lower last, or every to at most "
            f"{max(1, (plan.steps - 1) // max(1, averaging.last - 1))}"
        )
    return found


def _store_problems(experiment: Experiment) -> list[str]:
    """What keeps a model from training on the stores of this machine; a source whose store is elsewhere has none."""
    from kaiyuan_jax.data.store import read_manifest  # here, because a plan of absent stores needs none of what it imports

    found, first = [], ""
    for source in experiment.data.sources:
        if not source.path or not pathlib.Path(source.path).exists():
            continue
        manifest = read_manifest(source.path)
        first = first or manifest.fingerprint
        if manifest.fingerprint != first:
            found.append(f"config.data.sources {source.name!r}: {source.path} was made with another tokenizer than the first source's")
        if manifest.vocabulary > experiment.model.vocabulary:
            found.append(
                f"config.model.vocabulary: found {experiment.model.vocabulary}, the tokenizer of {source.path} needs {manifest.vocabulary}"
            )
        if source.heldout and read_manifest(source.heldout).fingerprint != manifest.fingerprint:
            found.append(f"config.data.sources {source.name!r}: {source.heldout} was made with another tokenizer than {source.path}")
    return found


def warnings(experiment: Experiment, plan: Plan) -> list[str]:
    """Combinations that can run but are known to waste data, one line each, each with its source."""
    return [*_order_warnings(experiment, plan), *_averaging_warnings(experiment, plan), *_data_warnings(experiment, plan)]


def _order_warnings(experiment, plan):
    rate, averaging = learning_rate(experiment, plan), experiment.averaging
    peak, final = _peak(experiment, plan), float(rate(plan.steps - 1))
    for phase, (first, after) in zip(plan.phases, phase_steps(plan), strict=True):
        best = rate(np.arange(after - max(1, (after - first) // 10), after))
        wasted = float((best < LOW * peak).mean()) if after > first else 0.0
        if _mostly(phase, "ascending") and wasted >= 0.05:
            yield (
                f"{phase.name}: ascending order while the rate falls to {best[-1]:.2g} ({best[-1] / peak:.1%} of the peak): {wasted:.0%} "
                "of its last and best tenth of text is read below a tenth of the peak. End near a third of the peak "
                f"({peak / 3:.1g}) and average the last checkpoints (arXiv 2511.18903)"
            )
        if any(use.order == "descending" for use in phase.uses):
            yield (
                f"{phase.name}: descending order reads the best text first and ends on the worst; the gain is in ascending order "
                "(arXiv 2511.18903)"
            )
    last = plan.phases[-1]
    if final <= HIGH * peak:
        return
    if _mostly(last, "uniform"):
        yield (
            f"{last.name}: uniform order ends at a rate of {final:.2g}, {final / peak:.0%} of the peak. A shuffled run does best with an "
            "end near zero: mean score 50.56 with WSD, 49.94 with a constant rate and an average (arXiv 2511.18903, Table 1)"
        )
    if _mostly(last, "ascending") and averaging.kind == "none" and not averaging.online_decay:
        yield (
            f"{last.name}: ascending order ends at {final / peak:.0%} of the peak rate and nothing is averaged, so the noise of that rate "
            "stays in the weights. Set config.averaging.kind, for example to ema (arXiv 2511.18903)"
        )


def _averaging_warnings(experiment, plan):
    steps = window(experiment, plan.steps)
    if len(steps) < 2:
        return
    peak, mean = _peak(experiment, plan), float(_window_rates(experiment, plan, steps).mean())
    if mean < LOW * peak:
        yield (
            f"averaging: over the last {len(steps)} checkpoints (steps {steps[0]:,} to {steps[-1]:,}) the mean rate is {mean:.2g}, "
            f"{mean / peak:.1%} of the peak. Averaging pays only while the rate is not near zero: on a decayed run it changed the mean "
            "score by -0.42 and +0.01 (arXiv 2608.27370)"
        )
    if experiment.averaging.kind == "wma" and _mostly(plan.phases[-1], "ascending"):
        yield (
            "averaging: wma imitates a learning-rate decay, so with an ascending order it gives most weight to the checkpoints before "
            "the best text; sma and ema do better (arXiv 2511.18903)"
        )
    begun = [phase.name for phase, (first, after) in zip(plan.phases, phase_steps(plan), strict=True) if steps[0] < first < after]
    if begun:
        yield (
            f"averaging: the window begins at step {steps[0]:,}, before {' and '.join(begun)}, and so mixes weights from different data; "
            "lower config.averaging.last or config.checkpoint.every to stay inside the last phase"
        )


def _data_warnings(experiment, plan):
    most = {name: max((step.passes for step in steps), default=0) for name, steps in recipe.exposures(plan).items()}
    many = [f"{name} {passes:.3g}" for name, passes in sorted(most.items(), key=lambda item: -item[1]) if passes > MANY_PASSES]
    if many:
        yield (
            f"repetition: read more than 4 times in all: {', '.join(many)}. Four passes are worth about 3.7 fresh ones and later passes "
            "much less (arXiv 2305.16264); larger sources bear more (arXiv 2511.13421)"
        )
    asked = [use.order or phase.order for phase in experiment.data.phases for use in phase.uses]
    uses = [use for phase in plan.phases for use in phase.uses]
    unsorted = {plan.sources[use.source] for use, wish in zip(uses, asked, strict=True) if use.order != wish}
    if unsorted:
        yield f"order: no quality score in {', '.join(sorted(unsorted))}, so the order asked for is replaced by uniform there"


def _peak(experiment, plan) -> float:
    return float(learning_rate(experiment, plan)(_spread(0, plan.steps)).max())


def _window_rates(experiment, plan, steps):
    return learning_rate(experiment, plan)(_spread(min(steps[0], plan.steps - 1), plan.steps))


def _spread(first: int, after: int, count: int = 4096) -> np.ndarray:
    """Up to `count` steps of [first, after), evenly, both ends included."""
    return np.unique(np.linspace(first, after - 1, min(count, after - first)).round().astype(np.int64))


def _mostly(phase, name: str) -> bool:
    return 2 * sum(use.entries for use in phase.uses if use.order == name) > phase.entries


def _header(experiment, plan):
    count, per_token = flops.parameters(experiment.model), flops.per_token(experiment.model, plan.sequence_length)
    rows = f"{plan.batch_size:,} rows of {plan.sequence_length:,}"
    lines = [
        ("parameters", f"{count:,}"),
        ("tokens", f"{plan.tokens:,} ({human(plan.tokens)}, {_short(plan.tokens / count)} a parameter)"),
        ("steps", f"{plan.steps:,} of {human(plan.batch_size * plan.sequence_length)} tokens ({rows})"),
        ("compute", f"{per_token * plan.tokens:.3g} FLOP ({per_token:.3g} a token; causal attention halved, nothing recomputed)"),
    ]
    if plan.skipped:
        lines.append(("left out", f"the first {plan.skipped:,} rows, so that the last batch is whole"))
    return "\n".join([experiment.name, *(f"  {name:<11} {text}" for name, text in lines)])


def _sources(experiment, plan, tokens, scored):
    rows = []
    for source in experiment.data.sources:
        here = bool(source.path) and pathlib.Path(source.path).exists()
        kind = ("scored" if scored[source.name] else "not scored") if here else "taken as scored"
        rows.append((source.name, human(tokens[source.name]), kind, source.path if here else "planned_tokens: no store here"))
    return "Sources\n" + _table(("source", "tokens", "quality", "store"), rows, "<><<")


def _phases(plan):
    portions = iter(recipe.portions(plan))
    for phase, (first, after) in zip(plan.phases, phase_steps(plan), strict=True):
        parts = [next(portions) for _ in phase.uses]
        windows = ["{:.3g} to {:.3g}".format(*part.window) for part in parts]
        rows = [
            (part.source, human(part.tokens), f"{part.share:.1%}", f"{part.passes:.3g}", part.order, window)
            for part, window in zip(parts, windows, strict=True)
        ]
        size = phase.entries * plan.sequence_length
        about = f"steps {first:,} to {after - 1:,}" if after > first else "shorter than a batch"
        shuffle = f", shuffled in windows of {phase.shuffle_window:,} rows" if phase.shuffle_window else ""
        title = f"Phase {phase.name}: {about}, {human(size)} tokens ({phase.entries / plan.positions:.1%} of the run){shuffle}"
        yield title + "\n" + _table(("source", "tokens", "share", "passes", "order", "quality window"), rows, "<>>><<")


def _exposures(plan):
    rows = []
    for name, steps in recipe.exposures(plan).items():
        spans = [f"{step.low:.3g}-{step.high:.3g}: {step.passes:.3g}x" for step in steps]
        rows.append((name, "   ".join(spans) or "not used"))
    return "Exposures: how often text of a quality is read in the whole run (0 worst, 1 best)\n" + _table((), rows, "<<")


def _learning_rate(experiment, plan):
    rate, top = learning_rate(experiment, plan), _peak(experiment, plan)
    edges = np.linspace(0, plan.steps, WIDTH + 1).astype(np.int64)
    # A column is the mean of up to 16 steps spread over its stretch.
    columns = np.array([rate(_spread(a, max(a + 1, b), 16)).mean() for a, b in zip(edges, edges[1:], strict=False)])
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
    rows = [(f"{step:,}", f"{float(rate(step)):.3g}", text) for step, text in _knots(experiment, plan)]
    if len(rows) > 24:
        rows = [*rows[:12], ("...", "", f"{len(rows) - 24} more"), *rows[-12:]]
    return "\n".join([f"Learning rate ({experiment.schedule.kind})", *lines, _table(("step", "rate", ""), rows, ">><")])


def _knots(experiment, plan):
    notes = {0: ["first update"], plan.steps - 1: ["last update"]}
    if experiment.schedule.kind == "power":
        notes.setdefault(experiment.schedule.warmup, []).append("end of warm-up")
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
    return [(step, "; ".join(texts)) for step, texts in sorted(notes.items())]


def _checkpoints(experiment, plan):
    checkpoint, averaging = experiment.checkpoint, experiment.averaging
    per_step = plan.batch_size * plan.sequence_length
    spacing = f"{checkpoint.every:,} steps ({human(checkpoint.every * per_step)} tokens)"
    lines = [f"every {spacing} and after the last step; the newest {checkpoint.keep} are kept"]
    if steps := window(experiment, plan.steps):
        rates = _window_rates(experiment, plan, steps)
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


def human(count: float) -> str:
    """A count in three digits and a unit, such as 614k, 3.36B or 2.2T; small ones in full."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size and count >= 1e5:
            return f"{count / size:.3g}{unit}"
    return f"{count:,}"


def _listed(items: list[str]) -> str:
    return ", ".join(items if len(items) <= 9 else [*items[:4], "...", *items[-4:]])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head, rows, align):
    cells = [head, *rows] if head else rows
    widths = [max(len(row[i]) for row in cells) for i in range(len(align))]
    return "\n".join("  " + "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)).rstrip() for row in cells)
