"""Evaluates models: python launch/evaluate.py --model=runs/x[,runs/x/checkpoints/1200,runs/x/averages/sma_last6]

A run stands for its newest checkpoint; runs/x/checkpoints/1200/average is the running average inside one, where the run keeps it.
Held-out loss, bits per byte, next-passage choice and samples go to runs/x/evaluation/<model>.json. Models of one shape share their
compiled programs, so several are best evaluated in one call.

With --tasks=... they answer tasks instead, and may also be Hugging Face folders. A task is the name of one of lm-evaluation-harness
(`pip install 'kaiyuan_jax[harness]'`), found among its own or in --include_path, a .yaml file or folder of such, or a suite folder that
launch/build_tasks.py made. Results go to runs/x/evaluation/tasks/<model>/, answers to its folder answers/, so that the same command goes on
after a kill. docs/evaluation.md says more.
"""

import dataclasses
import hashlib

from absl import flags

from kaiyuan_jax import config, storage
from kaiyuan_jax.flags import run

MODEL = flags.DEFINE_list("model", None, "Folders of runs, checkpoints or averages; with --tasks also Hugging Face folders.", required=True)
TASKS = flags.DEFINE_list("tasks", [], "Tasks of lm-evaluation-harness by name, .yaml file or folder, and suite folders.")
INCLUDE_PATH = flags.DEFINE_list("include_path", [], "Folders with more tasks to be named in --tasks.")
FEWSHOT = flags.DEFINE_integer("fewshot", None, "Solved examples before each question; left out: as each task says.", lower_bound=0)
LIMIT = flags.DEFINE_integer("limit", None, "Documents of each task, the first ones (in a suite: of each level).", lower_bound=1)
GEN_KWARGS = flags.DEFINE_string("gen_kwargs", "", "What tasks say of generated text, changed: max_gen_toks=64,temperature=0.8")
SEED = flags.DEFINE_integer("seed", 1234, "Of the choice of solved examples.", lower_bound=0)
BATCH_TOKENS = flags.DEFINE_integer("batch_tokens", 16384, "Tokens computed at a time, on all devices together.", lower_bound=1)
COMPUTE = flags.DEFINE_enum("compute", "", ["", "float32", "bfloat16", "float16"], "Dtype of products; empty: as trained, or float32.")
OUTPUT = flags.DEFINE_string("output", "", "Folder of the results of --tasks; empty: evaluation/tasks/<model> beside the model.")
CACHE = flags.DEFINE_string("cache", "", "Local folder of the answers of --tasks; empty: answers/ in the folder of the results.")


OF_TASKS = (INCLUDE_PATH, FEWSHOT, LIMIT, GEN_KWARGS, SEED, BATCH_TOKENS, COMPUTE, OUTPUT, CACHE)


def main(argv):
    if TASKS.value:
        answer_tasks()
        return
    if given := [flag.name for flag in OF_TASKS if flag.present]:
        raise config.UserError(f"--{given[0]}: changes nothing without --tasks; name some, or leave it out")
    evaluate_heldout()


def evaluate_heldout():
    from kaiyuan_jax.data.store import fingerprint
    from kaiyuan_jax.evaluation import heldout, suite
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import checkpoint, trained

    models = [trained.find("--model", path) for path in MODEL.value]
    for folder, path in models:
        experiment = config.read(folder / "config.json")
        trained_with = fingerprint((folder / "tokenizer.json").read_text(encoding="utf-8"))
        stores = heldout.open_stores(experiment, trained_with)
        graphdef, abstract = decoder.abstract(experiment.model, experiment.precision)
        params = trained.weights(path, abstract)
        evaluation = suite.evaluate(
            graphdef, params, experiment, name=name_of(path), step=checkpoint.progress(trained.place(path)[0])["step"], stores=stores
        )
        written = suite.write(folder / "evaluation", evaluation)
        print(describe(evaluation.result))
        print(f"written: {written}\n", flush=True)


