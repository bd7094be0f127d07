"""Builds the offline evaluation suite for small models out of packaged real text.

    python launch/build_tasks.py --output=stores/tasks
    python launch/build_tasks.py --output=stores/tasks --tasks=next_passage --heldout=web=stores/web/heldout --against=stores/web/train

Tasks: definition and word choice (WordNet), the next line of Chinese poems, minimal pairs, the next passage of held-out text, the loss of
HumanEval's solutions; most in three levels (docs/evaluation.md). Items that the stores of --against quote are left out. The same
packages, stores and seed give the same bytes. Fetches 100 MB once; for use on this machine, under the licences that suite.json names.
"""

import pathlib

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

QUICKSTART = ("prose", "code", "math", "chinese")
NAMES = ("definition", "word", "poem", "poem_traditional", "minimal_pairs", "next_passage", "human_eval")

OUTPUT = flags.DEFINE_string("output", "stores/tasks", "Folder of the suite.")
TASKS = flags.DEFINE_list("tasks", list(NAMES), "Which to build.")
ITEMS = flags.DEFINE_integer("items", 200, "Items of every level of every task, at most.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of everything that is drawn.", lower_bound=0)
PACKAGES = flags.DEFINE_string("packages", "stores/corpus/packages", "Folder of packages; what it lacks is fetched into it.")
HELDOUT = flags.DEFINE_list(
    "heldout", [f"{name}=stores/quickstart/{name}/heldout" for name in QUICKSTART], "NAME=STORE of held-out text, for next_passage."
)
AGAINST = flags.DEFINE_list(
    "against", [f"stores/quickstart/{name}/train" for name in QUICKSTART], "Stores of training text; what they quote is left out."
)


def main(argv: list[str]) -> None:
    del argv
    from kaiyuan_jax.data.store import open_store
    from kaiyuan_jax.evaluation.tasks.build import suite

    if unknown := [name for name in TASKS.value if name not in NAMES]:
        raise UserError(f"--tasks: found {unknown[0]!r}, must be of {', '.join(NAMES)}")
    heldout = {}
    for entry in HELDOUT.value if "next_passage" in TASKS.value else ():
        name, equals, folder = entry.partition("=")
        if not equals or not name.isidentifier() or name in heldout:
            raise UserError(f"--heldout: found {entry!r}, must be NAME=STORE with a name of letters, digits and _, each once")
        heldout[name] = open_store(folder)
    if "next_passage" in TASKS.value and not heldout:
        raise UserError("--heldout: missing; next_passage needs a held-out store, or leave it out of --tasks")
    against = {folder: open_store(folder) for folder in AGAINST.value}
    found = suite.build(
        OUTPUT.value, TASKS.value, pathlib.Path(PACKAGES.value), heldout=heldout, against=against, count=ITEMS.value, seed=SEED.value
    )
    print(f"{'task':<24}{'items by level':<24}{'chance':>8}{'quoted':>8}")
    for name, task in found.tasks.items():
        levels = "  ".join(f"{level}: {count}" for level, count in task.facts["items_by_level"].items())
        chance = "-" if task.facts["chance"] is None else f"{task.facts['chance']:.2f}"
        print(f"{name:<24}{levels:<24}{chance:>8}{task.facts['quoted']:>8}")
    print(f"written: {OUTPUT.value}/suite.json")


if __name__ == "__main__":
    run(main)
