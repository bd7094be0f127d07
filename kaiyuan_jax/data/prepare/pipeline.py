"""Raw text to stores: read, normalise, split off held-out documents, de-duplicate, score, tokenise, sort, write.

Texts are spilled to one file beside the output and mapped, so memory holds only their hashes, scores and ids. Everything is
written into `<output>.partial` and renamed at the end: an interrupted run leaves no store, and the next one clears what it left.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data import store
from kaiyuan_jax.data.prepare import deduplicate, normalise, quality, read, split, write
from kaiyuan_jax.data.prepare import tokenizer as tokenizers

VERSION = 1  # raise it when the same input would give other stores
SIDES = ("train", "heldout")


class PrepareError(UserError):
    """Settings or input that give no store; one line with what to do."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of a prepared source, apart from the input."""

    text_field: str = "text"
    quality_field: str = ""  # empty: the heuristic score
    id_field: str = ""  # empty: the hash of the text
    missing_quality: str = "error"  # error | drop: rows whose quality field is null or not a number
    unscored: bool = False  # no score at all: the order is the seeded hash
    kind: str = ""  # prose | code | chinese for the heuristic; empty: guessed for each document
    tokenizer: str = ""  # tokenizer.json or a folder with one; empty: train one
    end_of_document: str = ""  # its special token that ends documents; empty: the first usual one
    vocabulary: int = 8192  # of a trained tokenizer
    sample_bytes: int = 32 << 20  # text that a tokenizer is trained on
    heldout: float = 0.01  # share of documents held out
    seed: int = 0  # of the order among equal scores
    compression: int = 0  # zstd level of the tokens, 0 for none


@dataclasses.dataclass(frozen=True)
class Result:
    """Stores of one source. `heldout` is None if nothing was held out."""

    train: store.Store
    heldout: store.Store | None
    reused: bool
    skipped: tuple[str, ...] = ()  # files of folders that were not text


def check(settings: Settings) -> None:
    """Raises `PrepareError` with every problem of the settings, one line each."""
    problems = []
    if not 0 <= settings.heldout < 1:
        problems.append(f"--heldout={settings.heldout}: must be a share in [0, 1)")
    if settings.missing_quality not in ("error", "drop"):
        problems.append(f"--missing_quality={settings.missing_quality}: must be error or drop")
    if settings.kind not in ("", "prose", "code", "chinese"):
        problems.append(f"--kind={settings.kind}: must be prose, code, chinese, or empty to guess for each document")
    if settings.unscored and settings.quality_field:
        problems.append(f"--unscored with --quality_field={settings.quality_field}: give one of the two")
    if not settings.tokenizer and settings.vocabulary < 257:
        problems.append(f"--vocabulary={settings.vocabulary}: must be at least 257 (256 bytes and the end of a document)")
    if not 0 <= settings.compression <= 19:
        problems.append(f"--compression={settings.compression}: must be a zstd level from 0 (none) to 19")
    if not settings.text_field:
        problems.append("--text_field is empty: must name the field that holds the text")
    if problems:
        raise PrepareError("\n".join(problems))


