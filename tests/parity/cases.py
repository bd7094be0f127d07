"""The tiny models on which our decoder is held against transformers: python tests/parity/cases.py FOLDER

Writes FOLDER/<case>/: a random model of ours as launch/export_hf.py writes it, and `inputs`, the tokens to compute on. Random, but
lively: matrices far larger than at initialisation, gains between 0.3 and 1.7, so that every part shows in the output. Beside them go
FOLDER/tokenizer/, a small tokenizer's files, with texts and their tokens, and FOLDER/harness/, a model with that tokenizer, which
lm-evaluation-harness asks the tasks of harness_tasks/.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import tokenizer
from kaiyuan_jax.models.hf import configs, layout, safetensors_files, tokenizer_files, write

SHAPE = dict(layers=2, width=40, feedforward=24, heads=4, kv_heads=2, head_size=8, vocabulary=64)  # sqrt(40) is no power of two
QWEN3 = dict(sandwich_norm=False, logit_softcap=0.0, rope_base=1e6)
CASES = {
    "qwen3_untied": config.Model(**SHAPE, **QWEN3),
    "qwen3_tied": config.Model(**SHAPE, **QWEN3, tied=True),
    "kaiyuan": config.Model(**SHAPE),
    "kaiyuan_tied_window": config.Model(**SHAPE, tied=True, window=6, logit_softcap=4.0),
}
HARNESS = config.Model(**SHAPE | {"vocabulary": 320})  # more than its tokenizer has
ROWS, LENGTH, PROMPT = 2, 24, 8
TEXTS = ["The cat sat on the mat; 1234 rats did not.", "学而时习之，不亦说乎？", " \n\tdef f(x):  return x**2\n", "a<|endoftext|>b"]


def leaves(model: config.Model, seed: int) -> dict[str, np.ndarray]:
    """Random parameters by path, float32."""
    random, size = np.random.default_rng(seed), layout.sizes(model)
    made = {}
    for path in sorted(write.leaf_paths(model)):
        shape = layout.leaf_shape(path, size)
        values = random.uniform(0.3, 1.7, shape) if "norm" in path else 0.25 * random.standard_normal(shape)
        made[path] = values.astype(np.float32)
    return made


def export(folder: pathlib.Path, model: config.Model, seed: int, **facts) -> str:
    """Writes a random model's config.json and tensors; returns the architecture whose names they have."""
    form, made = configs.choose(model, "auto"), leaves(model, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write.write(folder, model, form, made, made.__getitem__, dtype="float32", shard_bytes=1 << 30)
    content = json.dumps(configs.to_json(model, form, dtype="float32", **facts), indent=1) + "\n"
    (folder / "config.json").write_text(content, encoding="utf-8")
    return form


def main(target: pathlib.Path) -> None:
    for seed, (name, model) in enumerate(CASES.items()):
        folder = target / name
        form = export(folder, model, seed, length=PROMPT + 64, end=None)
        random = np.random.default_rng(100 + seed)
        inputs = {"tokens_BL": (ROWS, LENGTH), "prompt_BL": (ROWS, PROMPT)}
        arrays = {key: random.integers(model.vocabulary, size=shape, dtype=np.int32) for key, shape in inputs.items()}
        safetensors_files.write(folder / "inputs", arrays, {})
        print(f"{folder}: {form}, {write.count(model):,} parameters")

    made = tokenizer.train(TEXTS[:3], 300)
    with tempfile.TemporaryDirectory() as source:
        (pathlib.Path(source) / tokenizer_files.TOKENIZER).write_text(made.to_str(), encoding="utf-8")
        folder, end = target / "tokenizer", made.token_to_id(tokenizer.END)
        folder.mkdir(exist_ok=True)
        export(target / "harness", HARNESS, len(CASES), length=128, end=end)
        for one in (folder, target / "harness"):
            tokenizer_files.write(pathlib.Path(source), one, token=tokenizer.END, end=end, length=128)
    (folder / "tokens.json").write_text(json.dumps({text: made.encode(text).ids for text in TEXTS}), encoding="utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
