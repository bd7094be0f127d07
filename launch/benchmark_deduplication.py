"""Near-duplicates of the same documents, on one core each, by this package, by datatrove and by PySpark: speed, recall, precision.

`python launch/benchmark_deduplication.py --input='texts/*.parquet' --datatrove_python=... --spark_python=...`

Every side reads Parquet, normalises, hashes, finds clusters and writes what is left. This package runs over all of the input, and over a
random part of it like each of the other two, which run in Python environments of their own (`pip install datatrove spacy 'xxhash<4'`;
`pip install pyspark`, with Java) and are left out without them. datatrove runs with its own English word tokenizer and once more with a
plain split at blanks, the fastest tokenizer one can give it. Their time counts from after their imports and the start of the JVM. Speed
is in CPU time, which neighbours on the machine disturb least.

Recall is measured on pairs planted among the documents: two texts of 124 random words that differ in so many words that exactly m of each
one's 120 n-grams are its own, J = (120 - m) / (120 + m). A pair is found if one of the two is removed. Precision: among the planted texts
that have no partner none may be removed; of pairs of real documents that share a band, the true J is computed for a sample.
"""

import collections
import json
import os
import pathlib
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata

import daft
import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import flags as absl_flags

from kaiyuan_jax import flags
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import minhash
from kaiyuan_jax.data.prepare.deduplicate import clusters
from kaiyuan_jax.data.prepare.documents import hashes
from kaiyuan_jax.data.prepare.tally import Tally

INPUT = absl_flags.DEFINE_string("input", "stores/quickstart/text/*.parquet", "Parquet files with a column `text`; a pattern.")
DATATROVE_BYTES = absl_flags.DEFINE_integer("datatrove_bytes", 3_000_000, "Bytes of text that datatrove sees.", lower_bound=1)
SPARK_BYTES = absl_flags.DEFINE_integer("spark_bytes", 10_000_000, "Bytes of text that PySpark sees.", lower_bound=1)
DATATROVE = absl_flags.DEFINE_string("datatrove_python", "", "Python with datatrove; empty: left out.")
SPARK = absl_flags.DEFINE_string("spark_python", "", "Python with pyspark; empty: left out.")
PAIRS = absl_flags.DEFINE_integer("pairs", 100, "Planted pairs of each similarity.", lower_bound=1)
TABLES = absl_flags.DEFINE_integer("spark_tables", 5, "Hash tables of PySpark's MinHashLSH.", lower_bound=1)
OUTPUT = absl_flags.DEFINE_string("output", "docs/results/deduplication.md", "File for the results; empty: only printed.")

PICTURE = "docs/images/deduplication.png"
GRAMS = 120
DIFFERENT = (40, 35, 30, 25, 21, 17, 13, 10, 6, 3)  # n-grams of each text that the other lacks
ALONE = 500
COLOURS = {"this package": "tab:blue", "datatrove": "tab:orange", "datatrove, split at blanks": "tab:red", "PySpark": "tab:green"}

DATATROVE_SCRIPT = """
import json, logging, sys, time
from loguru import logger
logger.remove()
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.word_tokenizers import WordTokenizer
class Blanks(WordTokenizer):
    def word_tokenize(self, text):
        return text.split()
    def sent_tokenize(self, text):
        return [text]
    def span_tokenize(self, text):
        return [(0, len(text))]
path, folder, language = sys.argv[1:]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=9)
begun, cpu = time.perf_counter(), time.process_time()
seconds = {}
def run(name, tasks, *steps):
    start = time.process_time()
    LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=f"{folder}/log_{name}").run()
    seconds[name] = time.process_time() - start
reader = lambda: ParquetReader(path, glob_pattern="*.parquet", text_key="text", id_key="id")
run("signatures", 1, reader(), MinhashDedupSignature(f"{folder}/signatures", config, Blanks() if language == "blanks" else language))
run("buckets", 14, MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config))
run("clusters", 1, MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config))
run("filter", 1, reader(), MinhashDedupFilter(f"{folder}/removed"), ParquetWriter(f"{folder}/kept"))
print(json.dumps({"wall": time.perf_counter() - begun, "seconds": time.process_time() - cpu, "stages": seconds}))
"""

