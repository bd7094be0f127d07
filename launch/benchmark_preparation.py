"""How fast raw text becomes stores, next to the tokenizer alone on the same documents, cores and run; peak memory, scaling, spilling.

    python launch/fetch_corpus.py --output=stores/corpus
    python launch/benchmark_preparation.py --input=stores/corpus --output=docs/results/preparation.md

The tokenizer alone is `encode_batch_fast` of the `tokenizers` library on all cores over a sample of the documents in memory, and
gigatoken, which the pipeline uses, over all of them. The pipeline runs from Parquet to finished stores, in a process of its own whose
memory (with that of its workers: proportional set size, sampled) is watched. The large input is `--times` as many documents of two
halves: the first of one document, the second of another, so that they are real text and, unless short, no near-duplicates.
"""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import read
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.prepare.tally import Tally
from kaiyuan_jax.flags import run

ROOT = pathlib.Path(__file__).parents[1]
INPUT = flags.DEFINE_list("input", ["stores/corpus"], "Folders or files of raw text.")
OUTPUT = flags.DEFINE_string("output", "", "Markdown file for the results; empty: print them.")
SCRATCH = flags.DEFINE_string("scratch", "", "Folder for stores and the large input; empty: a temporary one.")
VOCABULARY = flags.DEFINE_integer("vocabulary", 32768, "Entries of the tokenizer.")
TIMES = flags.DEFINE_integer("times", 10, "Size of the large input; 0: none.")
MEMORY = flags.DEFINE_float("memory", 2.0, "GiB for the large input.")
SAMPLE = flags.DEFINE_integer("sample_bytes", 24 << 20, "Text that the tokenizers library encodes.")


def corpus() -> tuple[pa.Array, np.ndarray]:
    """Every text, and a quality for each: that of the data, or else a number from its place."""
    found, _ = read.find(INPUT.value)
    tables = [table for input in found for piece in read.pieces(input, 1 << 40)
              for table in read.read(piece, read.Fields(), read.Limits(), Tally())]  # fmt: skip
    texts = pa.concat_arrays([chunk for table in tables for chunk in table["text"].chunks])
    return texts, np.random.default_rng(0).random(len(texts))


def write(folder: pathlib.Path, texts: pa.Array, quality: np.ndarray, files: int = 8) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(len(texts)), files)):
        chosen = slice(rows[0], rows[-1] + 1)
        table = pa.table({"text": texts[chosen.start : chosen.stop], "quality": quality[chosen]})
        pq.write_table(table, folder / f"{number:03d}.parquet", compression="zstd", row_group_size=4096)
    return str(folder)


