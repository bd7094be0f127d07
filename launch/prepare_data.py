"""Prepares one source of text into quality-sorted token stores.

    python launch/prepare_data.py --input=my.parquet --text_field=text --quality_field=score --output=stores/my
    python launch/prepare_data.py --input='data/*.jsonl.gz' --text_field=content --tokenizer=stores/my/train --output=stores/other
    python launch/prepare_data.py --input=hf://datasets/roneneldan/TinyStories/data --rules=web_en --languages=en --output=stores/stories
    python launch/prepare_data.py --engine=ray --ray_address=auto --workers=256 --input=/shared/raw --output=/shared/stores/web

Writes <output>/train, <output>/heldout, <output>/report.html and what later sources need to be de-duplicated --against this one. Sources
that are to be mixed must share one tokenizer: train it on the first (or on a sample of all) and give it to the others. The same command
goes on after a kill; once done it says "up to date". On a cluster, input and output must be on paths that every worker sees.
"""

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import engine, pipeline, summary
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings
from kaiyuan_jax.flags import run
from kaiyuan_jax.report import preparation

_DEFAULT = Settings()
INPUT = flags.DEFINE_list("input", None, "Files, patterns, folders or URLs (Parquet, Arrow, .jsonl, .json, .gz, .zst, text).")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the prepared source.")
FORCE = flags.DEFINE_bool("force", False, "Prepare again even if up to date.")
ENGINE = flags.DEFINE_enum("engine", "native", ["native", "ray"], "Worker processes of this machine, or a Ray cluster.")
ADDRESS = flags.DEFINE_string("ray_address", "", "Of a running cluster, such as auto or ray://host:10001; empty: start one here.")
WORKERS = flags.DEFINE_integer("workers", 0, "Tasks at once; 0: one a core.", lower_bound=0)
MEMORY = flags.DEFINE_float("memory", 4.0, "GiB that this machine may use for it; sorting and de-duplication then take more passes.")
UNTIL = flags.DEFINE_enum("until", "", ["", *pipeline.STOPS], "Stop after this step and write the documents as Parquet into --output.")

flags.DEFINE_string("text_field", _DEFAULT.text_field, "Field of the text; dots go into nested fields.")
flags.DEFINE_string("quality_field", _DEFAULT.quality_field, "Field of a quality score that came with the data.")
flags.DEFINE_string("id_field", _DEFAULT.id_field, "Field of the document id; empty: hash of the text.")
flags.DEFINE_list("metadata_fields", [], "Fields to keep in the document table.")
flags.DEFINE_integer("max_document_bytes", _DEFAULT.max_document_bytes, "Longer documents are lost (and counted).")
flags.DEFINE_float("max_loss", _DEFAULT.max_loss, "Share of unreadable input above which the job fails.")
flags.DEFINE_list("rules", [], "Rule sets that clean and filter: web_en, code, chinese (docs/corpus.md).")
flags.DEFINE_list("mask", [], "Personal data to mask: email, phone, key, ip.")
flags.DEFINE_list("languages", [], "Languages to keep, such as en,zh; empty: all, and none is looked at.")
flags.DEFINE_list("evaluation_sets", [], "Files whose texts must not be in the store.")
flags.DEFINE_string("evaluation_field", _DEFAULT.evaluation_field, "Field of their texts.")
flags.DEFINE_bool("near_duplicates", _DEFAULT.near_duplicates, "Remove near duplicates too, not only equal texts.")
flags.DEFINE_float("near_threshold", _DEFAULT.near_threshold, "Jaccard similarity that MinHash bands are chosen for.")
flags.DEFINE_integer("near_permutations", _DEFAULT.near_permutations, "MinHash values of a document; 128 at 0.7: 14 bands of 9.")
flags.DEFINE_integer("near_ngram", _DEFAULT.near_ngram, "Words in an n-gram.")
flags.DEFINE_list("against", [], "Outputs of earlier preparations; what they hold is removed here.")
flags.DEFINE_list("scores", [], "Scorers: heuristic[:kind], fasttext:model.bin:label, onnx:folder[:label], file:scores.parquet:column.")
flags.DEFINE_string("sort_by", _DEFAULT.sort_by, "quality or a score's name; empty: quality_field, else the first score, else heuristic.")
flags.DEFINE_bool("unscored", _DEFAULT.unscored, "Use no quality score; the order is a seeded hash.")
flags.DEFINE_enum("missing_quality", _DEFAULT.missing_quality, ["error", "drop"], "Documents whose quality is null or not finite.")
flags.DEFINE_enum("kind", _DEFAULT.kind, ["", "prose", "code", "chinese"], "Kind of text for the heuristic score; empty: guessed.")
flags.DEFINE_string("tokenizer", _DEFAULT.tokenizer, "tokenizer.json or a folder with one; empty: train a byte-level BPE.")
flags.DEFINE_string("end_of_document", _DEFAULT.end_of_document, "Special token that ends documents; empty: the first usual one.")
flags.DEFINE_integer("vocabulary", _DEFAULT.vocabulary, "Entries of a trained tokenizer.")
flags.DEFINE_integer("model_vocabulary", _DEFAULT.model_vocabulary, "Entries of the model's embedding, to check the tokenizer; 0: unknown.")
flags.DEFINE_integer("sample_bytes", _DEFAULT.sample_bytes, "Bytes of text that a tokenizer is trained on.")
flags.DEFINE_float("heldout", _DEFAULT.heldout, "Share of documents held out, by the hash of their text.")
flags.DEFINE_integer("seed", _DEFAULT.seed, "Of the order among equal scores.")
flags.DEFINE_integer("compression", _DEFAULT.compression, "zstd level of the tokens; 0 for none.")


def settings() -> Settings:
    values = {name: flags.FLAGS[name].value for name in Settings.__dataclass_fields__}
    return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def main(argv: list[str]) -> None:
    del argv
    for name, example in (("input", "my.parquet"), ("output", "stores/my")):
        if not flags.FLAGS[name].value:
            raise PrepareError(f"--{name}: missing; give one, such as --{name}={example}")
    if MEMORY.value < 0.25:
        raise UserError(f"--memory={MEMORY.value}: must be at least 0.25 (GiB)")
    inputs = INPUT.value
    started = engine.start(ENGINE.value, workers=WORKERS.value, memory=int(MEMORY.value * 2**30), address=ADDRESS.value)
    if UNTIL.value:
        pipeline.export(inputs, OUTPUT.value, settings(), UNTIL.value, engine=started)
        print(f"{OUTPUT.value}: documents as Parquet, with their manifest")
        return
    result = pipeline.prepare(inputs, OUTPUT.value, settings(), engine=started, force=FORCE.value)
    print(summary.text(OUTPUT.value, result))
    print(f"  report {preparation.build([OUTPUT.value], f'{OUTPUT.value}/report.html')}")


if __name__ == "__main__":
    run(main)