SPARK_SCRIPT = r"""
import glob, json, os, sys, time
from pyspark.ml.feature import HashingTF, MinHashLSH, NGram
from pyspark.sql import SparkSession, functions as F
path, folder, tables = sys.argv[1:]
settings = {"spark.driver.memory": "6g", "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "4", "spark.log.level": "ERROR"}
spark = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
def cpu():
    total = 0
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            pid, rest = open(path).read().split(" (", 1)
        except OSError:
            continue
        fields = rest.rsplit(")", 1)[1].split()
        if os.getpid() in (int(pid), int(fields[1])):  # this process and the JVM that it started
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
begun, used = time.perf_counter(), cpu()
documents = spark.read.parquet(path)
text = F.lower("text")
for pattern, replacement in ((r"\p{M}", ""), (r"\p{N}", "0"), (r"([\p{IsHan}])", " $1 "), (r"[^\p{L}\p{N}]+", " ")):
    text = F.regexp_replace(text, pattern, replacement)
words = documents.select("id", F.split(F.trim(text), " ").alias("words"))
grams = NGram(n=5, inputCol="words", outputCol="grams").transform(words).where(F.size("grams") > 0)
sets = HashingTF(inputCol="grams", outputCol="set", numFeatures=1 << 20, binary=True).transform(grams).select("id", "set").cache()
model = MinHashLSH(inputCol="set", outputCol="hashes", numHashTables=int(tables), seed=1).fit(sets)
pairs = model.approxSimilarityJoin(sets, sets, 0.3).where("datasetA.id < datasetB.id").select("datasetA.id", "datasetB.id").collect()
parents = {}
def root(node):
    while node in parents:
        node = parents[node]
    return node
for pair in pairs:
    one, other = sorted(map(root, pair))
    if one != other:
        parents[other] = one
removed = spark.createDataFrame([(name,) for name in parents] or [("",)], "id string")
documents.join(removed, "id", "left_anti").write.parquet(f"{folder}/kept")
print(json.dumps({"wall": time.perf_counter() - begun, "seconds": cpu() - used}))
"""


def main(_):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    column = daft.read_parquet(INPUT.value).select("text").to_arrow().column("text")
    real = pa.array([text for text in column.to_pylist() if text], pa.large_string())
    planted = plant(random.Random(0), vocabulary(real))
    spread = real.take(np.random.default_rng(0).permutation(len(real)))
    ends = np.cumsum(pc.binary_length(spread).to_numpy()) + size(planted)
    limits = {"datatrove": DATATROVE_BYTES.value, "PySpark": SPARK_BYTES.value}
    some = {name: spread.slice(0, int(np.searchsorted(ends, limit, "right"))) for name, limit in limits.items()}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        inputs = {name: write(folder / name, pa.concat_arrays([planted, texts])) for name, texts in ({"all": real} | some).items()}
        runs = {"this package": ours(folder / "all", folder / "ours_all")}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        for name, python in (("datatrove", DATATROVE.value), ("PySpark", SPARK.value)):
            if python:
                runs[f"this package, documents of {name}"] = ours(folder / name, folder / f"ours_{name}")
                if name == "PySpark":
                    runs[WIDER] = ours(folder / name, folder / "ours_wider", minhash.Options(threshold=0.5))
        for name, python, script, arguments in (
            ("datatrove", DATATROVE.value, DATATROVE_SCRIPT, ["en"]),
            ("datatrove, split at blanks", DATATROVE.value, DATATROVE_SCRIPT, ["blanks"]),
            ("PySpark", SPARK.value, SPARK_SCRIPT, [str(TABLES.value)]),
        ):
            if python:
                runs[name] = other(name, python, script, folder / given(name), folder / f"run_{name}", arguments)
            else:
                flag = "spark_python" if name == "PySpark" else "datatrove_python"
                print(f"{name}: left out; name a Python that has it by --{flag}")
        similar = similarities(folder / "ours_all" / "keys.parquet", pa.concat_arrays([planted, real]))
    page = report(runs, inputs, memory, similar)
    print(page)
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(OUTPUT.value).write_text(page)
        draw(runs)


