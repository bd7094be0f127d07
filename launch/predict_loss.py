"""Predicts the loss curve of a schedule with a fitted law.

    python launch/predict_loss.py --law=law.json --schedule=configs/quickstart.py:uniform_wsd --steps=48000 --output=forecast/

--schedule: a schedule.json or .csv, a .npy of every rate, a run's config.json, or a config file with its variant. Prints the loss at a few
steps and at the end with a band that should hold 90% of such runs (docs/laws.md); --output gets forecast.csv (step, lr, loss, low, high)
and forecast.png.
"""

import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import one_thread, run

LAW = flags.DEFINE_string("law", None, "A law.json of launch/fit_law.py.", required=True)
SCHEDULE = flags.DEFINE_string("schedule", None, "The schedule whose loss is asked for.", required=True)
STEPS = flags.DEFINE_integer("steps", None, "Updates of the run; default: what the schedule's file or the config's token budget says.")
OUTPUT = flags.DEFINE_string("output", "", "Folder for forecast.csv and forecast.png.")
POINTS = flags.DEFINE_integer("points", 500, "Steps that are predicted, evenly over the run, the last among them.", lower_bound=2)

SHOWN = 8  # lines on the terminal


def main(argv):
    del argv
    one_thread()
    import numpy as np

    from kaiyuan_jax.schedules.laws import artefact, forecast, given, rebuild

    if STEPS.value is not None and STEPS.value < 1:
        raise UserError(f"--steps: found {STEPS.value}, must be at least 1")
    nearest = next((path for path in (Path(OUTPUT.value), *Path(OUTPUT.value).parents) if path.exists()), Path())
    if not nearest.is_dir():
        raise UserError(f"--output={OUTPUT.value}: {nearest} is a file, must be a folder, which may be new")
    fit = artefact.load(LAW.value)
    rates = given.rates(SCHEDULE.value, STEPS.value)
    warmup = rebuild.warmup_of(rates)
    steps = np.unique(np.linspace(min(max(warmup, 1), len(rates) - 1), len(rates) - 1, POINTS.value).round().astype(np.int64))
    loss, low, high = forecast.predict(fit, rates, steps)
    name = Path(SCHEDULE.value.partition(":")[0]).name
    print(
        f"{name}: {len(rates):,} updates, warm-up {warmup:,}, peak {rates.max():.4g}, end {rates[-1]:.4g}; {fit.law.name} ({fit.protocol})"
    )
    print(f"{'step':>10}  {'lr':>10}  {'loss':>8}  90% band")
    for i in np.unique(np.linspace(0, len(steps) - 1, SHOWN).round().astype(int)):
        print(f"{steps[i]:>10,}  {rates[steps[i]]:>10.4g}  {loss[i]:>8.4f}  {low[i]:.4f} to {high[i]:.4f}")
    for doubt in forecast.doubts(fit, name, rates):
        print(f"note: {doubt}", file=sys.stderr)
    if OUTPUT.value:
        from kaiyuan_jax.report import law_figures

        folder = Path(OUTPUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        table = np.column_stack([steps, rates[steps], loss, low, high])
        np.savetxt(folder / "forecast.csv", table, ["%d", "%.9g", "%.6f", "%.6f", "%.6f"], ",", header="step,lr,loss,low,high", comments="")
        (folder / "forecast.png").write_bytes(law_figures.forecast(name, steps, rates, (loss, low, high)))
        print(f"written: {folder / 'forecast.csv'}, {folder / 'forecast.png'}")


if __name__ == "__main__":
    run(main)