def answer_tasks():
    folders = [output_of(item) for item in MODEL.value]  # and errors of --model, before the tasks are read
    suites = {name: open_suite(name) for name in TASKS.value if (storage.path(name) / "suite.json").is_file()}
    names = [name for name in TASKS.value if name not in suites]
    for flag, places in (("--model", folders), ("--tasks", [label([storage.path(name).name]) for name in suites])):
        if twice := [place for number, place in enumerate(places) if place in places[:number]]:
            raise config.UserError(f"{flag}: the results of two of them would both be {twice[0]}; give them in two calls, to two --output")
    asked = harness_tasks(names) if names else None
    for item, folder in zip(MODEL.value, folders, strict=True):
        found = None  # one model in memory at a time
        found = load(item)
        print(f"{item} ({found['facts']['parameters']:,} parameters)")
        for name, suite in suites.items():
            answer_suite(found, suite, folder / f"{label([storage.path(name).name])}.json")
        if asked:
            answer_harness(found, *asked, folder, label([storage.path(name).name.removesuffix(".yaml") for name in names]))


def output_of(item: str):
    """The folder of one model's results. Raises UserError for a model that is none."""
    from kaiyuan_jax.models.hf import read
    from kaiyuan_jax.training import trained

    path = storage.path(item)
    if read.is_checkpoint(path):
        read.open_folder(path)
        folder, name = path, "hugging_face"
    else:
        folder, found = trained.find("--model", path)
        name = name_of(found)
    return storage.path(OUTPUT.value) / f"{folder.name}_{name}" if OUTPUT.value else folder / "evaluation" / "tasks" / name


def load(item: str) -> dict:
    """A model on all devices, its rows cut over them, with what identifies it."""
    import jax

    from kaiyuan_jax.evaluation.harness import answers
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.models.hf import read, tokenizer_files
    from kaiyuan_jax.sharding import mesh, rules
    from kaiyuan_jax.training import trained

    found = trained.load("--model", item)
    if COMPUTE.value:
        found.precision.compute = COMPUTE.value
    begin = tokenizer_files.beginning(storage.path(item)) if read.is_checkpoint(item) else ""
    prefix = found.tokenizer.token_to_id(begin) if begin else None
    prefix = found.eod if prefix is None else prefix
    facts = {"length": found.length, "end_of_document": found.eod, "prefix": prefix}
    fingerprint = answers.fingerprint(found.params, found.model, found.precision, found.tokenizer, facts)
    count = sum(leaf.size for leaf in jax.tree.leaves(found.params))
    devices = mesh.make_mesh(config.Mesh())
    params = decoder.ready(found.params, found.precision)
    params = jax.device_put(params, rules.shardings(params, devices))
    graphdef, _ = decoder.abstract(found.model, found.precision)
    known = {"model_path": item, "parameters": count, "fingerprint": fingerprint, "precision": dataclasses.asdict(found.precision)} | facts
    return {"trained": found, "graphdef": graphdef, "params": params, "place": rules.placement(devices), "facts": known}


def open_suite(name: str):
    from kaiyuan_jax.evaluation import tasks

    for flag, value in (("fewshot", FEWSHOT.value), ("gen_kwargs", GEN_KWARGS.value)):
        if value:
            raise config.UserError(f"--{flag}={value}: a suite ({name}) has no such setting; it is for tasks of lm-evaluation-harness")
    return tasks.open_suite("--tasks", name, items=LIMIT.value or 0)


