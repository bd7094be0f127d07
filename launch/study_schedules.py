"""Tests the loss laws on our own models: python launch/study_schedules.py --output=runs/schedules --stores=stores/quickstart

    train     small models under cosine, constant and two-stage schedules, WSD, WSD-S, and cosines and WSDs to other end rates
    fit       the law, on the cosine, the constant and the two-stage curves
    design    the schedule that the law holds for best, and its runs
    compare   predicted against actual; the designed schedule against the tuned ones on a large held-out sample
    report    report.html, figures and a table

One command does all; --stage does one. What is finished is not done again, so the same command resumes, and more --seeds add runs.
"""

import pathlib
import shlex
import shutil
import subprocess
import sys

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

SAME = 1e-3  # of the peak: designed schedules this near one another are the same
STAGES = ("train", "fit", "design", "compare", "report")

OUTPUT = flags.DEFINE_string("output", "runs/schedules", "Folder for the runs, law.json, schedule.json, results.json and the report.")
STORES = flags.DEFINE_string("stores", "stores/quickstart", "Folder that launch/prepare_quickstart.py wrote.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Repeats of every run, each with other weights and another data order.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 0, "Updates of a run; points and checkpoints keep their share. 0: as the size has it.", lower_bound=0)
PROCESSES = flags.DEFINE_integer("processes", 2, "Runs trained at the same time, each on one core.", lower_bound=1)
STAGE = flags.DEFINE_enum("stage", "", ("", *STAGES), "Only this stage; empty: all of them.")
QUICK = flags.DEFINE_bool("quick", False, "A tiny model and few steps: shows that everything runs, and means nothing.")


def main(argv):
    from kaiyuan_jax.experiments import results, runs, schedules

    size = schedules.sized(schedules.QUICK if QUICK.value else schedules.Size(), STEPS.value)
    study = schedules.Study(size, SEEDS.value, STORES.value, OUTPUT.value)
    check(study)
    for stage in [STAGE.value] if STAGE.value else STAGES:
        print(f"\n{stage}", flush=True)
        if stage == "train":
            runs.train(study.runs(), PROCESSES.value)
        elif stage == "fit":
            law = results.fit_law(study)
            print(f"{law.law.name}, protocol {law.protocol}: " + ", ".join(f"{name} {value:.5g}" for name, value in law.values.items()))
        elif stage == "design":
            design(study)
            runs.train(study.designed(), PROCESSES.value)
        elif stage == "compare":
            runs.evaluate(study.runs() + study.designed(), size.final_rows, PROCESSES.value)
            results.collect(study)
        else:
            from kaiyuan_jax.report import schedule_study

            print(schedule_study.build(study.folder))
            print(f"written: {study.folder / 'report.html'}")


def design(study) -> None:
    """Runs launch/design_schedule.py as a user would, on the law of the study. Raises UserError where its runs had another schedule."""
    import numpy as np

    from kaiyuan_jax.schedules import file

    size, folder = study.size, study.folder
    words = ["launch/design_schedule.py", f"--law={folder / 'law.json'}", f"--steps={size.steps}", f"--peak={size.peak}"]
    words += [f"--warmup={size.warmup}", f"--output={folder / 'schedule.json'}"]
    print("$ python " + shlex.join(words), flush=True)
    if subprocess.run([sys.executable, *words], check=False).returncode:
        raise UserError("study_schedules: stopped, the command above failed")
    # A law that was fitted anew designs another schedule than the one that runs were trained with: by rounding, which is no reason to train
    # them again, or because it saw other curves.
    new = file.read(str(folder / "schedule.json")).all_rates()
    for kept in [trained.folder / "schedule.json" for trained in study.designed()]:
        if kept.exists() and np.abs(file.read(str(kept)).all_rates() - new).max() > SAME * size.peak:
            raise UserError(f"--output: {kept.parent} was trained with the schedule of another law; remove it to train it with this one")
        if kept.exists():
            shutil.copyfile(kept, folder / "schedule.json")


def check(study) -> None:
    """Raises UserError where the stores are missing, before any work."""
    from kaiyuan_jax.experiments import schedules

    for source in schedules.SOURCES:
        for part in ("train", "heldout"):
            folder = pathlib.Path(study.stores, source, part)
            if not folder.is_dir():
                raise UserError(f"--stores: {folder} does not exist; prepare it with launch/prepare_quickstart.py --output={study.stores}")


if __name__ == "__main__":
    run(main)
