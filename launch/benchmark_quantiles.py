"""What is text of each quality worth? Small models, each trained on one window of one source, compared on the same tasks.

    python launch/benchmark_quantiles.py --stores=stores/quickstart/prose,stores/quickstart/code --quantiles=0,.15,.3,.45,.6,.75 \\
        --window=.02 --config=configs/proxies/cpu.py

Quantiles count from the top: 0 is the best text of a store, and a window holds --window of its tokens from there on. A store is named by
its folder, or by the one that holds its train and heldout folders. --config gives model, batch, length, rates and, where --tokens does not,
the budget of a cell; its own data is not read. Tasks are all held-out stores and, with --tasks, a suite (launch/build_tasks.py).

What it costs is said first. The same command goes on after a kill, and with more stores, quantiles, seeds or tasks does what is new.
Written to --output: cells/, populations/, results.json, report.html, quantiles.md, figures, and recipe.json, a proposal of what to keep and
how often to read it in every phase: python launch/plan.py --config=configs/saved.py:<output>/recipe.json
"""

from pathlib import Path

from absl import flags as absl_flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()
STORES = absl_flags.DEFINE_list("stores", [], "Folders of quality-sorted stores; their last name is the name of the source.")
QUANTILES = absl_flags.DEFINE_list("quantiles", ["0", ".15", ".3", ".45", ".6", ".75"], "Where windows begin, from the top.")
WINDOW = absl_flags.DEFINE_float("window", 0.02, "Width of a window, as a share of a store's tokens.")
DOMAINS = absl_flags.DEFINE_list("domains", [], "A word for each store: those of one domain compete in the recipe. Empty: each its own.")
HELDOUT = absl_flags.DEFINE_list("heldout", [], "Further folders of held-out stores; those beside the stores are found.")
TASKS = absl_flags.DEFINE_string("tasks", "", "Folder of a suite of tasks; empty: held-out text alone.")
ITEMS = absl_flags.DEFINE_integer("items", 0, "Of every level of every task only so many items; 0: all.", lower_bound=0)
TOKENS = absl_flags.DEFINE_integer("tokens", 0, "Budget of a cell; 0: what the phases of --config add up to.", lower_bound=0)
SEEDS = absl_flags.DEFINE_integer("seeds", 3, "Seeds of every window: initial weights, and the order of the text.", lower_bound=2)
SLICES = absl_flags.DEFINE_integer(
    "slices", 0, "Parts of a window, one for each seed in turn, so that the choice of documents counts as noise; 1: all read the whole "
    "window, as published; 0: as many as seeds.", lower_bound=0
)  # fmt: skip
MEMBERS = absl_flags.DEFINE_integer("members", 16, "Cells trained at a time, in one program.", lower_bound=1)
OUTPUT = absl_flags.DEFINE_string("output", "runs/quantiles", "Folder for everything that is written.")
DRY_RUN = absl_flags.DEFINE_bool("dry_run", False, "Say what it costs, and stop.")
TARGETS = absl_flags.DEFINE_list("targets", [], "Tasks that the recipe is made for, such as heldout_prose; empty: all.")
PHASES = absl_flags.DEFINE_integer("phases", 4, "Phases of the recipe.", lower_bound=1)
LIMIT = absl_flags.DEFINE_float("limit", 4.0, "Passes of the best text in the recipe, all phases together.", lower_bound=1.0)
RECIPE_TOKENS = absl_flags.DEFINE_integer("recipe_tokens", 0, "Tokens of the recipe; 0: as many as were measured.", lower_bound=0)


