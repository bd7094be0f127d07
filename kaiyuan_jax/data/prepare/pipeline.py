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

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaiyuan_jax.data import store, store_write
from kaiyuan_jax.data.prepare import contamination, deduplicate, documents, minhash, rank, read, sample, score, tokenise, write
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.prepare.documents import Part
from kaiyuan_jax.data.prepare.engine import Engine
from kaiyuan_jax.data.prepare.job import Job, locked, read_json, write_json
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings, check
from kaiyuan_jax.data.prepare.tally import Tally

VERSION = 2  # raise it when the same input would give other stores
PART_BYTES = 32 << 20  # of text in a part, less if the memory is small
SIDES = tokenise.SIDES


@dataclasses.dataclass(frozen=True)
class Result:
    """Stores of one source, and the report of what was done. `heldout` is None if nothing was held out."""

    train: store.Store
    heldout: store.Store | None
    reused: bool
    report: dict


def prepare(inputs: list[str], output: str, settings: Settings, *, engine: Engine | None = None, force: bool = False) -> Result:
    """Prepares one source into `<output>/train` and `<output>/heldout`, with report.json and fingerprints.parquet beside them.

    If `output` was made from the same input and settings already it is opened and returned, unless `force`. Without an engine the work
    is done in this process. Raises `UserError` of one kind or another; `output` is then as it was.
    """
    check(settings)
    engine = engine or Engine()
    found, skipped = read.find(inputs)
    folder = Path(output)
    if folder.is_file():
        raise PrepareError(f"--output={output}: is a file; name a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / "train" / "manifest.json").is_file():
        raise PrepareError(f"--output={output}: exists and was not made by this script; choose another folder or remove it")
    if settings.tokenizer:
        _fits(*tokenizers.load(settings.tokenizer), settings)
    with locked(folder):
        checksums = [digest for _, digest in sorted(engine.map(read.checksum, found, "checksums", sum(input.bytes for input in found) // 16))]
        fingerprint = _fingerprint(settings, found, checksums)
        if not force and (reused := opened(folder, fingerprint)):
            return reused
        job = Job(folder, f"{fingerprint} {part_bytes(engine)} {engine.workers}")
        try:
            report = _run(job, engine, found, settings)
        except PrepareError:
            job.clear()
            raise
        files = [{"name": input.name, "bytes": input.bytes, "sha256": digest} for input, digest in zip(found, checksums, strict=True)]
        write_json(job.partial / "report.json", report | {"fingerprint": fingerprint, "files": files, "not_text": skipped})
        store_write.replace_folder(job.partial, folder)
        job.clear()
    return dataclasses.replace(opened(folder), reused=False)


def part_bytes(engine: Engine) -> int:
    """Bytes of text in a part: a worker holds a few times as much."""
    return max(1 << 20, min(PART_BYTES, engine.memory // (16 * (engine.workers + 1))))


def opened(folder: Path, fingerprint: str = "") -> Result | None:
    """The stores of a prepared source, or None if they do not open or were made from other input or settings (`fingerprint`)."""
    try:
        report = read_json(folder / "report.json")
        if fingerprint and report["fingerprint"] != fingerprint:
            return None
        train = store.open_store(folder / "train")
        heldout = store.open_store(folder / "heldout") if report["stores"]["heldout"]["documents"] else None
    except (store.StoreError, OSError, ValueError, KeyError):
        return None
    return Result(train, heldout, True, report)


def _fits(tokenizer, tokenizer_json: str, settings: Settings) -> int:
    """The end of document of a given tokenizer; raises if it has none or more entries than the model."""
    del tokenizer_json
    size = tokenizers.vocabulary(tokenizer)
    if 0 < settings.model_vocabulary < size:
        raise PrepareError(f"--tokenizer={settings.tokenizer}: {size:,} entries, but --model_vocabulary={settings.model_vocabulary:,}; "
                           "take a smaller tokenizer or raise the model's vocabulary")  # fmt: skip
    return tokenizers.end_of_document(tokenizer, settings.end_of_document)


def _fingerprint(settings: Settings, found: list[read.Input], checksums: list[str]) -> str:
    """Names what the result depends on: the input, the settings, the content of the files that settings name, the versions."""
    facts = dataclasses.asdict(settings)
    if settings.tokenizer:
        facts["tokenizer"] = store.fingerprint(tokenizers.load(settings.tokenizer)[1])
    named = [Path(folder) / "fingerprints.parquet" for folder in settings.against]
    named += [Path(file) for item in settings.evaluation_sets for file in _files(Path(item))]
    named += [Path(file) for spec in settings.scores for file in score.parse(spec).files()]
    given = [store.file_sha256(path) for path in named]
    inputs = sorted((input.name, digest) for input, digest in zip(found, checksums, strict=True))
    return hashlib.sha256(json.dumps([VERSION, store.SCHEMA, facts, given, inputs], sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]


def _run(job: Job, engine: Engine, found: list[read.Input], settings: Settings) -> dict:
    """All steps; gives the report. Leaves the result in `job.partial`."""
    index = _contamination(job, settings)
    share = sum(input.bytes for input in found) // (4 * engine.workers)  # so that small inputs too occupy every worker
    tasks, sizes = documents.tasks(found, settings, max(1 << 20, min(part_bytes(engine), share)), part_bytes(engine), index)
    made = job.parts(engine, "documents", documents.make, tasks, sizes=sizes, unit="B")
    tally, parts, damaged = _gather(made, found, settings)
    survivors = job.work / "survivors.parquet"
    duplicates = job.step("deduplicate", lambda _: _deduplicate(engine, parts, damaged, settings, survivors))
    job.step("tokenizer", lambda place: _tokenizer(engine, parts, survivors, settings, place))
    tokenizer = job.work / "tokenizer" / "tokenizer.json"
    loaded, text = tokenizers.load(str(tokenizer))
    eod, vocabulary = _fits(loaded, text, settings), tokenizers.vocabulary(loaded)
    common = {"settings": settings, "survivors": str(survivors), "tokenizer": str(tokenizer), "eod": eod, "vocabulary": vocabulary}
    work = [common | {"part": dataclasses.asdict(part), "place": place} for place, part in enumerate(parts)]
    tokens = job.parts(engine, "tokenise", tokenise.make, work, sizes=[part.bytes for part in parts], unit="B")
    stores = {side: {key: sum(made[side][key] for made in tokens) for key in ("documents", "tokens", "bytes")} for side in SIDES}
    if not stores["train"]["documents"]:
        raise PrepareError(sample.NOTHING.format(settings.heldout, stores["heldout"]["documents"]))
    counts = tally.counts | duplicates["tally"]["counts"] | {f"{side} {key}": held[key] for side, held in stores.items() for key in held}
    of_content = {name: counts[name] for name in sorted(counts) if not name.startswith("read:")}
    facts, histograms = {"counts": of_content, "settings": recorded(settings)}, {}
    for side in SIDES:
        if stores[side]["documents"]:
            files = [Path(part[side]["name"] + ".parquet") for part in tokens if part[side]["documents"]]
            step = job.step(f"rank {side}", lambda place, side=side, files=files: {
                "files": [str(file) for file in rank.order(engine, files, place, stores[side]["documents"])]})  # fmt: skip
            write.write(
                job, engine, job.partial / side, side=side, order=[Path(file) for file in step["files"]], parts=tokens,
                tokenizer_json=text, vocabulary=vocabulary, eod=eod, settings=settings, facts=facts,
            )  # fmt: skip
            histograms[side] = _histogram(job.partial / side / "documents.parquet")
    if settings.near_duplicates:
        _keep_fingerprints(parts, survivors, job.partial / "fingerprints.parquet")
    damage = {found[number].name: reason for number, reason in sorted(damaged.items())}
    return {"version": VERSION, "engine": dataclasses.asdict(engine), "settings": recorded(settings), "counts": dict(sorted(counts.items())),
            "examples": tally.examples | duplicates["tally"]["examples"], "quarantined": damage, "stores": stores,
            "histograms": histograms, "steps": [{key: step[key] for key in step if key != "files"} for step in job.manifests()]}  # fmt: skip


def recorded(settings: Settings) -> dict:
    """The settings without places on this machine, for reports and manifests."""
    facts = dataclasses.asdict(settings) | {"tokenizer": "given" if settings.tokenizer else "trained", "scores": list(settings.scorers)}
    for name in ("against", "evaluation_sets"):
        facts[name] = [Path(path).name for path in getattr(settings, name)]
    facts["scores"] = [":".join(Path(part).name for part in spec.split(":")) for spec in settings.scorers]
    return facts


def _contamination(job: Job, settings: Settings) -> str:
    """Path of the index of the evaluation sets' n-grams; empty if there are none."""
    if not settings.evaluation_sets:
        return ""
    path = job.work / "evaluation_sets.pickle"
    if not path.is_file():
        texts = {}
        for item in settings.evaluation_sets:
            for input in read.find([item])[0]:
                for piece in read.pieces(input, 1 << 30):
                    tables = read.read(piece, read.Fields(settings.text_field), settings.limits, Tally())
                    texts.setdefault(Path(item).name, []).extend(text for table in tables for text in table["text"].to_pylist())
        path.write_bytes(pickle.dumps(contamination.index(texts)))
    return str(path)


def _gather(made: list[dict], found: list[read.Input], settings: Settings) -> tuple[Tally, list[Part], dict[int, str]]:
    """Counts of the readable input, all parts, and damaged inputs with the reason; raises if nothing or too little is left."""
    damaged = {int(number): reason for facts in made for number, reason in facts["damaged"].items()}
    tally = Tally()
    for facts in made:
        tally.merge(Tally.from_json(facts["tally"]))
        for number, held in facts["by_input"].items():
            if int(number) not in damaged:
                tally.merge(Tally.from_json(held))
    lost, everything = sum(found[number].bytes for number in damaged), sum(input.bytes for input in found)
    if lost > settings.max_loss * everything:
        number, reason = next(iter(sorted(damaged.items())))
        raise PrepareError(
            f"{len(damaged)} of {len(found)} files cannot be read to their end, {lost / everything:.1%} of the bytes, first "
            f"{found[number].path}: {reason}; replace them or raise --max_loss={settings.max_loss}"
        )
    rows, gone = tally.counts.get("read: rows", 0), tally.counts.get("read: rows lost", 0)
    if gone > settings.max_loss * rows:
        reasons = ", ".join(f"{count} {name.removeprefix('read: ')}" for name, count in sorted(tally.counts.items())
                            if name in tally.examples and name.startswith("read: "))  # fmt: skip
        raise PrepareError(f"{gone:,} of {rows:,} rows are lost ({reasons}); mend them or raise --max_loss={settings.max_loss}")
    parts = [Part(**part) for facts in made for part in facts["parts"]]
    if not tally.counts.get("documents cleaned"):
        why = ", ".join(f"{count} {name}" for name, count in sorted(tally.counts.items()) if count and name.startswith(("rule", "empty")))
        raise PrepareError(f"no text in {tally.counts.get('documents read', 0)} rows of field {settings.text_field!r}"
                           + (f" ({why})" if why else "") + "; check --input, --text_field and --rules")  # fmt: skip
    return tally, parts, damaged


def _deduplicate(engine: Engine, parts: list[Part], damaged: dict[int, str], settings: Settings, path: Path) -> dict:
    """Writes the uid and copies of the documents that stay, sorted by uid; gives counts."""
    import daft

    columns = ["uid", "hash", "quality", "tie", "priority", *["bands"] * settings.near_duplicates]
    keys = engine.frame([Path(part.name + ".parquet") for part in parts])
    keys = keys.where(~keys["input"].is_in(list(damaged))) if damaged else keys
    keys = keys.with_column("priority", daft.lit(len(settings.against)).cast(daft.DataType.int32())).select(*columns)
    for priority, folder in enumerate(settings.against):
        earlier = engine.frame([Path(folder) / "fingerprints.parquet"])
        earlier = earlier.with_column("priority", daft.lit(priority).cast(daft.DataType.int32()))
        keys = keys.concat(earlier.with_column("uid", -1 - earlier["uid"]).select(*columns))
    if settings.near_duplicates:
        bands = daft.DataType.fixed_size_list(daft.DataType.uint64(), minhash.Options().shape[0])
        keys = keys.with_column("bands", keys["bands"].cast(bands))
    tally = Tally()
    kept = deduplicate.clusters(keys, settings.near_duplicates, engine.memory // 2, tally)
    kept = kept.filter(pc.greater_equal(kept["uid"], 0))
    pq.write_table(kept, path.with_suffix(".partial"), row_group_size=1 << 16)
    path.with_suffix(".partial").replace(path)
    if not kept.num_rows:
        raise PrepareError(f"--against={','.join(settings.against)}: every document of this source is there already, none is left")
    return {"tally": tally.to_json()}


def _tokenizer(engine: Engine, parts: list[Part], survivors: Path, settings: Settings, folder: Path) -> dict:
    """Puts the tokenizer into `folder`: the one given, its text unchanged, or one trained on a sample."""
    text = tokenizers.load(settings.tokenizer)[1] if settings.tokenizer else sample.train(engine, parts, survivors, settings)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return {"fingerprint": store.fingerprint(text)}


def _keep_fingerprints(parts: list[Part], survivors: Path, path: Path) -> None:
    """Keys of the documents that stayed, for sources that are prepared --against this one later; sorted by hash."""
    columns = ["uid", "hash", "quality", "tie", "bands"]
    kept = pc.unique(pq.read_table(survivors, columns=["uid"])["uid"])
    held = pa.concat_tables([part.table(columns).filter(pc.is_in(part.table(["uid"])["uid"], kept)) for part in parts])
    held = held.take(pc.sort_indices(held, sort_keys=[("hash", "ascending")]))
    held = held.set_column(0, "uid", pa.array(np.arange(held.num_rows)))
    pq.write_table(held, path, compression="zstd", row_group_size=1 << 16)


def _histogram(path: Path) -> dict:
    """Quality at 21 quantiles of token mass, and the tokens in 20 equal ranges of quality."""
    table = pq.read_table(path, columns=["offset", "length", "quality"])
    offset, length, quality = (table[name].to_numpy() for name in ("offset", "length", "quality"))
    marks = np.linspace(0, 1, 21)
    at = np.searchsorted(offset, np.minimum(marks * length.sum(), length.sum() - 1), side="right") - 1
    counts, edges = np.histogram(quality, bins=20, weights=length)
    return {"quantiles": quality[at].tolist(), "edges": edges.tolist(), "tokens": counts.astype(int).tolist()}


def summary(name: str, result: Result) -> str:
    """A table of what was read, kept and written, and the quality at quantiles of token mass."""
    counts, train = result.report["counts"], result.train
    lines = [f"{name}: {'up to date' if result.reused else 'prepared'}"]
    cleaned = counts["documents read"] - counts["empty"] - counts["documents cleaned"]
    lines.append(f"  documents read {counts['documents read']:,}   empty {counts['empty']:,}   cleaned away {cleaned:,}   without quality "
                 f"{counts['without quality']:,}   exact duplicates {counts.get('exact duplicates', 0):,}   near duplicates "
                 f"{counts.get('near duplicates', 0):,}")  # fmt: skip
    lines.append(f"  {'':<9}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for side in filter(None, (train, result.heldout)):
        size = side.manifest.bytes
        lines.append(f"  {Path(side.folder).name:<9}{side.manifest.documents:>12,}{side.tokens:>16,}{size:>16,}{size / side.tokens:>13.2f}")
    if train.scored:
        shown = "  ".join(f"{mark:.0%} {value:.4g}" for mark, value in
                          zip(np.linspace(0, 1, 6), result.report["histograms"]["train"]["quantiles"][::4], strict=False))  # fmt: skip
        lines.append(f"  quality at token mass   {shown}")
    else:
        lines.append("  unscored: documents are in the order of a seeded hash")
    lines.append(f"  tokenizer {train.vocabulary:,} entries, fingerprint {train.fingerprint[:12]}; end of document {train.eod}")
    if result.heldout is None:
        lines.append("  nothing was held out: raise --heldout if the source is to be evaluated")
    for file, reason in result.report["quarantined"].items():
        lines.append(f"  quarantined {file}: {reason}")
    if skipped := result.report["not_text"]:
        lines.append(f"  {len(skipped)} files are not text and were left out: {', '.join(skipped[:5])}")
    return "\n".join(lines)
