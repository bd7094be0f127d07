"""Prints the documents of any batch of a run: `python launch/show_batch.py --config=configs/x.py --step=100 --rows=8`.

Nothing is replayed: batch k is computed from the configuration and k, for a step of the past or of the future.
"""

from absl import flags as absl_flags

from kaiyuan_jax import flags
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.data import loader, provenance, recipe

CONFIG = flags.define_config()
STEP = absl_flags.DEFINE_integer("step", 0, "Step whose batch is shown, from 0.", lower_bound=0)
ROWS = absl_flags.DEFINE_integer("rows", 8, "Rows shown, spread over the batch.", lower_bound=1)
TEXT_CHARS = absl_flags.DEFINE_integer("text_chars", 80, "Characters of text shown per document; 0 shows none.", lower_bound=0)


def main(_):
    experiment = flags.checked(CONFIG)
    data = experiment.data
    stores = loader.open_stores(data)
    plan = recipe.resolve(data, *recipe.facts_of(data))
    if STEP.value >= plan.steps:
        raise ConfigError(f"--step: found {STEP.value}, this plan has steps 0 to {plan.steps - 1}")
    count = min(ROWS.value, plan.batch_size)
    rows = [i * plan.batch_size // count for i in range(count)]
    print(f"step {STEP.value} of {plan.steps}: {count} of {plan.batch_size} rows of {plan.sequence_length} tokens")
    by_name = dict(zip(plan.sources, stores, strict=True))
    for row in provenance.trace(plan, stores, STEP.value, rows):
        print(f"\nrow {row.row}  {row.phase} / {row.source}  sequence {row.sequence}  quantile {row.quantile:.4f}  pass {row.pass_ + 1}")
        for piece in row.pieces:
            print(
                f"    {piece.id}  score {piece.quality:.6g}  quantile {piece.quantile:.4f}  "
                f"tokens {piece.begin} to {piece.begin + piece.tokens - 1}"
            )
            if TEXT_CHARS.value:
                print(f"        {text_of(by_name[row.source], piece, TEXT_CHARS.value)}")


def text_of(store, piece, characters: int) -> str:
    """The beginning of what the row shows of a document, on one line."""
    start = int(store.documents.offset[piece.document]) + piece.begin
    tokens = store.read(start, start + min(piece.tokens, characters))  # a token is rarely less than one character
    return " ".join(store.tokenizer().decode(tokens.tolist()).split())[:characters]


if __name__ == "__main__":
    flags.run(main)
