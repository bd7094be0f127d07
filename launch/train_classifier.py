"""Trains a fastText classifier of text quality from two folders and writes it as a .bin that the fastText library reads.

    python launch/train_classifier.py --positive=good/ --negative=ordinary.parquet --output=models/quality.bin
    python launch/prepare_data.py --input=web/ --scores=quality=fasttext:models/quality.bin:positive --output=stores/web

Folders, files and fields are read as by launch/prepare_data.py. Texts are normalised first, and each distinct text is taken once; a text
that is in both is taken in neither. Of each label the --documents texts whose hashes are smallest are kept, a sample that does not
depend on how the text lies in files, and of these a share is held out to be measured: the documents that stores hold out too. Beside the
model stands a .json with what was measured.
"""

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import fasttext_model, normalise, read, split
from kaiyuan_jax.data.prepare.tally import Tally
from kaiyuan_jax.flags import run

_DEFAULT = fasttext_model.Options()
POSITIVE = flags.DEFINE_list("positive", [], "Files, patterns or folders of the texts that are to score high.")
NEGATIVE = flags.DEFINE_list("negative", [], "Files, patterns or folders of ordinary texts.")
OUTPUT = flags.DEFINE_string("output", None, "The model, such as models/quality.bin.")
TEXT_FIELD = flags.DEFINE_string("text_field", "text", "Field of the text; dots go into nested fields.")
LABELS = flags.DEFINE_list("labels", ["positive", "negative"], "Names of the two labels.")
DOCUMENTS = flags.DEFINE_integer("documents", 100_000, "Most documents of each label; all texts taken are held in memory.", lower_bound=2)
HELDOUT = flags.DEFINE_float("heldout", 0.1, "Share of the documents that accuracy is measured on.")
flags.DEFINE_integer("dimension", _DEFAULT.dimension, "Size of the hidden vector.")
flags.DEFINE_integer("word_ngrams", _DEFAULT.word_ngrams, "Longest runs of words that are features; 1 for single words only.")
flags.DEFINE_integer("buckets", _DEFAULT.buckets, "Rows that runs of words are hashed into.")
flags.DEFINE_integer("min_count", _DEFAULT.min_count, "Words that are rarer are no features of their own.")
flags.DEFINE_integer("epochs", _DEFAULT.epochs, "Passes over the training texts.")
flags.DEFINE_float("rate", _DEFAULT.rate, "First learning rate; it falls linearly to 0.")
flags.DEFINE_integer("seed", _DEFAULT.seed, "Of the first weights and the order of the documents.")

PIECE_BYTES = 64 << 20


def main(argv: list[str]) -> None:
    del argv
    options = fasttext_model.Options(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(fasttext_model.Options)})
    check(options)
    began = time.perf_counter()
    found = [inputs(flag.value) for flag in (NEGATIVE, POSITIVE)]  # before anything is read
    tally = Tally()
    texts = [sample(*pair, DOCUMENTS.value, tally) for pair in zip(("negative", "positive"), found, strict=True)]
    shared = texts[0].keys() & texts[1].keys()
    rows = sorted((digest, label, text) for label in (0, 1) for digest, text in texts[label].items() if digest not in shared)
    out = split.heldout([digest for digest, _, _ in rows], HELDOUT.value)
    labels = np.array([label for _, label, _ in rows], np.int64)
    names = [LABELS.value[1], LABELS.value[0]]
    learnt = [rows[place][2] for place in np.flatnonzero(~out)]
    model = fasttext_model.train(learnt, labels[~out], names, options, progress=True)
    held = model.probabilities(tqdm([rows[place][2] for place in np.flatnonzero(out)], "held out", disable=None))[:, 1]
    measured = fasttext_model.measure(held, labels[out])
    fasttext_model.save(model, OUTPUT.value)
    facts = {
        "labels": {LABELS.value[0]: POSITIVE.value, LABELS.value[1]: NEGATIVE.value},
        "trained_on": dict(zip(names, map(int, model.documents), strict=True)),
        "in_both_and_left_out": len(shared),
        "rows_lost": tally.counts.get("read: rows lost", 0),
        "held_out": measured,
        "words": len(model.words),
        "options": dataclasses.asdict(options),
        "seconds": round(time.perf_counter() - began, 1),
    }
    beside = Path(OUTPUT.value).with_suffix(".json")
    partial = beside.with_name(f".{beside.name}.{os.getpid()}")
    partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(beside)
    print(describe(facts))
    print(f"written: {OUTPUT.value}, {beside}; score with --scores=fasttext:{OUTPUT.value}:{LABELS.value[0]}")


def check(options: fasttext_model.Options) -> None:
    """Raises UserError with every mistake of the flags, one line each."""
    problems = options.problems()
    for flag, example in ((POSITIVE, "good/"), (NEGATIVE, "ordinary/"), (OUTPUT, "models/quality.bin")):
        if not flag.value:
            problems.append(f"--{flag.name}: missing; give one, such as --{flag.name}={example}")
    if OUTPUT.value and not OUTPUT.value.endswith(".bin"):
        problems.append(f"--output={OUTPUT.value}: must end in .bin, as fastText models do")
    if not 0 <= HELDOUT.value < 1:
        problems.append(f"--heldout={HELDOUT.value}: must be a share in [0, 1)")
    if len(set(LABELS.value)) != 2 or any(not name or any(sign.isspace() or sign in "\0:,=" for sign in name) for name in LABELS.value):
        problems.append(f"--labels={','.join(LABELS.value)}: must be two different names without blanks, colons and =")
    if problems:
        raise UserError("\n".join(problems))


def inputs(items: list[str]) -> list[read.Input]:
    found, _ = read.find(items)
    return found


def sample(label: str, found: list[read.Input], most: int, tally: Tally) -> dict[bytes, str]:
    """The `most` distinct normalised texts with the smallest hashes, by hash."""
    texts: dict[bytes, str] = {}
    for input in tqdm(found, f"reading {label}", unit=" files", disable=None):
        for piece in read.pieces(input, PIECE_BYTES):
            for table in read.read(piece, read.Fields(text=TEXT_FIELD.value), read.Limits(), tally):
                for text in map(normalise.normalise_text, table["text"].to_pylist()):
                    if text:
                        texts[normalise.text_hash(text)] = text
                if len(texts) > 2 * most:
                    texts = {digest: texts[digest] for digest in sorted(texts)[:most]}
    return {digest: texts[digest] for digest in sorted(texts)[:most]}


def describe(facts: dict) -> str:
    """What was measured, for the terminal."""
    held = facts["held_out"]
    lines = [f"trained on {', '.join(f'{count:,} {name}' for name, count in facts['trained_on'].items())}; {facts['words']:,} words"]
    if facts["in_both_and_left_out"]:
        lines.append(f"{facts['in_both_and_left_out']:,} texts are in both and were left out")
    if facts["rows_lost"]:
        lines.append(f"{facts['rows_lost']:,} rows gave no text (--text_field={TEXT_FIELD.value})")
    if held["auc"] is not None:
        shown = f"accuracy {held['accuracy']:.4f} (always the commoner label: {held['majority']:.4f}), AUC {held['auc']:.4f}"
        lines.append(f"held out, {held['documents']:,} documents: {shown}")
    else:
        lines.append("held out: too few documents to measure; raise --heldout or give more text")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
