"""Scores documents by the loss of one of our models, or by the difference of two.

    python launch/score_documents.py --input=web/ --model=runs/ordinary --minus=runs/good --output=scores.parquet
    python launch/prepare_data.py --input=web/ --scores=file:scores.parquet:difference --output=stores/web

--model and --minus: a run (its newest checkpoint), RUN/checkpoints/STEP or RUN/averages/NAME. The output has one row a distinct pair of
text and id, in the order of the texts' hashes, however the input lies in files:

    hash        binary(16), names the normalised text
    id          of the document, null where no field gives one
    loss        bits per byte under --model (kaiyuan_jax/evaluation/document_loss.py)
    minus       bits per byte under --minus, and
    difference  loss - minus: both only where --minus is given

Stores sort ascending, the best last: so what the model of --minus finds likelier than the other does comes last, as in the example.
Finished pieces of the input are kept in OUTPUT.partial/, so a killed job goes on where it was; the output appears when it is whole.
"""

import pathlib

from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.flags import run

INPUT = flags.DEFINE_list("input", None, "Files, patterns or folders, as of launch/prepare_data.py.", required=True)
MODEL = flags.DEFINE_string("model", None, "Folder of a run, checkpoint or average.", required=True)
MINUS = flags.DEFINE_string("minus", "", "Another one, whose loss is subtracted.")
OUTPUT = flags.DEFINE_string("output", None, "The scores, such as scores.parquet.", required=True)
TEXT_FIELD = flags.DEFINE_string("text_field", "text", "Field of the text; dots go into nested fields.")
ID_FIELD = flags.DEFINE_string("id_field", "", "Field of the document id; empty: none.")
MOST_TOKENS = flags.DEFINE_integer("most_tokens", 0, "Tokens of each document that are looked at; 0: all.", lower_bound=0)
END = flags.DEFINE_string("end_of_document", "", "Special token that ends documents; empty: the first usual one.")


def main(argv):
    del argv
    if not OUTPUT.value.endswith(".parquet"):
        raise config.UserError(f"--output={OUTPUT.value}: must end in .parquet")
    from kaiyuan_jax.data.prepare import read
    from kaiyuan_jax.data.prepare.tally import Tally
    from kaiyuan_jax.evaluation import score_file
    from kaiyuan_jax.training import trained

    inputs, _ = read.find(INPUT.value)
    models = {"loss": trained.find("--model", MODEL.value)} | ({"minus": trained.find("--minus", MINUS.value)} if MINUS.value else {})
    scorers = {name: load(*model) for name, model in models.items()}
    settings = {name: [str(path.absolute()), path.stat().st_mtime_ns] for name, (_, path) in models.items()}
    settings |= {"most_tokens": MOST_TOKENS.value, "end": END.value}
    tally = Tally()
    table = score_file.write(OUTPUT.value, inputs, read.Fields(text=TEXT_FIELD.value, id=ID_FIELD.value), scorers, settings, tally)
    if lost := tally.counts.get("read: rows lost", 0):
        print(f"{lost:,} rows read now gave no text (--text_field={TEXT_FIELD.value})")
    print(describe(table))
    print(f"written: {OUTPUT.value}")


def load(folder: pathlib.Path, path: pathlib.Path):
    """The function of `document_loss.scorer` for one model."""
    from kaiyuan_jax.data.prepare import tokenizer as tokenizers
    from kaiyuan_jax.evaluation import document_loss
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import trained

    experiment = config.from_json((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer, _ = tokenizers.load(folder / "tokenizer.json")
    eod = tokenizers.end_of_document(tokenizer, END.value)
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    params = trained.weights(path, abstract)
    return document_loss.scorer(experiment, params, tokenizer, eod=eod, most_tokens=MOST_TOKENS.value)


def describe(table) -> str:
    """Quantiles of each column, for the terminal."""
    import pyarrow.compute as pc

    lines = [f"{len(table):,} documents", f"{'':<12}{'10%':>10}{'50%':>10}{'90%':>10}"]
    for name in table.column_names[2:]:
        low, middle, high = pc.quantile(table[name], q=[0.1, 0.5, 0.9]).to_pylist()
        lines.append(f"{name:<12}" + "".join(f"{value:>10.4f}" if value is not None else f"{'-':>10}" for value in (low, middle, high)))
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
