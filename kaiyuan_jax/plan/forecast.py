"""What the loss law of an experiment, if it names one, says about the run before it is paid for."""

import textwrap

import numpy as np

from kaiyuan_jax.config import Experiment
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.schedules import build as schedules

POINTS = 9  # steps shown


def law(experiment: Experiment):
    """The fitted law (`schedules.laws.fit.Fit`), None without one. Raises UserError for one that cannot be used."""
    schedule = experiment.schedule
    if not schedule.law and schedule.kind != "file":
        return None  # most plans: nothing of the laws is imported
    from kaiyuan_jax.schedules.laws import named

    return named.law_of(schedule)


def curve(experiment: Experiment, plan: Plan, points: int):
    """(steps int64[P], rates, loss, low, high) at up to `points` steps after warm-up; None without a law."""
    fit = law(experiment)
    if fit is None:
        return None
    from kaiyuan_jax.schedules.laws import forecast, rebuild

    rates = schedules.rates(experiment.schedule, plan.steps, batch_size=plan.batch_size, sequence_length=plan.sequence_length)
    last = plan.steps - 1
    begin = min(max(rebuild.warmup_of(rates), last // (POINTS - 1)), last)
    steps = np.unique(np.linspace(begin, last, points).round().astype(np.int64))
    return steps, rates, *forecast.predict(fit, rates, steps)


def section(experiment: Experiment, plan: Plan) -> str | None:
    """The predicted loss at a few steps with its band, what the law was fitted to, and why not to believe it here; None without a law."""
    found = curve(experiment, plan, POINTS)
    if found is None:
        return None
    from kaiyuan_jax.schedules.laws import forecast, named

    fit, (steps, rates, loss, low, high), last = law(experiment), found, plan.steps - 1
    lines = [f"  {'step':>{len(f'{last:,}')}}  {'rate':>9}  {'loss':>7}  90% of runs"]
    for row in zip(steps, rates[steps], loss, low, high, strict=True):
        lines.append("  {:>{width},}  {:>9.3g}  {:>7.4f}  {:.4f} to {:.4f}".format(*row, width=len(f"{last:,}")))
    notes = [f"{named.origin(fit)}. {named.SCOPE}", *forecast.doubts(fit, "this run", rates)]
    wrapped = [textwrap.fill(note, 118, initial_indent="  ", subsequent_indent="  ") for note in notes]
    return "\n".join(["Forecast of the loss", *lines, *wrapped])
