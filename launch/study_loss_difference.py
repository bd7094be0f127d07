"""Selects text by the losses of two small models: python launch/study_loss_difference.py --config=configs/proxies/cpu.py --target=math

Divides the texts of the config's sources (--texts/SOURCE.parquet) into a pool of all of them and a sample of the target's; trains a prior
on the pool and, from it, a conditional model on the sample; scores the pool by conditional loss reduction and by difference sampling with
launch/score_documents.py; sorts it by each with launch/prepare_data.py; and trains models on the best of each, on a sample of it, and on
the pool at random. Every command is printed as a user would type it; what is finished is not done again.
"""

import json
import pathlib
import shlex
import subprocess
import sys

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()
TEXTS = flags.DEFINE_string("texts", "stores/quickstart/text", "Folder with SOURCE.parquet of every source of the config, column text.")
TARGET = flags.DEFINE_string("target", "math", "The source whose text is wanted.")
HELDOUT = flags.DEFINE_float("heldout", 0.08, "Share of documents that the held-out stores took (prepare_data.py --heldout).")
POOL = flags.DEFINE_integer("pool", 8000, "Documents in the pool.", lower_bound=100)
MOST_TOKENS = flags.DEFINE_integer("most_tokens", 128, "Tokens of a document that are scored.", lower_bound=8)
TEMPERATURE = flags.DEFINE_float("temperature", 0.5, "Of the sampled setting.", lower_bound=1e-3)
SEEDS = flags.DEFINE_integer("seeds", 3, "Models of each setting.", lower_bound=2)
ROWS = flags.DEFINE_integer("rows", 256, "Held-out sequences of each source.", lower_bound=8)
OUTPUT = flags.DEFINE_string("output", "runs/loss_difference", "Folder of everything.")


def main(argv):
    base, folder = checked(CONFIG), pathlib.Path(OUTPUT.value)
    texts = {source.name: f"{TEXTS.value}/{source.name}.parquet" for source in base.data.sources}
    for path in texts.values():
        if not pathlib.Path(path).is_file():
            raise config.UserError(f"--texts={TEXTS.value}: {path} is not there; launch/prepare_quickstart.py leaves such files")
    if TARGET.value not in texts:
        raise config.UserError(f"--target={TARGET.value}: must be a source of the config, one of {', '.join(texts)}")
    heldout = {source.name: source.heldout for source in base.data.sources}
    if missing := [name for name, place in heldout.items() if not place]:
        raise config.ConfigError(f"config.data.sources {missing[0]!r}.heldout: empty; every source needs a held-out store")
    import pyarrow.parquet as pq

    from kaiyuan_jax.experiments import loss_difference, population, proxies
    from kaiyuan_jax.report import selection

    loss_difference.check(base)
    folder.mkdir(parents=True, exist_ok=True)
    pool, sample = loss_difference.divide(texts, TARGET.value, HELDOUT.value, POOL.value)
    for name, table in (("pool", pool), ("sample", sample)):
        path = folder / f"{name}.parquet"
        if not path.exists():  # left as it is, so that what was made of it stays up to date
            pq.write_table(table, folder / f"{name}.partial")
            (folder / f"{name}.partial").replace(path)
        elif not pq.read_table(path).equals(table):
            raise config.UserError(
                f"--output={folder}: {path.name} was made with another --target, --pool, --heldout or --texts; give those of before, or "
                "another folder"
            )
    tokenizer = pathlib.Path(base.data.sources[0].path, "tokenizer.json")
    prepare(folder, "pool", tokenizer, "plain", "--unscored")
    prepare(folder, "sample", tokenizer, "sample", "--unscored")
    before = loss_difference.prior(base, f"{folder}/stores/plain/train", folder / "prior")
    train(before)
    train(loss_difference.conditional(base, before, f"{folder}/stores/sample/train", folder / "conditional"))
    early = pathlib.Path(before.folder, "checkpoints", str(before.checkpoint.every))
    pairs = {
        "loss reduction": (before.folder, f"{folder}/conditional"),
        "difference sampling": (early, before.folder),
    }
    scores, stores = {}, {}
    for name, (model, minus) in pairs.items():
        path = folder / f"{name.replace(' ', '_')}.parquet"
        if not path.exists():
            words = [f"--input={folder}/pool.parquet", "--id_field=id", f"--model={model}", f"--minus={minus}", f"--output={path}"]
            command("launch/score_documents.py", *words, f"--most_tokens={MOST_TOKENS.value}")
        scores[name] = loss_difference.judged(pq.read_table(path), TARGET.value)
        prepare(folder, "pool", tokenizer, path.stem, f"--scores=file:{path}:difference", "--missing_quality=drop")
        stores[name] = f"{folder}/stores/{path.stem}/train"
    made = loss_difference.members(base, f"{folder}/stores/plain/train", stores, TEMPERATURE.value, SEEDS.value)
    members = [one for own in made.values() for one in own]
    print(population.predict_cost(members), flush=True)
    found = proxies.losses(members, folder / "population", rows=ROWS.value, stores=heldout)
    names = pool["id"].to_pylist()
    counts = {"documents": len(names), "target_documents": sum(name.startswith(f"{TARGET.value}:") for name in names)}
    results = {"target": TARGET.value, "pool": counts | {"target_sample": len(sample)}, "scores": scores, "seeds": SEEDS.value}
    results |= {"settings": loss_difference.collect(found, made, TARGET.value), "tokens": base.data.phases[0].tokens}
    files.replace(folder / "results.json", json.dumps(results, indent=1) + "\n")
    print(selection.loss_difference(folder))


def prepare(folder: pathlib.Path, texts: str, tokenizer: pathlib.Path, name: str, *words: str) -> None:
    """A store of all the documents in a file; says "up to date" where it is there."""
    own = [f"--input={folder}/{texts}.parquet", "--id_field=id", f"--tokenizer={tokenizer}", "--heldout=0", "--nonear_duplicates"]
    command("launch/prepare_data.py", *own, *words, f"--output={folder}/stores/{name}")


def train(experiment: config.Experiment) -> None:
    """Trains in this process, as launch/train.py would."""
    from kaiyuan_jax.training import loop

    if not loop.train(experiment).finished:
        raise config.UserError(f"{experiment.folder}: stopped; the same command goes on")


def command(script: str, *words: str) -> None:
    """Runs one of our scripts as a user would. Raises UserError where it fails."""
    print(f"$ python {script} {shlex.join(words)}", flush=True)
    if subprocess.run([sys.executable, script, *words], check=False).returncode:
        raise config.UserError("study_loss_difference: stopped, the command above failed")


if __name__ == "__main__":
    run(main)
