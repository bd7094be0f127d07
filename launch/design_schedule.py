"""Designs the schedule that a fitted law holds for best, or the best continuation of a run under way.

    python launch/design_schedule.py --law=law.json --steps=24000 --peak=3e-4 --warmup=2160 --output=schedule.json
    python launch/design_schedule.py --law=law.json --steps=24000 --from_step=12000 --history=runs/constant --output=schedule.json

The rate never rises after the warm-up and ends at or above --floor. Prints the predicted loss beside cosine, linear and WSD schedules that
were tuned under the same law, the shape that was found, and what other parameters that fit nearly as well think of it (docs/laws.md).
Train with it:

    python launch/train.py --config=configs/x.py --config.schedule.kind=file --config.schedule.path=schedule.json
"""

import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax import files, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import one_thread, run

LAW = flags.DEFINE_string("law", None, "A law.json of launch/fit_law.py.", required=True)
STEPS = flags.DEFINE_integer("steps", None, "Updates of the whole run.", required=True)
PEAK = flags.DEFINE_float("peak", None, "The rate after the warm-up; a continuation has its history's.")
WARMUP = flags.DEFINE_integer("warmup", None, "Updates of the linear warm-up from 0; a continuation has its history's.")
FLOOR = flags.DEFINE_string("floor", "0.1%", "The least end rate: a rate such as 3e-7, or a share of the peak such as 0.1%.")
KNOTS = flags.DEFINE_integer("knots", 60, "Straight lines that the schedule may be made of.")
FROM_STEP = flags.DEFINE_integer("from_step", None, "Updates that are done: the schedule goes on from there.")
HISTORY = flags.DEFINE_string("history", "", "With --from_step: the run that did them (its folder), or a schedule .json or .csv (step,lr).")
DRAWS = flags.DEFINE_integer("draws", 20, "Draws from the fit's uncertainty that judge the schedule; 0: none.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "The schedule, such as schedule.json.", required=True)
FIGURE = flags.DEFINE_string("figure", "", "A picture of it beside the tuned families, such as schedule.png.")

LEAST_RATE, LARGEST_RATE = 1e-12, 1e3
ALIKE = 1e-5  # nats: predicted losses that differ by less are the same


def main(argv):
    del argv
    one_thread()
    files.check_target("output", OUTPUT.value, ".json")
    files.check_target("figure", FIGURE.value, ".png")
    import numpy as np

    from kaiyuan_jax.schedules import file
    from kaiyuan_jax.schedules.laws import artefact, families, forecast, minimize, uncertainty

    contents = artefact.read(LAW.value)
    fit = artefact.from_tree(contents, f"--law: {LAW.value}")
    law, theta = fit.law, fit.theta
    minimize.refuse(law)
    problem = described()
    tuned = families.tuned(law, theta, problem)
    best = minimize.design(law, theta, problem, KNOTS.value, starts=tuple(_starts(tuned, problem)))
    rates = problem.rates(best.knots, best.values)
    shape = families.shape_of(law, theta, problem, best, tuned)
    _, low, high = forecast.predict(fit, rates, np.array([problem.steps - 1]))
    draws = uncertainty.samples(fit, DRAWS.value) if DRAWS.value and fit.covariance is not None else np.zeros((0, theta.size))
    judged = families.sensitivity(law, draws, problem, best) if len(draws) else None

    band = [float(low[0]), float(high[0])]
    facts = dict(peak=float(rates.max()), warmup=problem.warmup, floor=problem.floor, predicted_final_loss=best.loss, predicted_band=band)
    if FROM_STEP.value is not None:
        facts |= dict(from_step=FROM_STEP.value, history=HISTORY.value)
    facts |= dict(made_by=f"launch/design_schedule.py, {artefact.maker()}", comparison=compared(problem, tuned))
    facts |= dict(sensitivity=summary(problem, judged), law=contents)
    head_knots, head_rates = file.lines(problem.head)
    knots, values = np.append(head_knots, best.knots[1:]), np.append(head_rates, best.values[1:])
    file.write(OUTPUT.value, *file.thinned(knots, values), **facts)
    print(table(problem, best, tuned, shape))
    print(f"\npredicted final loss {best.loss:.4f}, 90% {band[0]:.4f} to {band[1]:.4f} ({law.name}, {fit.protocol} fit)")
    for sentence in sentences(problem, best, tuned, shape, judged):
        print(sentence)
    for doubt in forecast.doubts(fit, "this schedule", rates):
        print(f"note: {doubt}", file=sys.stderr)
    print(f"written: {OUTPUT.value}")
    if FIGURE.value:
        from kaiyuan_jax.report import design_figure

        Path(FIGURE.value).write_bytes(design_figure.draw(fit, problem, best, tuned))
        print(f"written: {FIGURE.value}")


def described():
    """The problem that the flags describe. Raises UserError for what does not go together."""
    import numpy as np

    from kaiyuan_jax.schedules import file
    from kaiyuan_jax.schedules.laws import minimize, rebuild

    if not 2 <= STEPS.value <= file.MOST_STEPS:
        raise UserError(f"--steps: found {STEPS.value}, must be 2 to {file.MOST_STEPS:g}, the updates of the whole run")
    if KNOTS.value < 2:
        raise UserError(f"--knots: found {KNOTS.value}, must be at least 2")
    if (FROM_STEP.value is None) != (not HISTORY.value):
        raise UserError("--from_step and --history: give both, to continue a run, or neither")
    if FROM_STEP.value is None:
        if PEAK.value is None or WARMUP.value is None:
            raise UserError("--peak and --warmup: give both (or --from_step and --history, to continue a run)")
        if not LEAST_RATE <= PEAK.value <= LARGEST_RATE:
            raise UserError(f"--peak: found {PEAK.value:g}, must be {LEAST_RATE:g} to {LARGEST_RATE:g}, a learning rate such as 3e-4")
        if not 0 <= WARMUP.value < STEPS.value - 1:
            raise UserError(f"--warmup: found {WARMUP.value} updates, must be 0 to {STEPS.value - 2} for a run of {STEPS.value}")
        head = minimize.warmed_up(PEAK.value, WARMUP.value)
    else:
        rates = history()
        if not 0 < FROM_STEP.value < min(STEPS.value, rates.size + 1):
            raise UserError(
                f"--from_step: found {FROM_STEP.value}, must be above 0, below --steps={STEPS.value} and at most the {rates.size} updates "
                f"of {HISTORY.value}"
            )
        head = rates[: FROM_STEP.value]
        warmup = rebuild.warmup_of(rates)
        if FROM_STEP.value <= warmup:
            raise UserError(f"--from_step: found {FROM_STEP.value}, lies in the warm-up of {warmup} updates; continue from after it")
        if not head[-1] > 0:
            raise UserError(
                f"--from_step: found {FROM_STEP.value}, where {HISTORY.value} has a rate of 0, and what follows never "
                "rises; continue from an earlier step"
            )
        if PEAK.value is not None and not np.isclose(PEAK.value, head.max(), rtol=1e-5):
            raise UserError(f"--peak: found {PEAK.value:g}, but {HISTORY.value} has felt {head.max():g}; leave it away to continue a run")
        if WARMUP.value is not None and WARMUP.value != warmup:
            raise UserError(f"--warmup: found {WARMUP.value}, but that of {HISTORY.value} has {warmup}; leave it away to continue a run")
    return minimize.Problem(np.asarray(head, np.float64), STEPS.value, floor(head))


def history():
    """float64[T]: the rates of the run or the schedule that --history names."""
    from kaiyuan_jax.schedules.laws import given

    path = storage.path(HISTORY.value)
    if path.is_dir():
        from kaiyuan_jax.report import curves

        if not (path / "config.json").is_file():
            raise UserError(f"--history: {path} holds no config.json, must be the folder of a run, or a schedule .json or .csv (step,lr)")
        return curves.run(path)[1]
    return given.rates(HISTORY.value, flag="--history")


def floor(head) -> float:
    """The least rate, absolute."""
    text, peak = FLOOR.value, float(head.max())
    try:
        value = float(text[:-1]) / 100 * peak if text.endswith("%") else float(text)
    except ValueError:
        raise UserError(f"--floor: found {text!r}, must be a rate such as 3e-7 or a share of the peak such as 0.1%") from None
    if not 0 <= value < head[-1]:
        raise UserError(
            f"--floor: found {text} ({value:g}), must be 0 or more and below the rate that the schedule falls from, {head[-1]:g}"
        )
    return value


def _starts(tuned, problem):
    """The two best families, for the search to begin from."""
    for family in tuned[:2]:
        yield lambda step, family=family: family.rate(step, problem)


def table(problem, best, tuned, shape) -> str:
    """Predicted final losses, the designed schedule first."""
    rows = [("designed", (problem.steps - 1 - shape.knee) / problem.steps, float(best.values[-1]), best.loss)]
    rows += [(family.name, family.decay(problem), family.end, family.loss) for family in tuned]
    lines = [f"{'schedule':<16}  {'decay':>7}  {'end rate':>9}  {'predicted':>9}  {'to designed':>11}"]
    for name, decay, end, loss in rows:
        lines.append(f"{name:<16}  {decay:>7.1%}  {end:>9.3g}  {loss:>9.5f}  {loss - best.loss:>+11.5f}")
    return "\n".join(lines)


def sentences(problem, best, tuned, shape, judged):
    """What the schedule looks like, and how sure that is."""
    import numpy as np

    yield (
        f"shape: holds {problem.ceiling:.4g} up to step {shape.knee:,} of {problem.steps:,}; as a power of what is left, "
        f"(1 - r)^{shape.power:.2f} from step {shape.power_knee:,} to {shape.power_end:.3g} ({shape.error:.1%} of the peak off)"
    )
    near = next(family for family in tuned if family.name == shape.nearest)
    if near.name.startswith("WSD") and problem.warmup < problem.first + 1 and FROM_STEP.value is None:
        yield (
            f"nearest named schedule: {near.name}, --config.schedule.kind=wsd --config.schedule.shape={near.shape} "
            f"--config.schedule.decay={near.decay(problem):.4g} --config.schedule.end={near.end:.3g}"
        )
    else:
        yield f"nearest named schedule: {near.name}, leaving step {near.knee:,} for {near.end:.3g}"
    if tuned[0].loss < best.loss - ALIKE:
        yield f"{tuned[0].name} is predicted to end lower: {best.knots.size - 1} lines are too few to follow it; give more --knots"
    if best.values[-1] <= 1.01 * problem.floor:
        yield f"the end rate lies at the floor, {problem.floor:.3g}: the law sees no reason to stop there, the floor does"
    if judged is None:
        yield "sensitivity: not known (no uncertainty in the law.json, or a law whose optimum takes long to find)"
    else:
        low, high = np.quantile(judged.knee, [0.05, 0.95])
        yield (
            f"sensitivity: {judged.regret.size} draws from the fit's uncertainty would leave the peak between steps {low:,.0f} and "
            f"{high:,.0f} (90%), and hold this schedule for {np.median(judged.regret):.2g} worse than their own in the median, "
            f"{np.quantile(judged.regret, 0.95):.2g} at worst (95%)"
        )


def compared(problem, tuned) -> list[dict]:
    return [
        {"name": f.name, "shape": f.shape, "knee": f.knee, "decay": f.decay(problem), "end": f.end, "predicted_final_loss": f.loss}
        for f in tuned
    ]


def summary(problem, judged) -> dict | None:
    import numpy as np

    if judged is None:
        return None
    places = [0.05, 0.5, 0.95]
    quantiles = {name: np.quantile(getattr(judged, name), places).tolist() for name in ("loss", "regret", "knee")}
    return {"draws": int(judged.regret.size), "quantiles": places, **quantiles}


if __name__ == "__main__":
    run(main)
