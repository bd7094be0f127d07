"""Measures tokens per second and core of this pipeline beside Grain's own packing: `python launch/benchmark_pipeline.py`.

Both read the same synthetic documents (lognormal lengths) and give batches with segment ids and positions of every token: ours from a
store through `data.loader`, Grain's from ArrayRecord (one record a document) through ConcatThenSplit and batch. One process pinned to
one core, no read-ahead threads on either side, repeats interleaved; the figure is tokens per second of CPU time, which neighbours on
the machine do not disturb, with wall time beside it. The files are in the page cache for both. Writes docs/results/pipeline.md.
"""

import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from importlib import metadata

import grain
import numpy as np
from absl import flags as absl_flags
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from kaiyuan_jax import config, flags
from kaiyuan_jax.data import loader, recipe
from kaiyuan_jax.data.store import write_store

TOKENS = absl_flags.DEFINE_integer("tokens", 100_000_000, "Tokens of the synthetic source.", lower_bound=1_000_000)
REPEATS = absl_flags.DEFINE_integer("repeats", 3, "Interleaved repeats of each measurement.", lower_bound=1)
SECONDS = absl_flags.DEFINE_float("seconds", 4.0, "Wall time of one measurement.", lower_bound=0.1)
OUTPUT = absl_flags.DEFINE_string("output", "docs/results/pipeline.md", "File for the results; empty: only printed.")

VOCABULARY, EOD, ROW_TOKENS = 32_000, 0, 262_144  # tokens of a batch, whatever the sequence length


def main(_):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        documents = write(pathlib.Path(folder))
        cases = [(length, order) for length in (1024, 128) for order in ("uniform", "ascending")]
        found = {(case, side): [] for case in cases for side in ("ours", "grain")}
        for _ in tqdm(range(REPEATS.value), disable=not sys.stderr.isatty()):
            for case in cases:
                found[case, "ours"].append(measure(ours(folder, *case), case[0]))
                found[case, "grain"].append(measure(grains(folder, *case), case[0]))
    print(page := report(cases, found, documents))
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(OUTPUT.value).write_text(page)


def write(folder: pathlib.Path) -> int:
    """The same documents as a store and as ArrayRecord; returns their number."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(600) - 0.72, 1.2, TOKENS.value // 300), 8, 100_000).astype(int)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths + 1), TOKENS.value)) + 1]
    writer = ArrayRecordWriter(str(folder / "documents.array_record"), "group_size:1")

    def documents():
        for i, length in enumerate(tqdm(lengths, "documents", disable=not sys.stderr.isatty())):
            # Zipf-like ids, so that compression has as much to gain as in real text.
            tokens = np.minimum(np.exp(rng.random(length) * np.log(VOCABULARY)).astype(np.uint16), VOCABULARY - 1)
            writer.write(np.append(tokens, np.uint16(EOD)).tobytes())
            yield f"document {i}", i / len(lengths), 4 * length, tokens

    write_store(folder / "store", documents=documents(), tokenizer_json="{}", vocabulary=VOCABULARY, eod=EOD)
    writer.close()
    return len(lengths)


def ours(folder: str, length: int, order: str):
    data = config.Data(
        sources=[config.Source(name="synthetic", path=f"{folder}/store")],
        phases=[config.Phase(order=order, uses=[config.Use(source="synthetic")])],
        sequence_length=length,
        batch_size=ROW_TOKENS // length,
    )
    plan = recipe.resolve(data, *recipe.facts_of(data))
    for batch in loader.batches(plan, loader.open_stores(data), mask_documents=True, prefetch=0):
        yield batch["inputs_BL"].size


def grains(folder: str, length: int, order: str):
    records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource([f"{folder}/documents.array_record"]))
    if order == "uniform":
        records = records.shuffle(seed=0)
    documents = records.map(lambda record: {"tokens": np.frombuffer(record, np.uint16).astype(np.int32)})
    documents = documents.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    packed = grain.experimental.ConcatThenSplitIterDataset(documents, length_struct={"tokens": length})
    for batch in packed.batch(ROW_TOKENS // length, drop_remainder=True):
        yield batch["tokens"].size


def measure(batches, length: int) -> tuple[float, float]:
    """(tokens per CPU second, tokens per second of wall time), from the second batch on."""
    next(batches)
    tokens, cpu, wall = 0, time.process_time(), time.perf_counter()
    for size in batches:
        tokens += size
        if time.perf_counter() - wall > SECONDS.value:
            break
    return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)


def report(cases, found, documents: int) -> str:
    lines = [
        "# Pipeline: tokens per second and core",
        "",
        f"{TOKENS.value / 1e6:.0f}M tokens in {documents:,} synthetic documents; batches of {ROW_TOKENS:,} tokens with segment ids and "
        f"positions. Median of {REPEATS.value} interleaved repeats of {SECONDS.value:g} s, lowest and highest in brackets; "
        "millions of tokens per second of CPU time on one core (wall time).",
        "",
        "| length | order | this pipeline | Grain ConcatThenSplit on ArrayRecord | ratio | goal |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        sides = {side: found[case, side] for side in ("ours", "grain")}
        cpu = {side: [pair[0] / 1e6 for pair in pairs] for side, pairs in sides.items()}
        wall = {side: statistics.median(pair[1] / 1e6 for pair in pairs) for side, pairs in sides.items()}
        middle = {side: statistics.median(values) for side, values in cpu.items()}
        cells = [f"{middle[side]:.1f} [{min(cpu[side]):.1f}, {max(cpu[side]):.1f}] ({wall[side]:.1f})" for side in ("ours", "grain")]
        lines.append(f"| {case[0]} | {case[1]} | {cells[0]} | {cells[1]} | {middle['ours'] / middle['grain']:.1f} | 10 |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grain", "array_record", "tensorstore", "numpy"))
    lines += [
        "",
        f"Command: `python {' '.join(sys.argv)}`. Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, one used.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    flags.run(main)