def prepare(inputs: list[str], output: str, settings: Settings, *, force: bool = False) -> Result:
    """Prepares one source into `<output>/train` and `<output>/heldout`.

    The same input and settings give the same bytes. If `output` was made from them already it is opened and returned, unless `force`.
    Raises `PrepareError`, `ReadError`, `TokenizerError` or `StoreError`.
    """
    check(settings)
    found, skipped = read.find(inputs)
    folder = Path(output)
    if folder.is_file():
        raise PrepareError(f"--output={output}: is a file; name a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / "train" / "manifest.json").is_file():
        raise PrepareError(f"--output={output}: exists and was not made by this script; choose another folder or remove it")
    tokenizer, tokenizer_json = tokenizers.load(settings.tokenizer) if settings.tokenizer else (None, "")
    checksums = _checksums(found)
    fingerprint = _fingerprint(settings, checksums, tokenizer_json)
    if not force and (reused := opened(folder, fingerprint)):
        return dataclasses.replace(reused, skipped=tuple(skipped))

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        table, texts, counts = _gather(found, settings, partial / "texts.arrow")
        score = _score(table, texts, settings)
        held = split.heldout(table["hash"].to_pylist(), settings.heldout)
        counts |= {"heldout": int(held.sum())}
        if held.all():
            raise PrepareError(f"--heldout={settings.heldout}: holds out all {len(held)} documents, none is left to train on; lower it")
        if tokenizer is None:
            tokenizer = _train(table, texts, ~held, settings)
            tokenizer_json = tokenizer.to_str()
        eod = tokenizers.end_of_document(tokenizer, settings.end_of_document)
        recorded = dataclasses.asdict(settings) | {"tokenizer": bool(settings.tokenizer)}  # no path of this machine
        facts = {"fingerprint": fingerprint, "counts": counts, "settings": recorded}
        size = sum(table["size"].to_numpy())
        with tqdm(total=int(size), desc="tokenise", unit="B", unit_scale=True, disable=None) as bar:
            for side, members in zip(SIDES, (~held, held), strict=True):
                if not members.any():
                    continue
                rows = np.flatnonzero(members)
                write.write(
                    partial / side, ids=lambda i, rows=rows: table["id"][int(rows[i])].as_py(), text=lambda i, rows=rows: texts(rows[i]),
                    quality=score[rows], hashes=table["hash"].take(pa.array(rows)).to_pylist(), tokenizer=tokenizer,
                    tokenizer_json=tokenizer_json, eod=eod, scored=not settings.unscored, seed=settings.seed, inputs=checksums,
                    facts=facts, compression=settings.compression, progress=bar.update,
                )  # fmt: skip
        (partial / "texts.arrow").unlink()
        store.replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    heldout = store.open_store(folder / "heldout") if held.any() else None
    return Result(store.open_store(folder / "train"), heldout, False, tuple(skipped))


def _checksums(found: list[read.Input]) -> dict[str, str]:
    # Files of one name in two folders are told apart by their content, so that the order of the folders does not matter.
    checksums: dict[str, str] = {}
    for name, digest in sorted((input.name, input.checksum()) for input in tqdm(found, desc="checksums", disable=None, delay=2)):
        checksums[name if name not in checksums else f"{name} ({digest[:12]})"] = digest
    return checksums


def _fingerprint(settings: Settings, checksums: dict[str, str], tokenizer_json: str) -> str:
    facts = dataclasses.asdict(settings) | {"tokenizer": store.fingerprint(tokenizer_json)}
    return hashlib.sha256(json.dumps([VERSION, store.SCHEMA, facts, checksums], sort_keys=True).encode()).hexdigest()


def opened(folder: Path, fingerprint: str = "") -> Result | None:
    """The stores of a prepared source, or None if they do not open or were made from other input or settings (`fingerprint`)."""
    try:
        train = store.open_store(folder / "train")
        if fingerprint and train.manifest.facts.get("fingerprint") != fingerprint:
            return None
        heldout = store.open_store(folder / "heldout") if train.manifest.facts["counts"]["heldout"] else None
    except store.StoreError:
        return None
    return Result(train, heldout, True)


def _gather(found: list[read.Input], settings: Settings, spill: Path):
    """Reads, normalises and de-duplicates: (table of id, quality, hash, size, row), function row -> text, counts."""
    fields = read.Fields(settings.text_field, settings.quality_field, settings.id_field)
    kept, counts = [], {"read": 0, "empty": 0, "without_quality": 0, "duplicates": 0}
    schema = pa.schema([("text", pa.large_string())])
    with (
        pa.OSFile(str(spill), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
        tqdm(total=sum(input.size() for input in found), desc="read", unit="B", unit_scale=True, disable=None) as bar,
    ):
        for input in found:
            for raw in read.read(input, fields):
                table = normalise.normalise(raw)
                counts["read"] += raw.num_rows
                counts["empty"] += raw.num_rows - table.num_rows
                if settings.quality_field:
                    valid = np.isfinite(table["quality"].to_numpy())
                    if not valid.all() and settings.missing_quality == "error":
                        name = table["id"][int(np.flatnonzero(~valid)[0])].as_py()
                        raise PrepareError(f"{input.path}: document {name} has no finite {settings.quality_field}; "
                                           "fill the field or drop such documents with --missing_quality=drop")  # fmt: skip
                    counts["without_quality"] += int((~valid).sum())
                    table = table.filter(pa.array(valid))
                if table.num_rows:
                    writer.write_batch(table.select(["text"]).combine_chunks().to_batches()[0])
                    kept.append(table.drop_columns("text").append_column("size", pc.binary_length(table["text"])))
            bar.update(input.size())
    if not kept:
        raise PrepareError(f"no text in {counts['read']} rows of field {settings.text_field!r}; check --input and --text_field")
    starts = np.concatenate([[0], np.cumsum([table.num_rows for table in kept])])
    table = pa.concat_tables(kept)
    table = table.append_column("row", pa.array(np.arange(table.num_rows)))
    survivors = deduplicate.survivors(table)
    counts["duplicates"] = table.num_rows - len(survivors)
    table = table.take(pa.array(survivors)).combine_chunks()
    reader = pa.ipc.open_file(pa.memory_map(str(spill)))
    batches = [reader.get_batch(i).column(0) for i in range(reader.num_record_batches)]
    rows = table["row"].to_numpy()

    def text(document: int) -> str:
        batch = int(np.searchsorted(starts, rows[document], side="right")) - 1
        return batches[batch][int(rows[document] - starts[batch])].as_py()

    return table, text, counts


def _score(table: pa.Table, texts, settings: Settings) -> np.ndarray:
    if settings.unscored:
        return np.zeros(table.num_rows)
    if settings.quality_field:
        return table["quality"].to_numpy()
    every = tqdm(range(table.num_rows), desc="score", unit="doc", disable=None, delay=2)
    return np.array([quality.score(texts(document), settings.kind) for document in every])


def _train(table: pa.Table, texts, members: np.ndarray, settings: Settings):
    # A sample by hash: the same whatever the order of the input.
    rows, sizes, hashes = np.flatnonzero(members), table["size"].to_numpy(), table["hash"].to_pylist()
    rows = sorted(rows, key=lambda row: hashes[row])
    enough = int(np.searchsorted(np.cumsum(sizes[rows]), settings.sample_bytes)) + 1
    return tokenizers.train((texts(row) for row in tqdm(rows[:enough], desc="train tokenizer", disable=None, delay=2)), settings.vocabulary)


def summary(name: str, result: Result) -> str:
    """A table of what was read, kept and written, and the quality at quantiles of token mass."""
    counts, train = result.train.manifest.facts["counts"], result.train
    lines = [f"{name}: {'up to date' if result.reused else 'prepared'}"]
    lines.append(f"  documents read {counts['read']:>12,}   empty {counts['empty']:,}   duplicates removed {counts['duplicates']:,}"
                 f"   without quality {counts['without_quality']:,}   held out {counts['heldout']:,}")  # fmt: skip
    lines.append(f"  {'':<9}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for side in filter(None, (train, result.heldout)):
        size = side.manifest.bytes
        lines.append(f"  {Path(side.folder).name:<9}{side.manifest.documents:>12,}{side.tokens:>16,}{size:>16,}{size / side.tokens:>13.2f}")
    if train.scored:
        marks = np.linspace(0, 1, 6)
        documents = train.document_at(np.minimum((marks * train.tokens).astype(np.int64), train.tokens - 1))
        shown = "  ".join(f"{mark:.0%} {train.documents.quality[at]:.4g}" for mark, at in zip(marks, documents, strict=True))
        lines.append(f"  quality at token mass   {shown}")
    else:
        lines.append("  unscored: documents are in the order of a seeded hash")
    lines.append(f"  tokenizer {train.vocabulary:,} entries, fingerprint {train.fingerprint[:12]}; end of document {train.eod}")
    if result.heldout is None:
        lines.append("  nothing was held out: raise --heldout if the source is to be evaluated")
    if result.skipped:
        lines.append(f"  {len(result.skipped)} files are not text and were left out: {', '.join(result.skipped[:5])}")
    return "\n".join(lines)