def answer_suite(found: dict, suite, target) -> None:
    from kaiyuan_jax.evaluation import heldout, suite_file, tasks
    from kaiyuan_jax.evaluation.byte_lengths import byte_lengths

    model = found["trained"]
    bytes_V = byte_lengths(model.tokenizer, model.model.vocabulary)
    compute = heldout.token_losses(found["graphdef"], found["place"])
    rows = max(1, BATCH_TOKENS.value // model.length)

    def score(task):
        return tasks.score(compute, found["params"], model.tokenizer, bytes_V, task, batch_size=rows, length=model.length, eod=model.eod)

    storage.make_folder(target.parent)
    result = suite_file.evaluate(target, suite, found["facts"]["fingerprint"], score)
    print(f"{suite_file.table(result)}\nwritten: {target}\n", flush=True)


def harness_tasks(names: list[str]):
    try:
        from kaiyuan_jax.evaluation.harness import results
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        raise config.UserError(
            f"--tasks={names[0]}: needs lm-evaluation-harness, which is not installed; pip install 'kaiyuan_jax[harness]' "
            "(from a checkout: pip install -e '.[harness]')"
        ) from None
    return results.load("--tasks", names, INCLUDE_PATH.value)


def answer_harness(found: dict, manager, asked: list, folder, name: str) -> None:
    from kaiyuan_jax.evaluation.harness import adapter, answers, results

    model, facts = found["trained"], found["facts"]
    cache = CACHE.value or str(folder / "answers")
    if storage.is_remote(cache):
        raise config.UserError(f"--cache={cache}: answers are kept on a local disk; name a folder there")
    kept = answers.Answers("--cache", cache, facts["fingerprint"])
    asks = adapter.Adapter(
        found["graphdef"],
        found["params"],
        model.tokenizer,
        kept,
        length=model.length,
        eod=model.eod,
        prefix=facts["prefix"],
        batch_tokens=BATCH_TOKENS.value,
        place=found["place"],
    )
    options = dict(fewshot=FEWSHOT.value, limit=LIMIT.value, seed=SEED.value, gen_kwargs=GEN_KWARGS.value)
    result = results.evaluate(asks, manager, asked, **options)
    kept.close()
    counts = {"questions": asks.asked, "answered_before": asks.found, "shortened": asks.cut}
    result["config"] |= {"model": "kaiyuan_jax"} | facts | counts
    written = results.write(folder, name, result)
    print(results.table(result))
    shortened = f", {asks.cut:,} with the beginning of their context left out" if asks.cut else ""
    print(f"{asks.asked:,} questions, {asks.found:,} of them answered before{shortened}\nwritten: {written}\n", flush=True)


def label(names: list[str]) -> str:
    """The name of a result: of its tasks, and of what was changed about them."""
    changed = {"shots": FEWSHOT.value, "limit": LIMIT.value, "seed": SEED.value if SEED.value != SEED.default else None}
    parts = ["+".join(names), *(f"{key}{value}" for key, value in changed.items() if value is not None)]
    parts += [GEN_KWARGS.value.replace("/", "")] if GEN_KWARGS.value else []
    whole = "_".join(parts)
    return whole if len(whole) <= 100 else f"{whole[:80]}_{hashlib.blake2b(whole.encode(), digest_size=6).hexdigest()}"


def name_of(path) -> str:
    """How results call the second of what `trained.find` gives."""
    from kaiyuan_jax.training import trained

    holder, item = trained.place(path)
    return path.name if path.parent.name == "averages" else f"checkpoint_{holder.name}" + f"_{item}" * (item == trained.AVERAGE)


def describe(result: dict) -> str:
    """A table of the result for the terminal."""
    lines = [f"{result['experiment']} {result['model']} (step {result['step']})"]
    lines.append(f"{'source':<16}{'nats/token':>11}{'bits/byte':>11}{'95% interval':>18}{'choice':>9}{'95% interval':>16}")
    for source, entry in (result["heldout"] | {"mean": result["mean"]}).items():
        low, high = entry["bits_per_byte_interval"] or (float("nan"),) * 2
        line = f"{source:<16}{entry['loss']:>11.4f}{entry['bits_per_byte']:>11.4f}{f'{low:.4f} {high:.4f}':>18}"
        asked = result["choice"].get(source)
        if asked and asked["accuracy"] is not None:
            low, high = asked["interval"] or (float("nan"),) * 2
            line += f"{asked['accuracy']:>9.3f}{f'{low:.3f} {high:.3f}':>16}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
