"""Prepares one source of text into quality-sorted token stores.

    python launch/prepare_data.py --input=my.parquet --text_field=text --quality_field=score --output=stores/my
    python launch/prepare_data.py --input='data/*.jsonl.gz' --text_field=content --tokenizer=stores/my/train --output=stores/other
    python launch/prepare_data.py --input=hf:roneneldan/TinyStories:validation --output=stores/stories

Writes <output>/train and <output>/heldout. Sources that are to be mixed must share one tokenizer: train it on the first (or on a
sample of all) and give it to the others. A second run with the same input and settings says "up to date".
"""

import glob

from absl import flags

from kaiyuan_jax.data.prepare import pipeline
from kaiyuan_jax.flags import run

_DEFAULT = pipeline.Settings()
INPUT = flags.DEFINE_list("input", None, "Files, patterns or folders (Parquet, .jsonl, .json, .gz, .zst, text), or hf:name[:split].")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the prepared source.")
FORCE = flags.DEFINE_bool("force", False, "Prepare again even if up to date.")
flags.DEFINE_string("text_field", _DEFAULT.text_field, "Field of the text; dots go into nested fields.")
flags.DEFINE_string("quality_field", _DEFAULT.quality_field, "Field of the quality score; empty: a heuristic score (docs/corpus.md).")
flags.DEFINE_string("id_field", _DEFAULT.id_field, "Field of the document id; empty: hash of the text.")
flags.DEFINE_enum("missing_quality", _DEFAULT.missing_quality, ["error", "drop"], "Documents whose quality is null or not finite.")
flags.DEFINE_bool("unscored", _DEFAULT.unscored, "Use no quality score; the order is a seeded hash.")
flags.DEFINE_enum("kind", _DEFAULT.kind, ["", "prose", "code", "chinese"], "Kind of text for the heuristic score; empty: guessed.")
flags.DEFINE_string("tokenizer", _DEFAULT.tokenizer, "tokenizer.json or a folder with one; empty: train a byte-level BPE.")
flags.DEFINE_string("end_of_document", _DEFAULT.end_of_document, "Special token that ends documents; empty: the first usual one.")
flags.DEFINE_integer("vocabulary", _DEFAULT.vocabulary, "Entries of a trained tokenizer.")
flags.DEFINE_integer("sample_bytes", _DEFAULT.sample_bytes, "Bytes of text that a tokenizer is trained on.")
flags.DEFINE_float("heldout", _DEFAULT.heldout, "Share of documents held out, by the hash of their text.")
flags.DEFINE_integer("seed", _DEFAULT.seed, "Of the order among equal scores.")
flags.DEFINE_integer("compression", _DEFAULT.compression, "zstd level of the tokens; 0 for none.")


def main(argv: list[str]) -> None:
    del argv
    for name, example in (("input", "my.parquet"), ("output", "stores/my")):
        if not flags.FLAGS[name].value:
            raise pipeline.PrepareError(f"--{name}: missing; give one, such as --{name}={example}")
    settings = pipeline.Settings(**{name: flags.FLAGS[name].value for name in pipeline.Settings.__dataclass_fields__})
    inputs = [match for item in INPUT.value for match in (sorted(glob.glob(item)) or [item])]
    result = pipeline.prepare(inputs, OUTPUT.value, settings, force=FORCE.value)
    print(pipeline.summary(OUTPUT.value, result))


if __name__ == "__main__":
    run(main)
