"""What decides the bytes of a prepared source, apart from the input."""

import dataclasses
import difflib
import json
from pathlib import Path

import pyarrow.parquet as pq

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import clean, minhash, read, score


class PrepareError(UserError):
    """Settings or input that give no store; one line with what to do."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of the same names in launch/prepare_data.py."""

    # Read
    text_field: str = "text"
    quality_field: str = ""  # a score that came with the data
    id_field: str = ""  # empty: the hash of the text
    metadata_fields: tuple[str, ...] = ()  # kept in the document table
    max_document_bytes: int = 64 << 20  # longer ones are lost
    max_loss: float = 0.01  # share of input bytes in files that cannot be read, and of rows that are lost, above which the job fails
    # Clean and filter
    rules: tuple[str, ...] = ()  # names of rule sets
    mask: tuple[str, ...] = ()  # kinds of personal data
    languages: tuple[str, ...] = ()  # kept; empty: all
    evaluation_sets: tuple[str, ...] = ()  # files whose texts must not be in the store
    evaluation_field: str = "text"  # of their rows
    # De-duplicate
    near_duplicates: bool = True
    near_threshold: float = 0.7  # Jaccard similarity of n-grams that bands of MinHash values are chosen for
    near_permutations: int = 128
    near_ngram: int = 5  # words
    against: tuple[str, ...] = ()  # prepared sources whose documents win over this one's
    # Score
    scores: tuple[str, ...] = ()  # scorers; see score.py
    sort_by: str = ""  # quality, or the name of a score; empty: quality_field if given, else the first of scores, else the heuristic
    unscored: bool = False  # no score at all: the order is the seeded hash
    missing_quality: str = "error"  # error | drop: documents without the score that they are sorted by
    kind: str = ""  # prose | code | chinese for the heuristic; empty: guessed for each document
    # Tokenise and write
    tokenizer: str = ""  # tokenizer.json or a folder with one; empty: train one
    end_of_document: str = ""  # its special token that ends documents; empty: the first usual one
    vocabulary: int = 8192  # of a trained tokenizer
    model_vocabulary: int = 0  # of the model that will read the store, if known: the tokenizer must fit it
    sample_bytes: int = 32 << 20  # text that a tokenizer is trained on
    heldout: float = 0.01  # share of documents held out
    seed: int = 0  # of the order among equal scores
    compression: int = 0  # zstd level of the tokens, 0 for none

    @property
    def fields(self) -> read.Fields:
        return read.Fields(self.text_field, self.quality_field, self.id_field, self.metadata_fields)

    @property
    def limits(self) -> read.Limits:
        return read.Limits(document_bytes=self.max_document_bytes)

    @property
    def cleaning(self) -> clean.Options:
        return clean.Options(self.rules, self.mask, self.languages)

    @property
    def near(self) -> minhash.Options:
        return minhash.Options(self.near_ngram, self.near_permutations, self.near_threshold)

    @property
    def scorers(self) -> tuple[str, ...]:
        """The scorers asked for, or the heuristic if nothing else gives an order."""
        if self.scores or self.quality_field or self.unscored:
            return self.scores
        return (f"heuristic:{self.kind}" if self.kind else "heuristic",)

    @property
    def sort_column(self) -> str:
        """Column of the documents that they are sorted by; empty if unscored."""
        if self.unscored:
            return ""
        if self.sort_by:
            return "quality" if self.sort_by == "quality" else f"score.{self.sort_by}"
        return "quality" if self.quality_field else f"score.{score.parse(self.scorers[0]).name}"


def near_of(path: Path) -> dict:
    """The options that the bands of a fingerprints.parquet were made with."""
    return json.loads((pq.read_schema(path).metadata or {}).get(b"near", b"{}"))


def check(settings: Settings) -> None:
    """Raises `PrepareError` with every problem of the settings, one line each."""
    problems = []
    if not 0 <= settings.heldout < 1:
        problems.append(f"--heldout={settings.heldout}: must be a share in [0, 1)")
    if not 0 <= settings.max_loss <= 1:
        problems.append(f"--max_loss={settings.max_loss}: must be a share in [0, 1]")
    if settings.missing_quality not in ("error", "drop"):
        problems.append(f"--missing_quality={settings.missing_quality}: must be error or drop")
    if settings.kind not in ("", "prose", "code", "chinese"):
        problems.append(f"--kind={settings.kind}: must be prose, code, chinese, or empty to guess for each document")
    if settings.unscored:
        for name in ("quality_field", "scores", "sort_by"):
            if value := getattr(settings, name):
                shown = ",".join(value) if isinstance(value, tuple) else value
                problems.append(f"--unscored with --{name}={shown}: give one of the two")
    if not settings.tokenizer and settings.vocabulary < 257:
        problems.append(f"--vocabulary={settings.vocabulary}: must be at least 257 (256 bytes and the end of a document)")
    if not settings.tokenizer and 0 < settings.model_vocabulary < settings.vocabulary:
        problems.append(f"--vocabulary={settings.vocabulary} with --model_vocabulary={settings.model_vocabulary}: the tokenizer must not "
                        "have more entries than the model; lower --vocabulary or raise the model's")  # fmt: skip
    if not 0 <= settings.compression <= 19:
        problems.append(f"--compression={settings.compression}: must be a zstd level from 0 (none) to 19")
    if settings.max_document_bytes < 1024:
        problems.append(f"--max_document_bytes={settings.max_document_bytes}: must be at least 1024")
    if not settings.text_field:
        problems.append("--text_field is empty: must name the field that holds the text")
    if not 0 < settings.near_threshold < 1:
        problems.append(f"--near_threshold={settings.near_threshold}: must be between 0 and 1")
    if not 1 <= settings.near_permutations <= 1024:
        problems.append(f"--near_permutations={settings.near_permutations}: must be from 1 to 1024")
    if settings.near_ngram < 1:
        problems.append(f"--near_ngram={settings.near_ngram}: must be at least 1 word")
    for folder in settings.against if not problems else ():
        path = Path(folder) / "fingerprints.parquet"
        if not path.is_file():
            problems.append(f"--against={folder}: no fingerprints.parquet there; name the output of a preparation with near duplicates")
        elif settings.near_duplicates and near_of(path) != (asked := dataclasses.asdict(settings.near)):
            problems.append(f"--against={folder}: its near duplicates were found with {near_of(path)}, not {asked}; prepare both alike")
    for item in settings.evaluation_sets:
        try:
            read.find([item])
        except read.ReadError as error:
            problems.append(str(error).replace("--input=", "--evaluation_sets=", 1))
    if settings.sample_bytes < 1:
        problems.append(f"--sample_bytes={settings.sample_bytes}: must be at least 1")
    if not -(2**63) <= settings.seed < 2**63:
        problems.append(f"--seed={settings.seed}: must fit 64 bits")
    problems += clean.problems(settings.cleaning) + score.problems(settings.scores)
    if not problems and "quality" in [score.parse(spec).name for spec in settings.scores]:
        problems.append("--scores: a score cannot be called quality, which is the one that came with the data; name it otherwise")
    if not problems and settings.sort_by:
        known = ["quality"] * bool(settings.quality_field) + [score.parse(spec).name for spec in settings.scorers]
        if settings.sort_by not in known:
            near = difflib.get_close_matches(settings.sort_by, known, 1)
            problems.append(f"--sort_by={settings.sort_by}: no such score; there is {', '.join(known) or 'none'}"
                            + (f" (did you mean {near[0]}?)" if near else ""))  # fmt: skip
    if problems:
        raise PrepareError("\n".join(problems))
