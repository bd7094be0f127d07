"""Fits a loss law to loss curves and tests it on others.

    python launch/fit_law.py --curves=curves/ --train=cosine_24000,constant_24000,wsdcon_9 --output=law.json [--report=law.html]
    python launch/predict_loss.py --law=law.json --schedule=configs/x.py --steps=48000

A curve is a CSV or Parquet with columns step, lr, loss (any spacing), or a run folder of launch/train.py; its name is the file's or
folder's. What was not trained on is tested on. The whole schedule behind a curve is rebuilt from its lr column, a run's is its config's;
--schedules gives it where that is not enough. Give several training curves of one model, batch and peak rate, at least one of which lowers
the rate: docs/laws.md says which help most, and what every number here means.
"""

import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax import files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import one_thread, run

CURVES = flags.DEFINE_string("curves", None, "Folder of the curves (or one run folder).", required=True)
TRAIN_ON = flags.DEFINE_list("train", None, "Names of the curves to fit.", required=True)
TEST_ON = flags.DEFINE_list("test", None, "Names of the curves to test on; default: all others.")
LAW = flags.DEFINE_string("law", "multi_power", "The law: see docs/laws.md.")
PROTOCOL = flags.DEFINE_string("protocol", "robust", "How it is fitted: robust | converged | reference.")
OUTPUT = flags.DEFINE_string("output", "", "The fitted law, such as law.json.")
REPORT = flags.DEFINE_string("report", "", "A page with figures, such as law.html.")
LOSS = flags.DEFINE_string("loss", "train", "Which loss: train, or another column of the files, or heldout/mean, ... of runs.")
WARMUP = flags.DEFINE_integer(
    "warmup",
    None,
    "Files: updates of the linear rise from 0, the last at the peak; default: up to the earliest first point.",
    lower_bound=0,
)
FIRST_STEP = flags.DEFINE_integer("first_step", 0, "Points before this step are left out of every curve.", lower_bound=0)
SCHEDULES = flags.DEFINE_list("schedules", [], "name=schedule.json | .csv | .npy | configs/x.py[:variant]@STEPS, of curves that need it.")
PAIRS = flags.DEFINE_list("pairs", None, "Pairs a-b whose final gap is tested; default: all of equal length.")
SEED = flags.DEFINE_integer("seed", 0, "Of random starts.")


def main(argv):
    del argv
    one_thread()
    files.check_target("output", OUTPUT.value, ".json")
    files.check_target("report", REPORT.value, ".html")
    from kaiyuan_jax.report import curves as folder
    from kaiyuan_jax.report import law_text
    from kaiyuan_jax.schedules.laws import artefact, catalogue, curves, forecast, metrics
    from kaiyuan_jax.schedules.laws import fit as fits

    if LAW.value not in catalogue.LAWS:
        raise UserError(f"--law: found {LAW.value!r}, must be one of {', '.join(catalogue.LAWS)}")
    if PROTOCOL.value not in fits.PROTOCOLS:
        raise UserError(f"--protocol: found {PROTOCOL.value!r}, must be one of {', '.join(fits.PROTOCOLS)}")
    law = catalogue.LAWS[LAW.value]
    paths = folder.find(CURVES.value)
    train_names, test_names = names(list(paths))
    found, notes = read({name: paths[name] for name in (*train_names, *test_names)})
    train, test = [found[name] for name in train_names], [found[name] for name in test_names]
    fits_law = fits.fitted_law(law, PROTOCOL.value)
    curves.fewest(train, len(fits_law.parameters), fits_law.name)
    pairs = metrics.same_end([*train, *test]) if PAIRS.value is None else [metrics.named_pair(pair, list(found)) for pair in PAIRS.value]
    fitted = fitting(law, train)
    far = [doubt for curve in test for doubt in forecast.doubts(fitted, curve.name, curve.rates[: curve.steps[-1] + 1])]
    doubts = [*curves.doubts(train, fitted.law.parameters), *forecast.implausible(fitted)]
    warnings = [*doubts, *far, *notes]
    measured = metrics.measure(fitted.law, fitted.theta, train, test, pairs)
    contents = artefact.tree(fitted, train, test, measured, warnings)
    if OUTPUT.value:
        artefact.write(OUTPUT.value, contents)
    if REPORT.value:
        from kaiyuan_jax.report import law as page

        page.build(REPORT.value, fitted, contents, train, test)
    print(law_text.describe(contents))
    for warning in warnings:
        print(f"note: {warning}", file=sys.stderr)
    for written in filter(None, (OUTPUT.value, REPORT.value)):
        print(f"written: {written}")


def fitting(law, train):
    """The fit with its uncertainty, and what a forecast compares a schedule with."""
    import dataclasses

    from kaiyuan_jax.schedules.laws import fit, forecast, uncertainty

    fitted = uncertainty.attach(fit.fit(law, train, PROTOCOL.value, seed=SEED.value), train)
    return dataclasses.replace(fitted, details=fitted.details | {"reach": forecast.reach(train), "loss": LOSS.value})


def names(there: list[str]) -> tuple[list[str], list[str]]:
    """The names of the training and of the test curves, checked against those that there are."""
    train = TRAIN_ON.value
    test = [name for name in there if name not in train] if TEST_ON.value is None else TEST_ON.value
    if not train:
        raise UserError(f"--train: found none, must be one or more of {', '.join(there)}")
    for flag, given in (("train", train), ("test", test)):
        for name in given:
            if name not in there:
                raise UserError(f"--{flag}: found {name!r}, must be of {', '.join(there)} (the curves in {CURVES.value})")
            if given.count(name) > 1:
                raise UserError(f"--{flag}: {name} is there twice; name each curve once")
    if both := [name for name in test if name in train]:
        raise UserError(f"--test: {both[0]} is in --train too; a law must be tested on curves that it was not fitted to")
    return train, test


def read(paths: dict[str, Path]) -> tuple[dict, list[str]]:
    """Every curve by name, and what was assumed about them."""
    from kaiyuan_jax.report import curves as folder
    from kaiyuan_jax.schedules.laws import curves, given

    schedules = {}
    for item in SCHEDULES.value:
        name, equals, source = item.partition("=")
        if not equals or name not in paths:
            raise UserError(f"--schedules: found {item!r}, must be NAME=FILE with a curve's name: {', '.join(paths)}")
        schedules[name] = given.rates(source, flag="--schedules")
    read = {name: folder.read(path, LOSS.value, needs_rates=name not in schedules) for name, path in paths.items()}
    # Files that begin after the warm-up say how long it was at most; runs of one recipe share it, so the earliest says most.
    rebuilt = [samples for name, (samples, rates) in read.items() if rates is None and name not in schedules]
    earliest = min((int(samples.steps[0]) for samples in rebuilt), default=None)
    found, notes = {}, {}
    for name, (samples, rates) in read.items():
        rates = schedules.get(name, rates)
        warmup = None if rates is not None else WARMUP.value
        found[name], about = curves.assemble(samples, rates=rates, warmup=warmup, assumed=earliest, first_step=FIRST_STEP.value)
        for sentence in about:
            notes.setdefault(sentence, []).append(name)
    return found, [f"{', '.join(who) if len(who) < len(paths) else 'all curves'}: {sentence}" for sentence, who in notes.items()]


if __name__ == "__main__":
    run(main)
