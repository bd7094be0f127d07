"""Measures tokens per second and core of this pipeline beside Grain's own packing: `python launch/benchmark_pipeline.py`.

Both read the same synthetic documents (lognormal lengths) and give batches with segment ids and positions of every token. Ours reads a
store through `data.loader`, in three ways: uncompressed; the same treated as a store that exceeds memory; compressed, with a cache of
decoded blocks that holds a tenth of it. Grain's reads ArrayRecord through ConcatThenSplit and batch, with the files at their fastest:
one record a document, uncompressed, a few hundred records a file.

One process pinned to one core, no read-ahead threads on any side, repeats interleaved; the figure is tokens per second of CPU time,
which neighbours on the machine disturb least, with wall time beside it. All files are in the page cache. Writes
docs/results/pipeline.md.
"""

import itertools
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
from kaiyuan_jax.data import blocks, loader, mapped, recipe
from kaiyuan_jax.data.store_write import write_store

TOKENS = absl_flags.DEFINE_integer("tokens", 100_000_000, "Tokens of the synthetic source.", lower_bound=1_000_000)
REPEATS = absl_flags.DEFINE_integer("repeats", 3, "Interleaved repeats of each measurement.", lower_bound=1)
SECONDS = absl_flags.DEFINE_float("seconds", 2.0, "CPU time of one measurement.", lower_bound=0.1)
OUTPUT = absl_flags.DEFINE_string("output", "docs/results/pipeline.md", "File for the results; empty: only printed.")

VOCABULARY, EOD = 32_000, 0
BATCH_TOKENS = 262_144  # whatever the sequence length
RECORDS = 320  # in a file of ArrayRecord: a read takes longer the more records a file has (2 ms at 160,000), and no less below this
SIDES = {
    "raw": "this pipeline, raw store",
    "large": "raw, as beyond memory",
    "zstd": "zstd store",
    "grain": "Grain ConcatThenSplit, ArrayRecord",
}


def main(_):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        documents = write(pathlib.Path(folder))
        blocks.CACHE_BYTES = TOKENS.value * 2 // 10
        cases = [(length, order) for length in (1024, 128) for order in ("uniform", "ascending")]
        found = {(case, side): [] for case in cases for side in SIDES}
        for _ in tqdm(range(REPEATS.value), disable=not sys.stderr.isatty()):
            for case in cases:
                for side in SIDES:
                    mapped._SMALL = 0 if side == "large" else 1
                    batches = grains(folder, *case) if side == "grain" else ours(f"{folder}/{'zstd' if side == 'zstd' else 'raw'}", *case)
                    found[case, side].append(measure(batches))
    print(page := report(cases, found, documents))
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(OUTPUT.value).write_text(page)


def write(folder: pathlib.Path) -> int:
    """The same documents as two stores and as ArrayRecord; returns their number."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(600) - 0.72, 1.2, TOKENS.value // 300), 8, 100_000).astype(int)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths + 1), TOKENS.value)) + 1]
    # Zipf-like ids, so that compression has as much to gain as in real text.
    tokens = np.exp(rng.random(int(lengths.sum()), np.float32) * np.float32(np.log(VOCABULARY))).astype(np.uint16)
    ends = np.cumsum(lengths)

    def documents():
        for i, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
            yield f"document {i}", i / len(lengths), 4 * length, tokens[end - length : end]

    for name, level in (("raw", 0), ("zstd", 1)):
        write_store(
            folder / name, documents=documents(), tokenizer_json="{}", vocabulary=VOCABULARY + 1, eod=EOD, compression=level
        )
    bar = tqdm(documents(), "documents", len(lengths), disable=not sys.stderr.isatty())
    for number, records in enumerate(itertools.batched(bar, RECORDS)):
        writer = ArrayRecordWriter(str(folder / f"{number:06}.array_record"), "group_size:1,uncompressed")
        for _, _, _, document in records:
            writer.write(np.append(document, np.uint16(EOD)).tobytes())
        writer.close()
    return len(lengths)


def ours(folder: str, length: int, order: str):
    data = config.Data(
        sources=[config.Source(name="synthetic", path=folder)],
        phases=[config.Phase(order=order, uses=[config.Use(source="synthetic")])],
        sequence_length=length,
        batch_size=BATCH_TOKENS // length,
    )
    plan = recipe.resolve(data, *recipe.facts_of(data))
    stores = loader.open_stores(data)
    while True:  # epoch after epoch, as long as is measured
        for batch in loader.batches(plan, stores, mask_documents=True, prefetch=0):
            yield batch["inputs_BL"].size


def grains(folder: str, length: int, order: str):
    records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(sorted(map(str, pathlib.Path(folder).glob("*.array_record")))))
    if order == "uniform":
        records = records.shuffle(seed=0)
    documents = records.map(lambda record: {"tokens": np.frombuffer(record, np.uint16).astype(np.int32)})
    documents = documents.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    packed = grain.experimental.ConcatThenSplitIterDataset(documents, length_struct={"tokens": length})
    for batch in packed.batch(BATCH_TOKENS // length, drop_remainder=True):
        yield batch["tokens"].size


def measure(batches) -> tuple[float, float]:
    """(tokens per second of CPU time, tokens per second of wall time), after a warm-up of a quarter of the time."""
    begun = time.process_time()
    for _ in batches:
        if time.process_time() - begun > SECONDS.value / 4:
            break
    tokens, cpu, wall = 0, time.process_time(), time.perf_counter()
    for size in batches:
        tokens += size
        if time.process_time() - cpu > SECONDS.value:
            break
    return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)


def report(cases, found, documents: int) -> str:
    lines = [
        "# Pipeline: tokens per second and core",
        "",
        f"{TOKENS.value / 1e6:.0f}M tokens in {documents:,} synthetic documents; batches of {BATCH_TOKENS:,} tokens with segment ids and "
        f"positions. Median of {REPEATS.value} interleaved repeats of {SECONDS.value:g} CPU seconds, lowest and highest in brackets, in "
        "millions of tokens per second of CPU time on one core; per second of wall time in parentheses. Goal: 10 times Grain. A store "
        "beyond memory has every stretch of every batch announced to the system. The zstd store has a cache for a tenth of its blocks: "
        "where an order jumps, nearly every row decodes a block of 16,384 tokens. ArrayRecord files hold "
        f"{RECORDS} records: with all records in one file Grain reaches 0.4 million tokens per second.",
        "",
        f"| length | order | {' | '.join(SIDES.values())} | raw, beyond memory, zstd / Grain |",
        "|---|---|---|---|---|---|---|",
    ]
    for length, order in cases:
        cells, middle = [], {}
        for side in SIDES:
            cpu, wall = ([value / 1e6 for value in values] for values in zip(*found[(length, order), side], strict=True))
            middle[side] = statistics.median(cpu)
            cells.append(f"{middle[side]:.2f} [{min(cpu):.2f}, {max(cpu):.2f}] ({statistics.median(wall):.2f})")
        ratios = ", ".join(f"{middle[side] / middle['grain']:.1f}" for side in ("raw", "large", "zstd"))
        lines.append(f"| {length} | {order} | {' | '.join(cells)} | {ratios} |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grain", "array_record", "tensorstore", "numpy"))
    lines += [
        "",
        f"Command: `python {' '.join(sys.argv)}`. Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, one used.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    flags.run(main)