def main(argv):
    from kaiyuan_jax.experiments.quantiles import cells, cost, results, work

    study, measured, folder = described()
    found = cells.cells(study)
    wish = results.Wish(tuple(TARGETS.value), RECIPE_TOKENS.value, PHASES.value, LIMIT.value)
    results.check(wish, measured, study)
    if waiting := work.groups(found, measured, folder, MEMBERS.value):
        said = f"{len(found)} cells: {len(study.texts)} sources, {len(study.quantiles)} windows, {study.seeds} seeds"
        print(f"{said}; {study.steps} steps of {study.row:,} tokens each")
        print("".join(f"{line}\n" for line in cells.repetition(study, found)), end="")
        print(cost.predict(found, measured, folder, MEMBERS.value, timed_steps=3))
        print(f"{len(waiting)} populations of at most {MEMBERS.value} cells are left to train or measure", flush=True)
    if DRY_RUN.value:
        return
    work.run(found, measured, folder, MEMBERS.value)
    results.collect(study, found, measured, folder, wish)

    from kaiyuan_jax.report import quantiles

    print(quantiles.build(folder))
    print(f"written: {folder / 'report.html'} and {folder / 'recipe.json'}, which launch/plan.py --config=configs/saved.py:<file> explains")


def described():
    """(study, tasks, output folder) of the flags. Raises UserError, StoreError, ConfigError before any work."""
    from kaiyuan_jax import storage
    from kaiyuan_jax.data.store import open_store
    from kaiyuan_jax.evaluation import tasks
    from kaiyuan_jax.experiments.quantiles import cells, measured

    base = checked(CONFIG)
    if storage.is_remote(OUTPUT.value):
        raise UserError(f"--output={OUTPUT.value}: must be a local folder")
    if not STORES.value:
        raise UserError("--stores: missing; name folders of stores, such as --stores=stores/quickstart/prose,stores/quickstart/code")
    if DOMAINS.value and len(DOMAINS.value) != len(STORES.value):
        raise UserError(f"--domains: found {len(DOMAINS.value)}, must be one word for each of the {len(STORES.value)} stores, or none")
    try:
        quantiles = tuple(map(float, QUANTILES.value))
    except ValueError:
        raise UserError(f"--quantiles: found {','.join(QUANTILES.value)!r}, must be numbers, such as 0,.15,.3") from None
    texts, heldout, fingerprint = [], {}, None
    for name, domain in zip(STORES.value, DOMAINS.value or [""] * len(STORES.value), strict=True):
        folder = place(name)
        store = open_store(folder, vocabulary=base.model.vocabulary, fingerprint=fingerprint)
        fingerprint = store.fingerprint
        source = title(folder)
        texts.append(cells.Text(source, str(folder), store.tokens, store.scored, domain or source, store.manifest.tokens_sha256))
        if (folder.parent / "heldout" / "manifest.json").is_file() and folder.name == "train":
            heldout[f"heldout_{source}"] = folder.parent / "heldout"
    for further in map(Path, HELDOUT.value):
        before = heldout.setdefault(f"heldout_{title(further)}", further)
        if before != further:
            raise UserError(f"--heldout: {further} and {before} would both be heldout_{title(further)}; rename a folder")
    opened = {name: open_store(folder, vocabulary=base.model.vocabulary, fingerprint=fingerprint) for name, folder in heldout.items()}
    for name, store in opened.items():
        if not store.sequences(base.data.sequence_length):
            raise UserError(f"--heldout: {store.folder} ({name}) is shorter than one sequence of {base.data.sequence_length} tokens")
    suite = tasks.open_suite("--tasks", TASKS.value, items=ITEMS.value).tasks if TASKS.value else {}
    if not opened and not suite:
        raise UserError("--heldout: none of the stores has held-out text beside it; name a held-out store, or a suite with --tasks")
    budget = TOKENS.value or cells.budget(base)
    if not budget:
        raise UserError("--tokens: missing, and not every phase of --config has a budget; say how many tokens a cell is trained on")
    study = cells.Study(base, tuple(texts), quantiles, WINDOW.value, budget, SEEDS.value, SLICES.value or SEEDS.value)
    if found := cells.problems(study):
        raise UserError("\n".join(found))
    return study, measured.Tasks(opened, suite, base.evaluation.rows), Path(OUTPUT.value)


def place(name: str) -> Path:
    """The folder of a store, which may be named by the one that holds its parts."""
    folder = Path(name)
    return folder / "train" if not (folder / "manifest.json").is_file() and (folder / "train").is_dir() else folder


def title(folder: Path) -> str:
    return folder.absolute().parent.name if folder.name in ("train", "heldout") else folder.name


if __name__ == "__main__":
    run(main)