def write_large(folder: pathlib.Path, texts: pa.Array, times: int) -> None:
    """`times` files' worth of documents: copy k of document i ends with the second half of document i + 7919 k."""
    held, rng = texts.to_pylist(), np.random.default_rng(1)
    for copy in range(times):
        made = []
        for i, text in enumerate(held):
            other = held[(i + 7919 * copy) % len(held)]
            made.append(text[: len(text) // 2] + other[len(other) // 2 :])
        write(folder / f"{copy:02d}", pa.array(made, pa.large_string()), rng.random(len(made)), 4)


def tree(root: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def watched(command: list[str]) -> dict:
    """Runs a command; gives seconds and the peak of the tree's proportional set size in bytes."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    ended = threading.Thread(target=lambda: results.extend(process.communicate()))
    results: list[str] = []
    ended.start()
    while ended.is_alive():
        total = 0
        for pid in tree(process.pid):
            try:
                lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            # Anonymous pages: what the page cache holds of mapped files is the system's to give back.
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        peak = max(peak, total)
        ended.join(0.25)
    if process.returncode:
        raise UserError(f"{' '.join(command[:3])}: {results[1].strip().splitlines()[-1]}")
    return {"seconds": time.perf_counter() - began, "peak": peak}


def prepare(folder: str, output: pathlib.Path, tokenizer: str, *extra: str) -> dict:
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "launch/prepare_data.py", f"--input={folder}", f"--output={output}", f"--tokenizer={tokenizer}", *extra]
    facts = watched(command)
    report = json.loads((output / "report.json").read_text())
    return facts | {"steps": {step["step"]: step["seconds"] for step in report["steps"]}, "counts": report["counts"]}


def alone(tokenizer: str, texts: pa.Array) -> dict[str, float]:
    """MB/s of each encoder on all cores, without anything around it."""
    loaded, text = tokenizers.load(tokenizer)
    encoder = tokenizers.Encoder(text, tokenizers.end_of_document(loaded))
    sample, size = [], 0
    for row in np.random.default_rng(0).permutation(len(texts)):
        sample.append(texts[int(row)].as_py())
        size += len(sample[-1].encode())
        if size >= SAMPLE.value:
            break
    encoder.exact.encode_batch_fast(sample[:100])
    began = time.perf_counter()
    encoder.exact.encode_batch_fast(sample, add_special_tokens=False)
    rates = {"tokenizers": size / (time.perf_counter() - began) / 1e6}
    if encoder.fast is not None:
        everything = texts.to_pylist()
        encoder.fast.encode_batch(everything[:100], parallel=True)
        began = time.perf_counter()
        encoder.fast.encode_batch(everything, parallel=True)
        rates["gigatoken"] = texts.nbytes / (time.perf_counter() - began) / 1e6
    return rates


def main(argv: list[str]) -> None:
    del argv
    scratch = pathlib.Path(SCRATCH.value or tempfile.mkdtemp(prefix="preparation_")).resolve()
    texts, quality = corpus()
    size, cores = texts.nbytes, os.cpu_count() or 1
    given = write(scratch / "input", texts, quality)
    tokenizer = scratch / "tokenizer.json"
    if not tokenizer.is_file():
        rows = np.random.default_rng(0).permutation(len(texts))[: max(1000, int(len(texts) * (8 << 20) / size))]
        tokenizer.write_text(tokenizers.train((texts[int(row)].as_py() for row in rows), VOCABULARY.value).to_str(), encoding="utf-8")
    rates = alone(str(tokenizer), texts)
    column = ["--quality_field=quality"]
    runs = {
        "everything near: column score": (size, prepare(given, scratch / "a", str(tokenizer), *column)),
        "the same, 1 worker": (size, prepare(given, scratch / "a1", str(tokenizer), *column, "--workers=1")),
        "exact duplicates only": (size, prepare(given, scratch / "b", str(tokenizer), *column, "--nonear_duplicates")),
        "near, rules code, mask": (size, prepare(given, scratch / "c", str(tokenizer), *column, "--rules=code", "--mask=email,phone,key")),
        "near, heuristic score": (size, prepare(given, scratch / "d", str(tokenizer))),
    }
    if TIMES.value:
        del quality
        large = scratch / f"large{TIMES.value}"
        if not large.is_dir():
            write_large(scratch / "large.partial", texts, TIMES.value)
            (scratch / "large.partial").rename(large)
        del texts
        runs[f"{TIMES.value} times the input, {MEMORY.value:g} GiB"] = (
            TIMES.value * size, prepare(str(large), scratch / "e", str(tokenizer), *column, f"--memory={MEMORY.value}"))  # fmt: skip
    page = results(size, rates, runs, cores)
    print(page)
    if OUTPUT.value:
        partial = pathlib.Path(OUTPUT.value + ".partial")
        partial.write_text(page, encoding="utf-8")
        partial.replace(OUTPUT.value)
    if not SCRATCH.value:
        shutil.rmtree(scratch)


def results(size: int, rates: dict[str, float], runs: dict[str, tuple[int, dict]], cores: int) -> str:
    base = rates["tokenizers"]
    lines = [
        "# From raw text to stores: speed, memory, scaling", "",
        f"`python launch/benchmark_preparation.py --input={','.join(INPUT.value)} --times={TIMES.value} --memory={MEMORY.value}`", "",
        f"{size / 1e6:,.0f} MB of text; {cores} cores, Python {platform.python_version()}. MB/s are bytes of raw text by wall time of the "
        "whole command, start of the processes included. Memory is the peak of the proportional set size of all processes, pages of "
        "mapped files left out.", "",
        "| tokenizer alone, all cores | MB/s |", "|---|---|",
        *(f"| {name} | {rate:.1f} |" for name, rate in rates.items()), "",
        "| whole pipeline | MB | s | MB/s | against `tokenizers` alone | peak GiB | documents kept | MB kept a second |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (count, facts) in runs.items():
        rate, counts = count / facts["seconds"] / 1e6, facts["counts"]
        kept = counts["train documents"] + counts["heldout documents"]
        lines.append(f"| {name} | {count / 1e6:,.0f} | {facts['seconds']:.1f} | {rate:.1f} | {rate / base:.0%} "
                     f"| {facts['peak'] / 2**30:.2f} | {kept:,} of {counts['documents read']:,} "
                     f"| {(counts['train bytes'] + counts['heldout bytes']) / facts['seconds'] / 1e6:.1f} |")  # fmt: skip
    steps = list(dict.fromkeys(step for _, facts in runs.values() for step in facts["steps"]))
    lines += ["", "Seconds of each step (the rest is start-up and checksums):", ""]
    lines += [f"| run | {' | '.join(steps)} |", "|---" * (len(steps) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(str(facts['steps'].get(step, '')) for step in steps)} |" for name, (_, facts) in runs.items()]
    whole, one = (runs[name][1]["seconds"] for name in list(runs)[:2])
    said = [f"Two workers take {one / whole:.2f} times less than one: processes start anew for each step, about two seconds a time, and "
            "the encoder's tables compete for one cache."]  # fmt: skip
    if "gigatoken" in rates:
        share = size / whole / 1e6 / rates["gigatoken"]
        said.append(f"The whole is {share:.0%} of what gigatoken does alone: with it the tokenizer hides behind normalising, hashing and "
                    "MinHash, not they behind it.")  # fmt: skip
    if TIMES.value:
        count, facts = list(runs.values())[-1]
        (base,) = (runs[name][1] for name in list(runs)[:1])
        kept, less = ((run["counts"]["train bytes"] + run["counts"]["heldout bytes"]) / run["seconds"] for run in (facts, base))
        share = count / facts["seconds"] / (size / whole)
        said.append(f"The {TIMES.value}-fold input runs at {share:.0%} of the bytes a second of the input "
                    f"itself, {kept / less:.0%} counted in what was kept: of short documents the halves repeat one another.")  # fmt: skip
    return "\n".join([*lines, "", *said, ""])


if __name__ == "__main__":
    run(main)
