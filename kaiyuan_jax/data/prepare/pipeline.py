"""Raw text to quality-sorted stores: one pipeline, on one machine or on a cluster.

    read .. score    documents.py, which calls read, normalise, clean, contamination, score, minhash    a task is a few MB of input
    de-duplicate     deduplicate.py                                                                     queries over keys
    train tokenizer  tokenizer.py, if none is given                                                     a sample chosen by hash
    tokenise         tokenise.py                                                                        a task is a part
    rank             rank.py                                                                            queries over keys
    write            write.py                                                                           a task is a shard

Steps leave their files and a manifest in `<output>.work`, so a killed job goes on where it was; the result is renamed into place at the
end. The same documents and settings give the same stores, byte for byte, on any engine, with any number of workers, however the documents
are cut into files: every choice is made by content (a hash of the text, then of the rest of the row), never by place or time.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data import store, store_write
from kaiyuan_jax.data.prepare import contamination, documents, rank, read, sample, score, summary, survivors, tokenise, write
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.prepare.documents import Part
from kaiyuan_jax.data.prepare.engine import Engine, EngineError
from kaiyuan_jax.data.prepare.job import Job, locked, read_json, write_json
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings, check
from kaiyuan_jax.data.prepare.tally import Tally

VERSION = 2  # raise it when the same input would give other stores
PART_BYTES = 256 << 20  # of text in a part at most; less if the memory is small
SIDES = tokenise.SIDES
STOPS = ("read", "clean", "score", "deduplicate")  # steps after which documents can be exported


def prepare(inputs: list[str], output: str, settings: Settings, *, engine: Engine | None = None, force: bool = False) -> summary.Result:
    """Prepares one source into `<output>/train` and `<output>/heldout`, with report.json and fingerprints.parquet beside them.

    If `output` was made from the same input and settings already it is opened and returned, unless `force`. Without an engine the work
    is done in this process. Raises `UserError` of one kind or another; `output` is then as it was.
    """
    check(settings)
    engine, folder = engine or Engine(), Path(output).absolute()
    found, skipped = _found(inputs, folder)
    if folder.is_file():
        raise PrepareError(f"--output={output}: is a file; name a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / "train" / "manifest.json").is_file():
        raise PrepareError(f"--output={output}: exists and was not made by this script; choose another folder or remove it")
    if settings.tokenizer:
        _fits(tokenizers.load(settings.tokenizer)[0], settings)
    with locked(folder):
        checksums = _checksums(engine, found)
        fingerprint = _fingerprint(settings, found, checksums)
        if not force and (reused := opened(folder, fingerprint)):
            if Job.begun(folder).get("fingerprint") == fingerprint:
                Job(folder, fingerprint).clear()  # the job was killed after its last step
            return reused
        with _job(folder, fingerprint, engine, found) as job:
            report = _run(job, engine, found, settings)
            files = [{"name": input.name, "bytes": input.bytes, "sha256": digest} for input, digest in zip(found, checksums, strict=True)]
            write_json(job.partial / "report.json", report | {"fingerprint": fingerprint, "files": files, "not_text": skipped})
            store_write.replace_folder(job.partial, folder)
            job.clear()
    return dataclasses.replace(opened(folder), reused=False)


def opened(folder: Path, fingerprint: str = "") -> summary.Result | None:
    """The stores of a prepared source, or None if they do not open or were made from other input or settings (`fingerprint`)."""
    try:
        report = read_json(folder / "report.json")
        if fingerprint and report["fingerprint"] != fingerprint:
            return None
        train = store.open_store(folder / "train")
        heldout = store.open_store(folder / "heldout") if report["stores"]["heldout"]["documents"] else None
    except (store.StoreError, OSError, ValueError, KeyError):
        return None
    return summary.Result(train, heldout, True, report)


def export(inputs: list[str], output: str, settings: Settings, until: str, *, engine: Engine | None = None) -> Path:
    """Stops after a step of `STOPS` and writes the documents as they are then, as Parquet, with that step's manifest.

    `<output>/NNNNNN-S.parquet` have id, text, quality, hash, metadata, score.NAME and copies; the order of rows means nothing. They can be
    read again as `--input`, so that any step can be run alone. Raises as `prepare` does.
    """
    check(settings)
    engine, folder = engine or Engine(), Path(output).absolute()
    stripped = _until(settings, until)
    found, skipped = _found(inputs, folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrepareError(f"--output={output}: exists; name a new folder for the documents")
    with locked(folder), _job(folder, f"{until} {_fingerprint(settings, found, _checksums(engine, found))}", engine, found) as job:
        parts, kept, facts = _documents(job, engine, found, stripped, deduplicated=until == "deduplicate")
        job.partial.mkdir(exist_ok=True)
        tasks = [{"part": dataclasses.asdict(part), "survivors": str(kept), "target": str(job.partial)} for part in parts]
        finished = engine.map(survivors.export, tasks, "export", sum(part.bytes for part in parts))
        list(tqdm(finished, "export", len(tasks), disable=None, delay=2, unit="part"))
        write_json(job.partial / "manifest.json", facts | {"until": until, "settings": summary.recorded(settings), "not_text": skipped})
        store_write.replace_folder(job.partial, folder)
        job.clear()
    return folder


def _until(settings: Settings, until: str) -> Settings:
    """The settings without what comes after a step."""
    later = {"near_duplicates": False, "against": ()} if until != "deduplicate" else {}
    if until in ("read", "clean"):
        later |= {"scores": (), "sort_by": "", "unscored": not settings.quality_field}
    if until == "read":
        later |= {"rules": (), "mask": (), "languages": (), "evaluation_sets": ()}
    return dataclasses.replace(settings, **later)


def _found(inputs: list[str], output: Path) -> tuple[list[read.Input], list[str]]:
    """The inputs, with absolute paths and names that are text; what earlier runs left beside or in the output is none."""
    found, skipped = read.find(inputs)
    found = [dataclasses.replace(input, name=input.name.encode("utf-8", "replace").decode()) for input in found]
    found = [input if "://" in input.path else dataclasses.replace(input, path=str(Path(input.path).absolute())) for input in found]
    own = tuple(f"{output}{suffix}/" for suffix in ("", ".work", ".partial", ".old"))
    kept = [input for input in found if not input.path.startswith(own)]
    if not kept:
        raise PrepareError(f"--input={','.join(inputs)}: only files of the output itself were found; name the raw text")
    return kept, skipped


@contextlib.contextmanager
def _job(folder: Path, fingerprint: str, engine: Engine, found: list[read.Input]) -> Iterator[Job]:
    """The work of one job, thrown away if its input or settings turn out to be wrong.

    New work is cut for the workers and memory of now: into parts of text, each of which a worker holds a few times over, and tasks of
    input, so small that little input too occupies every worker.
    """
    part = max(1 << 20, min(PART_BYTES, engine.memory // (16 * (engine.workers + 1))))
    size = max(1 << 20, min(part, sum(input.bytes for input in found) // (4 * engine.workers)))
    job = Job(folder, fingerprint, {"part": part, "task": size})
    try:
        yield job
    except UserError as error:
        if not isinstance(error, EngineError | read.Unreachable):
            job.clear()
        raise


def _fits(tokenizer, settings: Settings) -> int:
    """The end of document of a tokenizer; raises if it has none, or more entries than the model."""
    size = tokenizers.vocabulary(tokenizer)
    if 0 < settings.model_vocabulary < size:
        raise PrepareError(f"--tokenizer={settings.tokenizer}: {size:,} entries, but --model_vocabulary={settings.model_vocabulary:,}; "
                           "take a smaller tokenizer or raise the model's vocabulary")  # fmt: skip
    return tokenizers.end_of_document(tokenizer, settings.end_of_document)


def _checksums(engine: Engine, found: list[read.Input]) -> list[str]:
    """sha256 of every input; reading is fast, so that only much of it is worth worker processes."""
    finished = engine.map(read.checksum, found, "checksums", sum(input.bytes for input in found) // 16)
    return [digest for _, digest in sorted(tqdm(finished, "checksums", len(found), disable=None, delay=2, unit="file"))]


def _fingerprint(settings: Settings, found: list[read.Input], checksums: list[str]) -> str:
    """Names what the result depends on: the input, the settings, the content of the files that settings name, the versions."""
    facts = dataclasses.asdict(settings)
    if settings.tokenizer:
        facts["tokenizer"] = store.fingerprint(tokenizers.load(settings.tokenizer)[1])
    named = [Path(folder) / "fingerprints.parquet" for folder in settings.against]
    named += [Path(file) for spec in settings.scores for file in score.parse(spec).files()]
    given = [store.file_sha256(path) for path in named] + [read.checksum(input) for input in _evaluation(settings)]
    inputs = sorted((input.name, digest) for input, digest in zip(found, checksums, strict=True))
    return hashlib.sha256(json.dumps([VERSION, store.SCHEMA, facts, given, inputs], sort_keys=True).encode()).hexdigest()


def _evaluation(settings: Settings) -> list[read.Input]:
    return [input for item in settings.evaluation_sets for input in read.find([item])[0]]


def _run(job: Job, engine: Engine, found: list[read.Input], settings: Settings) -> dict:
    """All steps; gives the report. Leaves the result in `job.partial`."""
    parts, kept, gathered = _documents(job, engine, found, settings)
    counts = gathered["counts"]
    step = job.step("tokenizer", lambda place: _tokenizer(engine, parts, kept, settings, place))
    tokenizer = job.work / "tokenizer" / "tokenizer.json"
    loaded, text = tokenizers.load(str(tokenizer))
    eod, vocabulary = _fits(loaded, settings), tokenizers.vocabulary(loaded)
    common = {"settings": settings, "survivors": str(kept), "tokenizer": str(tokenizer), "fingerprint": step["fingerprint"],
              "eod": eod, "vocabulary": vocabulary}  # fmt: skip
    work = [common | {"part": dataclasses.asdict(part), "place": place} for place, part in enumerate(parts)]
    tokens = job.parts(engine, "tokenise", tokenise.make, work, sizes=[part.bytes for part in parts], unit="B")
    stores = {side: {key: sum(made[side][key] for made in tokens) for key in ("documents", "tokens", "bytes")} for side in SIDES}
    if not stores["train"]["documents"]:
        raise PrepareError(sample.NOTHING.format(settings.heldout, stores["heldout"]["documents"]))
    counts |= {f"{side} {key}": held[key] for side, held in stores.items() for key in held}
    of_content = {name: counts[name] for name in sorted(counts) if not name.startswith("read:")}
    facts, histograms = {"counts": of_content, "settings": summary.recorded(settings)}, {}
    for side in SIDES:
        if stores[side]["documents"]:
            files = [Path(part[side]["name"] + ".parquet") for part in tokens if part[side]["documents"]]
            step = job.step(f"rank {side}", lambda place, side=side, files=files: {
                "files": [str(file) for file in rank.order(engine, files, place, stores[side]["documents"])]})  # fmt: skip
            write.write(
                job, engine, job.partial / side, side=side, order=[Path(file) for file in step["files"]], parts=tokens,
                tokenizer_json=text, vocabulary=vocabulary, eod=eod, settings=settings, facts=facts,
            )  # fmt: skip
            histograms[side] = summary.histogram(job.partial / side / "documents.parquet")
    if settings.near_duplicates:
        files, documents = [Path(made["keys"]) for made in tokens], sum(made["documents"] for made in stores.values())
        survivors.keep_fingerprints(engine, files, documents, settings, job.partial / "fingerprints.parquet")
    steps = [{key: step[key] for key in step if key != "files"} for step in job.manifests()]
    return {"version": VERSION, "engine": dataclasses.asdict(engine), "settings": summary.recorded(settings), "counts": counts,
            "examples": gathered["examples"], "quarantined": gathered["quarantined"], "lost": gathered["lost"], "stores": stores,
            "histograms": histograms, "steps": steps}  # fmt: skip


def _documents(
    job: Job, engine: Engine, found: list[read.Input], settings: Settings, deduplicated: bool = True
) -> tuple[list[Part], Path, dict]:
    """Parts of cleaned documents, the path of those that stay, and counts, examples and quarantined files."""
    index = _contamination(job, settings)
    tasks, sizes = documents.tasks(found, settings, job.layout["task"], job.layout["part"], index)
    made = job.parts(engine, "documents", documents.make, tasks, sizes=sizes, unit="B")
    tally, parts, damaged = survivors.gather(made, found, settings)
    kept = job.work / "survivors.parquet"
    step = job.step("deduplicate", lambda _: survivors.choose(engine, parts, damaged, settings, kept, deduplicated))
    job.note("documents", counts=tally.counts)
    lost = {found[int(number)].name: counts for facts in made for number, counts in facts["lost"].items() if int(number) not in damaged}
    quarantined = {found[number].name: reason for number, reason in sorted(damaged.items())}
    tally.merge(Tally.from_json(step["tally"]))
    return parts, kept, {**tally.to_json(), "quarantined": quarantined, "lost": lost}


def _contamination(job: Job, settings: Settings) -> str:
    """Path of the index of the evaluation sets' n-grams; empty if there are none. A set that cannot be read whole ends the job."""
    if not settings.evaluation_sets:
        return ""
    inputs, tally, texts = _evaluation(settings), Tally(), {}
    content = "".join(read.checksum(input) for input in inputs)
    path = job.work / f"evaluation_sets_{hashlib.sha256(content.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        for input in inputs:
            for piece in read.pieces(input, 1 << 30):
                tables = read.read(piece, read.Fields(settings.evaluation_field), settings.limits, tally)
                texts.setdefault(input.name, []).extend(text for table in tables for text in table["text"].to_pylist())
        if lost := tally.counts.get("read: rows lost"):
            places = ", ".join(place for name, held in tally.examples.items() if name.startswith("read: ") for place in held)
            raise PrepareError(f"--evaluation_sets: {lost} rows cannot be read ({places}), and would not be looked for; mend them")
        index = contamination.index(texts)
        job.folder("evaluation sets")
        write_json(job.work / "evaluation sets" / "manifest.json", {"step": "evaluation sets", "seconds": 0.0, "too short": index.skipped})
        contamination.save(path, index)
    return str(path)


def _tokenizer(engine: Engine, parts: list[Part], kept: Path, settings: Settings, folder: Path) -> dict:
    """Puts the tokenizer into `folder`: the one given, its text unchanged, or one trained on a sample."""
    text = tokenizers.load(settings.tokenizer)[1] if settings.tokenizer else sample.train(engine, parts, kept, settings)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return {"fingerprint": store.fingerprint(text)}
