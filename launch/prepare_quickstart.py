"""Prepares the text of the quickstart: four sources that any machine gets with pip alone (docs/corpus.md).

    python launch/prepare_quickstart.py --output=stores/quickstart

Writes <output>/{code,prose,math,chinese}/{train,heldout} and <output>/report.html. A second run with the same flags says "up to date".
"""

from absl import flags

from kaiyuan_jax.data.corpora import quickstart, quickstart_corpus
from kaiyuan_jax.data.prepare import summary
from kaiyuan_jax.flags import run
from kaiyuan_jax.report import preparation

OUTPUT = flags.DEFINE_string("output", "stores/quickstart", "Folder of the prepared sources.")
VOCABULARY = flags.DEFINE_integer("vocabulary", 2048, "Entries of the tokenizer that all sources share.", lower_bound=257)
FORCE = flags.DEFINE_bool("force", False, "Prepare again even if up to date; packages that were fetched are kept.")


def main(argv: list[str]) -> None:
    del argv
    for source, result in quickstart.prepare(OUTPUT.value, VOCABULARY.value, force=FORCE.value).items():
        print(summary.text(source, result))
    folders = [f"{OUTPUT.value}/{source}" for source in quickstart_corpus.SOURCES]
    print(f"report {preparation.build(folders, f'{OUTPUT.value}/report.html')}")


if __name__ == "__main__":
    run(main)