def given(name: str) -> str:
    """Which of the inputs a run saw."""
    return next((key for key in ("datatrove", "PySpark") if key in name), "all")


def size(texts: pa.LargeStringArray) -> int:
    return pc.sum(pc.binary_length(texts)).as_py() or 0


def vocabulary(texts: pa.LargeStringArray) -> list[str]:
    """The most frequent words of letters, so that a tokenizer meets nothing unusual in random texts."""
    counts = collections.Counter(
        word for text in texts[:20_000].to_pylist() for word in text.lower().split() if word.isascii() and word.isalpha()
    )
    return [word for word, _ in counts.most_common(20_000)]


def plant(rng: random.Random, words_known: list[str]) -> pa.LargeStringArray:
    """`PAIRS` pairs for each of `DIFFERENT`, then `ALONE` texts without a partner."""

    def word():
        return rng.choice(words_known)

    texts = []
    for different in DIFFERENT:
        for _ in range(PAIRS.value):
            words = [word() for _ in range(GRAMS + 4)]
            changed = words[:]
            # A word inside stands in five n-grams, word i of the first four in i + 1.
            for place in rng.sample(range(10, GRAMS - 5, 5), different // 5) + ([different % 5 - 1] if different % 5 else []):
                changed[place] = word()
            texts += [" ".join(words), " ".join(changed)]
    return pa.array(texts + [" ".join(word() for _ in range(GRAMS + 4)) for _ in range(ALONE)], pa.large_string())


WIDER = "this package, documents of PySpark, --near_threshold=0.5"


def write(folder: pathlib.Path, texts: pa.LargeStringArray) -> tuple[int, int]:
    """(documents, bytes of text) written."""
    folder.mkdir()
    table = pa.table({"id": pa.array([f"{i:08}" for i in range(len(texts))]), "text": texts})
    pq.write_table(table, folder / "part.parquet", row_group_size=2000)
    return len(texts), size(texts)


def ours(path: pathlib.Path, folder: pathlib.Path, options: minhash.Options = minhash.Options()) -> dict:  # noqa: B008 (frozen)
    folder.mkdir()
    wall, begun = time.perf_counter(), time.process_time()
    uid, hashing, writer = 0, 0.0, None
    file = pq.ParquetFile(path / "part.parquet")
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        texts = table.column("text").cast(pa.large_string()).combine_chunks()
        start = time.process_time()
        bands = minhash.bands(texts, options)
        hashing += time.process_time() - start
        digests = hashes(texts)
        keys = {
            "uid": np.arange(uid, uid + len(texts)),
            "hash": digests,
            "quality": pa.nulls(len(texts), pa.float64()),
            "tie": pa.array([f"{i:08}".encode() for i in range(uid, uid + len(texts))], pa.binary(8)),
            "priority": np.zeros(len(texts), np.int32),
            "bands": bands,
        }
        uid += len(texts)
        keys = pa.table(keys)
        writer = writer or pq.ParquetWriter(folder / "keys.parquet", keys.schema, use_dictionary=False)
        writer.write_table(keys)
    writer.close()
    keyed = time.process_time()
    tally = Tally()
    kept = clusters(daft.read_parquet(str(folder / "keys.parquet")), True, 1 << 30, tally).column("uid").to_numpy()
    clustered = time.process_time()
    writer, first = None, 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        mine = kept[np.searchsorted(kept, first) : np.searchsorted(kept, first + table.num_rows)] - first
        first += table.num_rows
        table = table.take(mine)
        writer = writer or pq.ParquetWriter(folder / "kept.parquet", table.schema, use_dictionary=False)
        writer.write_table(table)
    writer.close()
    ended = time.process_time()
    stages = {
        "read, hash and write keys": keyed - begun,
        "of which bands": hashing,
        "clusters": clustered - keyed,
        "filter": ended - clustered,
    }
    return {
        "wall": time.perf_counter() - wall,
        "seconds": ended - begun,
        "kept": set(kept.tolist()),
        "stages": stages,
        "counts": tally.counts,
    }


def other(name: str, python: str, script: str, path: pathlib.Path, folder: pathlib.Path, arguments: list[str]) -> dict:
    folder.mkdir()
    done = subprocess.run([python, "-c", script, str(path), str(folder), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{name} failed under {python}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    ids = pq.read_table(folder / "kept", columns=["id"]).column("id").to_pylist()
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "kept": set(map(int, ids))}


def jaccard(different: int) -> float:
    return (GRAMS - different) / (GRAMS + different)


def recall(kept: set[int]) -> dict[float, float]:
    """Share of planted pairs found by their similarity."""
    found = {}
    for level, different in enumerate(DIFFERENT):
        first = range(2 * level * PAIRS.value, 2 * (level + 1) * PAIRS.value, 2)
        found[jaccard(different)] = sum(not {i, i + 1} <= kept for i in first) / PAIRS.value
    return found


def similarities(keys: pathlib.Path, texts: pa.LargeStringArray, sample: int = 2000) -> np.ndarray:
    """True Jaccard similarity of real, unequal documents that share a band: at most `sample` pairs, at random."""
    planted = 2 * len(DIFFERENT) * PAIRS.value + ALONE
    table = daft.read_parquet(str(keys)).select("uid", "hash", "bands").sort("uid").to_arrow().slice(planted)
    rows = np.flatnonzero(table.column("bands").is_valid().to_numpy())
    values = pc.list_flatten(table.column("bands")).to_numpy()
    rows = np.repeat(rows, len(values) // max(len(rows), 1))
    order = np.argsort(values)
    same = np.flatnonzero(np.diff(values[order]) == 0)
    pairs = np.unique(np.sort(np.stack([rows[order[same]], rows[order[same + 1]]], 1), axis=1), axis=0)
    hashes = np.array(table.column("hash").to_pylist(), dtype="S16")
    pairs = pairs[hashes[pairs[:, 0]] != hashes[pairs[:, 1]]]
    pairs = np.random.default_rng(0).permutation(pairs)[:sample]

    def grams(row):
        return set(minhash.ngrams(*minhash.words(texts.slice(planted + row, 1)), 5)[0].tolist())

    return np.array([len(one & two) / len(one | two) for one, two in (map(grams, pair) for pair in pairs.tolist())])


def report(runs: dict, inputs: dict, memory: float, similar: np.ndarray) -> str:
    shape = minhash.Options().shape
    rate = {name: inputs[given(name)][1] / run["seconds"] / 1e6 for name, run in runs.items()}
    lines = [
        "# Near-duplicates: speed, recall and precision",
        "",
        "One core each, the same documents: read Parquet, normalise, hash, find clusters, write what is left. MinHash of 5-grams of words "
        f"in {shape[0]} bands of {shape[1]} rows here and in datatrove; PySpark: MinHashLSH of {TABLES.value} hash tables, hits compared "
        "whole and joined at a similarity of 0.7. Goals: 50 times datatrove's bytes per second, 5 times PySpark's.",
        "",
        "| | documents | MB of text | CPU seconds (wall) | MB per CPU second | this package is faster | pairs found: J < 0.6 | 0.6-0.7 "
        f"| 0.7-0.8 | 0.8-0.9 | > 0.9 | removed of {ALONE} without partner |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    alone = range(2 * len(DIFFERENT) * PAIRS.value, 2 * len(DIFFERENT) * PAIRS.value + ALONE)
    for name, run in runs.items():
        documents, amount = inputs[given(name)]
        found = recall(run["kept"])
        ranges = ((0, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1))
        cells = [f"{np.mean([value for level, value in found.items() if low <= level < high]):.3f}" for low, high in ranges]
        factor = "" if "package" in name else f"{rate[f'this package, documents of {given(name)}'] / rate[name]:.0f}x"
        lines.append(
            f"| {name} | {documents:,} | {amount / 1e6:.1f} | {run['seconds']:.2f} ({run['wall']:.2f}) | {rate[name]:.2f} | {factor} | "
            f"{' | '.join(cells)} | {sum(i not in run['kept'] for i in alone)} |"
        )
    curve = [f"{minhash.probability(level, *shape):.3f}" for level in recall(set())]
    everything = runs["this package"]
    lines += [
        "",
        "| planted similarity | " + " | ".join(f"{jaccard(different):.3f}" for different in DIFFERENT) + " |",
        "|---" * (len(DIFFERENT) + 1) + "|",
        f"| S-curve of {shape[0]} x {shape[1]} | {' | '.join(curve)} |",
        *(f"| {name} | {' | '.join(f'{value:.3f}' for value in recall(run['kept']).values())} |" for name, run in runs.items()),
        "",
        f"![recall by similarity](../images/{pathlib.Path(PICTURE).name})",
        "",
        f"CPU seconds of this package over all documents: {stages(everything)}. Memory at the peak: {memory:.2f} GiB, the texts held "
        f"by the benchmark included. Found there: {', '.join(f'{count:,} {name}' for name, count in everything['counts'].items())}.",
        "",
    ]
    if "datatrove" in runs:
        lines += [
            f"CPU seconds of datatrove: {stages(runs['datatrove'])}; split at blanks: {stages(runs['datatrove, split at blanks'])}. "
            "Its pipeline as it comes has the English tokenizer of spaCy, which takes most of its time; the other row leaves only MinHash.",
            "",
        ]
    if len(similar):
        lines += [
            f"Of {len(similar):,} pairs of real, unequal documents that share a band, {(similar >= 0.7).mean():.1%} have a true similarity "
            f"of 0.7 or more, {(similar >= 0.5).mean():.1%} of 0.5 or more; median {np.median(similar):.2f}.",
            "",
        ]
    if "PySpark" in runs:
        lines += [
            "PySpark computes the exact similarity of all that share one of few single minima. So it finds nearly all pairs above 0.7 and "
            "hardly any below, where bands go by the S-curve, as in the published recipe, which loses some between 0.7 and 0.85. Who wants "
            "those takes `--near_threshold=0.5`, which is 25 bands of 5 and also joins pairs between 0.5 and 0.7, which PySpark keeps "
            "apart.",
            "",
        ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("daft", "numpy", "pyarrow"))
    command = [sys.argv[0], *(argument for argument in sys.argv[1:] if "_python" not in argument)]
    command += [f"--{name}_python=..." for name, python in (("datatrove", DATATROVE.value), ("spark", SPARK.value)) if python]
    lines += [f"Command: `python {' '.join(command)}`. Python {platform.python_version()}, {versions}; one of {os.cpu_count()} cores.", ""]
    return "\n".join(lines)


def stages(run: dict) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in run["stages"].items())


def draw(runs: dict) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    grid = np.linspace(0.4, 1, 200)
    axes.plot(grid, minhash.probability(grid, *minhash.Options().shape), color="grey", label="S-curve, 14 bands of 9 rows")
    for name, colour in COLOURS.items():
        if name in runs:
            found = recall(runs[name]["kept"])
            axes.plot(found.keys(), found.values(), "o", color=colour, label=name, alpha=0.8)
    axes.set(xlabel="Jaccard similarity of 5-grams", ylabel="planted pairs found", title="Near-duplicates found by similarity")
    axes.legend()
    pathlib.Path(PICTURE).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    flags.run(main)
