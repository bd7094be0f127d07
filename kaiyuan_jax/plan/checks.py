"""What keeps a run from starting (`problems`), and combinations that can run but are known to waste data (`warnings`)."""

import pathlib

import numpy as np

from kaiyuan_jax.averaging.weights import weights
from kaiyuan_jax.config import ConfigError, Experiment, UserError
from kaiyuan_jax.data import recipe
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.plan import domains, forecast, repetition
from kaiyuan_jax.plan.timeline import learning_rate, peak_rate, phase_steps, saved_steps, window, window_rates
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.training import branch

LOW, HIGH = 0.1, 0.34  # of the peak: below LOW a rate counts as near zero, above HIGH a decay is less than moderate
MANY_PASSES = 4.05  # 2305.16264: four passes are worth 3.7 fresh ones, later ones much less


def problems(experiment: Experiment, plan: Plan) -> list[str]:
    """What makes the run impossible and needs the plan's sizes to see, one line each."""
    if plan.steps == 0:
        return ["config.data: all phases together give less than one batch; add data or lower config.data.batch_size"]
    found = schedules.problems(experiment.schedule, plan.steps)
    found = found or [*(branch.problems(experiment, plan) or _branch_problems(experiment, plan)), *_law_problems(experiment)]
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


def _branch_problems(experiment, plan):
    parent, wanted = branch.parent_of(experiment), window(experiment, plan.steps)
    if parent is None or branch.begun(experiment) or not wanted:
        return
    every, last = experiment.checkpoint.every, experiment.averaging.last
    own = [step for step in saved_steps(experiment, plan.steps) if step > parent.step]
    if (found := [*parent.taken_over(every), *own][-last:]) != wanted:
        fits = sum(step > parent.step for step in wanted) or 1
        yield (
            f"config.averaging.last: found {last}, which means checkpoints {_listed(wanted)}; branching off step {parent.step:,} of "
            f"{parent.folder}, with what that folder holds, they would be {_listed(found)}. Lower last to {fits}, or branch off a run that "
            f"kept its checkpoints every {every:,} steps"
        )


def _listed(steps):
    return ", ".join(f"{step:,}" for step in steps)


def _law_problems(experiment):
    try:
        forecast.law(experiment)
    except UserError as error:
        yield str(error)


def store_problems(experiment: Experiment) -> list[str]:
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
    found = [*_order_warnings(experiment, plan), *_averaging_warnings(experiment, plan), *_data_warnings(experiment, plan)]
    return found + list(_domain_warnings(experiment, plan))


def _order_warnings(experiment, plan):
    rate, averaging = learning_rate(experiment, plan), experiment.averaging
    peak, final = peak_rate(experiment, plan), float(rate(plan.steps - 1))
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
    peak, mean = peak_rate(experiment, plan), float(window_rates(experiment, plan, steps).mean())
    if mean < LOW * peak:
        yield (
            f"averaging: over the last {len(steps)} checkpoints (steps {steps[0]:,} to {steps[-1]:,}) the mean rate is {mean:.2g}, "
            f"{mean / peak:.1%} of the peak. Averaging pays only while the rate is not near zero: on a decayed run it changed the mean "
            "score by -0.42 and +0.01 (arXiv 2608.27370)"
        )
    elif len(steps) > 1 and (last := float(learning_rate(experiment, plan)(plan.steps - 1))) < LOW * peak and mean > 3 * last:
        yield (
            f"averaging: the last {len(steps)} checkpoints lie across a deep decay: the mean rate is {mean:.2g} and the last {last:.2g}, "
            f"{last / peak:.1%} of the peak. An average gives back part of what the decay won; decay less and average, or decay and do not "
            "(arXiv 2511.18903, 2608.27370)"
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
    ranked = sorted(most.items(), key=lambda item: -item[1])
    many = [f"{name} {passes:.3g} (worth {repetition.worth(passes):.3g})" for name, passes in ranked if passes > MANY_PASSES]
    if many:
        yield (
            f"repetition: read more than 4 times in all: {', '.join(many)}. Four passes are worth about 3.7 fresh ones and later passes "
            "less and less (arXiv 2305.16264); larger sources bear more (arXiv 2511.13421)"
        )
    if beyond := [name for name, passes in ranked if passes > repetition.LIMIT]:
        yield (
            f"repetition: read more than {repetition.LIMIT:.1f} times in all: {', '.join(beyond)}. From there on a pass is worth less than "
            "half a fresh one by the fit of arXiv 2305.16264; read fresh text instead, or fewer passes. Within this limit: "
            + "; ".join(repetition.within_limit(plan).values())
        )
    asked = [use.order or phase.order for phase in experiment.data.phases for use in phase.uses]
    uses = [use for phase in plan.phases for use in phase.uses]
    unsorted = {plan.sources[use.source] for use, wish in zip(uses, asked, strict=True) if use.order != wish}
    if unsorted:
        yield f"order: no quality score in {', '.join(sorted(unsorted))}, so the order asked for is replaced by uniform there"
    if whole := {plan.sources[use.source] for use in uses if use.taken and use.entries == use.width}:
        yield (
            f"sampling: all of the window of {', '.join(sorted(whole))} is read, so its temperature changes nothing; lower passes, or give "
            "the phase fewer tokens"
        )


def _domain_warnings(experiment, plan):
    for limit, part in domains.broken(experiment.data.domain_limits, domains.mixtures(experiment, plan)[:-1]):
        sizes = f"; {part.assumed:.0%} of the phase rests on sizes that are ours, so this may be too" if part.assumed else ""
        yield f"domains: {part.name}: {part.share(limit.domain):.1%} {limit.domain}, the recipe asks for {domains.words(limit)}{sizes}"


def _mostly(phase, name: str) -> bool:
    return 2 * sum(use.entries for use in phase.uses if use.order == name) > phase.entries
