"""Order x learning-rate decay x averaging at equal tokens: python launch/study_curriculum.py --output=runs/curriculum

    train     populations of small models: one seed on one corpus is one cell, the control first
    evaluate  every recipe under every average of its last checkpoints, on held-out text of the best quality
    report    the paper's tables in our numbers, the gap by end rate, which findings reproduce: report.html, figures, curriculum.md

The control is text of the first store with noise that falls with quality: there the effect must be found. One command does all; what is
finished is not done again, so the same command resumes, and more --seeds add cells.
"""

import pathlib

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

STAGES = ("train", "report")

OUTPUT = flags.DEFINE_string("output", "runs/curriculum", "Folder for the control store, the populations, results.json and the report.")
STORES = flags.DEFINE_list(
    "stores", [f"stores/quickstart/{kind}" for kind in ("prose", "code", "math", "chinese")], "Folders that hold train/ and heldout/."
)
CORPORA = flags.DEFINE_list("corpora", ["control", "stores"], "Which to study: control, stores, or both.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Repeats, each with other weights and another choice and order of rows.", lower_bound=2)
SIZE = flags.DEFINE_enum("size", "cpu", ("quick", "cpu", "gpu"), "How large: quick only shows that everything runs.")
STEPS = flags.DEFINE_integer("steps", 0, "Updates of a run; warm-up and checkpoints keep their share. 0: the size's.", lower_bound=0)
PEAK = flags.DEFINE_float("peak", 0.0, "Peak learning rate. 0: the size's.", lower_bound=0.0)
STAGE = flags.DEFINE_enum("stage", "", ("", *STAGES), "Only this stage; empty: both.")


def main(argv):
    import dataclasses

    from kaiyuan_jax.experiments import curriculum

    size = curriculum.sized(curriculum.SIZES[SIZE.value], STEPS.value)
    size = dataclasses.replace(size, peak=PEAK.value) if PEAK.value else size
    check()
    from kaiyuan_jax.experiments import curriculum_runs

    output = pathlib.Path(OUTPUT.value)
    study = curriculum.Study(size, corpora(output), SEEDS.value, output)
    curriculum_runs.hold(study)
    if STAGE.value in ("", "train"):
        train([cell for cell in study.cells() if not curriculum_runs.losses_path(cell).exists()])
    if STAGE.value in ("", "report"):
        from kaiyuan_jax.experiments import curriculum_results
        from kaiyuan_jax.report import curriculum as report

        curriculum_results.collect(study)
        print(report.build(output))
        print(f"written: {output / 'report.html'}")


def train(cells) -> None:
    """Trains and evaluates the cells that are not finished, and says before what that costs."""
    from kaiyuan_jax.experiments import curriculum_runs, population

    if not cells:
        print("every cell is finished")
        return
    tokens = sum(cell.tokens for cell in cells)
    once = population.predict_cost(cells[0].part(decays=False), timed_steps=3)
    minutes = tokens * once.seconds_per_token / 60
    print(f"{len(cells)} cells, {tokens:,} tokens of training, about {minutes:,.1f} min (measured), evaluation not counted")
    for cell in cells:
        print(f"\n{cell.folder}", flush=True)
        curriculum_runs.evaluate(cell, *curriculum_runs.train(cell))


def check() -> None:
    """Raises UserError for stores that are missing and corpora that there are not, before any work."""
    if unknown := sorted(set(CORPORA.value) - {"control", "stores"}):
        raise UserError(f"--corpora: found {', '.join(unknown)}, must be control, stores, or both")
    if not CORPORA.value or not STORES.value:
        raise UserError("--corpora and --stores: must name at least one each")
    for store in STORES.value:
        for part in ("train", "heldout"):
            if not pathlib.Path(store, part).is_dir():
                raise UserError(f"--stores: {pathlib.Path(store, part)} does not exist; prepare it with launch/prepare_quickstart.py")


def corpora(output: pathlib.Path):
    from kaiyuan_jax.experiments import curriculum, curriculum_runs

    stores = [pathlib.Path(store) for store in STORES.value]
    found = []
    if "control" in CORPORA.value:
        found.append(curriculum_runs.control(str(stores[0] / "train"), str(stores[0] / "heldout"), output))
    if "stores" in CORPORA.value:
        best = [curriculum_runs.best(str(store / "heldout"), 1 - curriculum.BEST, output) for store in stores]
        sources = tuple((store.name, str(store / "train"), folder) for store, folder in zip(stores, best, strict=True))
        found.append(curriculum.Corpus("stores", sources))
    return tuple(found)


if __name__ == "__main__":
    run(main)
