"""Evaluates every checkpoint of runs: python launch/evaluate_trajectory.py --runs=runs/a,runs/b --output=runs/trajectory [--tasks=choice]

Writes trajectory.parquet, one row for each run, checkpoint, task, level and metric (kaiyuan_jax/evaluation/trajectory.py), and
report.html, which draws each task against tokens and against held-out loss. Held-out text is always read; --tasks adds next-passage choice
(`choice`) and suites of tasks (folders that launch/build_tasks.py wrote). The same command goes on where it was stopped, and adds
checkpoints, runs and tasks that are new.
"""

from absl import flags

from kaiyuan_jax import config, storage
from kaiyuan_jax.flags import run
from kaiyuan_jax.training import saved

RUNS = flags.DEFINE_list("runs", None, "Folders of runs, and of populations, whose members are then runs.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for trajectory.parquet, report.html and the figures.", required=True)
TASKS = flags.DEFINE_list("tasks", [], "What to measure beside held-out text: choice, and folders of task suites.")
ITEMS = flags.DEFINE_integer("items", 0, "Of every level of every task of a suite, at most so many items; 0: all.", lower_bound=0)
TITLE = flags.DEFINE_string("title", "Trajectories", "Title of the page.")


def main(argv):
    if storage.is_remote(OUTPUT.value):
        raise config.UserError(f"--output={OUTPUT.value}: must be a folder of this machine; runs may be remote")
    found = {}
    for item in RUNS.value:
        folder = storage.path(item)
        name = folder.absolute().name if not storage.is_remote(item) else folder.name
        if name in found:
            raise config.UserError(f"--runs: found two runs named {name}, by which their rows are told apart; rename one folder")
        found[name] = folder, steps(item, folder)

    from kaiyuan_jax.experiments import trajectories
    from kaiyuan_jax.report import trajectory as report

    measures = [trajectories.heldout_text()]
    for name in TASKS.value:
        measures += [trajectories.next_passage()] if name == "choice" else trajectories.suite("--tasks", name, items=ITEMS.value)
    points = []
    for name, (folder, kept) in found.items():
        alone = (folder / "config.json").is_file()
        points += trajectories.of_run(name, folder, kept) if alone else trajectories.of_population(name, folder)
    path = trajectories.evaluate(points, measures, OUTPUT.value)
    print(report.build(path, TITLE.value))
    print(f"written: {path.with_name('report.html')}")


def steps(item: str, folder) -> list[int]:
    """The checkpoints of a run or a population; raises UserError where there is none."""
    if not any((folder / name).is_file() for name in ("config.json", "members.json")):
        raise config.UserError(f"--runs={item}: holds no config.json, must be the folder of a run or of a population; train one first")
    if not (kept := saved.steps(folder / "checkpoints")):
        raise config.UserError(f"--runs={item}: holds no complete checkpoint; train first (launch/train.py)")
    return kept


if __name__ == "__main__":
    run(main)
