"""Continues prompts: python launch/generate.py --model=runs/x --prompt='The sea' --tokens=100 --temperature=0.8 --top_p=0.9

--model: a run (its newest checkpoint), RUN/checkpoints/STEP, RUN/averages/NAME, or the folder of a Hugging Face checkpoint. Prompts are
ordinary text, and no token is put before them; an empty one begins a document. With --output=texts.jsonl one line a text is written,

    {"prompt": ..., "text": ..., "tokens": 57, "ended": true}

in the order of the prompts, each one's --samples together. `ended`: the model ended the document within --tokens. A text depends on its
number in this order and on --seed, not on the prompts beside it. Prompt and text together must fit the length the model was trained on.
"""

import json
import time
from pathlib import Path

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import run

MODEL = flags.DEFINE_string("model", None, "Folder of a run, checkpoint, average or Hugging Face checkpoint.", required=True)
PROMPT = flags.DEFINE_multi_string("prompt", [], "Text to go on from; may be given several times.")
PROMPTS_FILE = flags.DEFINE_string("prompts_file", "", "One prompt a line: .txt as it stands, .jsonl in the field `prompt`.")
SAMPLES = flags.DEFINE_integer("samples", 1, "Texts for each prompt.", lower_bound=1)
TOKENS = flags.DEFINE_integer("tokens", 128, "Most tokens of a text.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.8, "Divides the logits; 0: always the likeliest token.", lower_bound=0)
TOP_P = flags.DEFINE_float("top_p", 1.0, "Draws only from the likeliest tokens that together have this probability.", 0, 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Texts generated at a time.", lower_bound=1)
COMPUTE = flags.DEFINE_enum("compute", "", ["", "float32", "bfloat16", "float16"], "Dtype of products; empty: as trained, or float32.")
END = flags.DEFINE_string("end_of_document", "", "Special token that ends documents; empty: the model's own, or the first usual one.")
OUTPUT = flags.DEFINE_string("output", "", "Where the texts go, such as texts.jsonl; empty: printed.")


def main(argv):
    del argv
    files.check_target("output", OUTPUT.value, ".jsonl")
    if not TOP_P.value:
        raise config.UserError("--top_p=0: must be above 0; for the likeliest token alone use --temperature=0")
    prompts = [prompt for prompt in [*PROMPT.value, *read_prompts(PROMPTS_FILE.value)] for _ in range(SAMPLES.value)]
    if not prompts:
        raise config.UserError("--prompt: found none; give one or more, or --prompts_file")

    import jax

    from kaiyuan_jax.evaluation import generate
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.sharding import mesh, rules
    from kaiyuan_jax.training import trained

    found = trained.load("--model", MODEL.value, end=END.value)
    if TOKENS.value >= found.length:
        raise config.UserError(
            f"--tokens={TOKENS.value}: must be below {found.length}, the length the model was trained on; prompt and text have to fit it"
        )
    if COMPUTE.value:
        found.precision.compute = COMPUTE.value
    graphdef, _ = decoder.abstract(found.model, found.precision)
    found.tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> gets ordinary tokens, as in training
    ids = [encoding.ids or [found.eod] for encoding in found.tokenizer.encode_batch(prompts, add_special_tokens=False)]
    started = time.monotonic()
    texts = generate.generate(
        graphdef,
        decoder.ready(found.params, found.precision),
        ids,
        new_tokens=TOKENS.value,
        window=found.length,
        eod=found.eod,
        vocabulary=found.tokenizer.get_vocab_size(),
        temperature=TEMPERATURE.value,
        top_p=TOP_P.value,
        seed=SEED.value,
        batch_size=BATCH_SIZE.value,
        place=rules.placement(mesh.make_mesh(config.Mesh(data=1), jax.devices()[:1])),
    )
    seconds = time.monotonic() - started
    rows = [
        {"prompt": prompt, "text": found.tokenizer.decode(text), "tokens": len(text), "ended": len(text) < TOKENS.value}
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    if OUTPUT.value:
        files.replace(OUTPUT.value, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        for row in rows:
            print(f"{row['prompt']}|{row['text']}\n")
    count = sum(map(len, texts))
    print(f"{len(rows)} texts, {count:,} tokens in {seconds:.1f} s with compilation" + (f"; written: {OUTPUT.value}" * bool(OUTPUT.value)))


def read_prompts(name: str) -> list[str]:
    """The prompts of --prompts_file; none for an empty name."""
    if not name:
        return []
    if Path(name).suffix not in (".txt", ".jsonl"):
        raise config.UserError(f"--prompts_file={name}: must end in .txt (a prompt a line) or .jsonl (its field `prompt`)")
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise config.UserError(f"--prompts_file={name}: cannot be read as UTF-8 text ({error})") from None
    if Path(name).suffix == ".txt":
        return lines
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            prompts.append(json.loads(line)["prompt"])
        except (ValueError, KeyError, TypeError):
            prompts.append(None)
        if not isinstance(prompts[-1], str):
            raise config.UserError(f"--prompts_file={name}, line {number}: must be a JSON object with a text `prompt`")
    return prompts


if __name__ == "__main__":
    run(main)
