"""Reads a Hugging Face checkpoint: python launch/import_hf.py --checkpoint=Qwen3-0.6B --output=runs/qwen3 [--like=runs/x]

Makes the folder of a run that was not trained here: config.json, the tokenizer, and the weights as averages/imported, which
launch/evaluate.py, launch/generate.py and launch/export_hf.py take as --model=runs/qwen3/averages/imported. With --like the data and
evaluation settings of another run are taken over, so that the imported model is evaluated on that run's stores.

Only safetensors and JSON are read, and no code of the checkpoint is run. A checkpoint whose names no table knows is refused with the
list of them; --names gives a table. Memory is that of the model, twice.
"""

import os
from pathlib import Path

from absl import flags

from kaiyuan_jax import config, storage
from kaiyuan_jax.flags import run

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the checkpoint, on this machine.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder of the run to make.", required=True)
PARAMETERS = flags.DEFINE_enum("parameters", "float32", ["float32", "bfloat16"], "Dtype to keep; float32 is exact for every checkpoint.")
NAMES = flags.DEFINE_string("names", "", "JSON table of the checkpoint's names (docs/hugging_face.md); empty: the known ones are tried.")
LOGIT_SOFTCAP = flags.DEFINE_float("logit_softcap", None, "Cap of the logits where config.json does not name it; 0: none.", 0)
TOKENIZER = flags.DEFINE_string("tokenizer", "", "tokenizer.json or a folder that holds one; empty: the checkpoint's.")
LIKE = flags.DEFINE_string("like", "", "Run folder whose data and evaluation settings to take over.")


def main(argv):
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from kaiyuan_jax import files
    from kaiyuan_jax.data.prepare import tokenizer as tokenizers
    from kaiyuan_jax.models.hf import names, read, tokenizer_files, write
    from kaiyuan_jax.training import checkpoint

    target = Path(OUTPUT.value)
    if target.exists() or not target.parent.is_dir():
        raise config.UserError(f"--output={target}: must not exist, and lie in a folder that does")
    table = names.read_table(NAMES.value) if NAMES.value else None
    experiment = config.read(storage.path(LIKE.value) / "config.json") if LIKE.value else config.Experiment()
    opened = read.open_folder(CHECKPOINT.value, table, LOGIT_SOFTCAP.value)
    if not TOKENIZER.value and opened.tokenizer is None:
        raise config.UserError(
            f"--checkpoint={CHECKPOINT.value}: holds no tokenizer.json; give one with --tokenizer, or save the tokenizer with "
            "transformers' AutoTokenizer, which writes it"
        )
    tokenizer, text = tokenizers.load(TOKENIZER.value or str(opened.tokenizer))
    if (size := tokenizers.vocabulary(tokenizer)) > opened.model.vocabulary:
        raise config.UserError(f"--tokenizer: has {size:,} tokens, must have at most the {opened.model.vocabulary:,} of the checkpoint")
    experiment.name, experiment.output, experiment.branch = target.name, "", ""
    experiment.model, experiment.precision = opened.model, config.Precision(parameters=PARAMETERS.value)
    if not LIKE.value:
        experiment.data.sequence_length = opened.length
    with write.appearing(target) as making:
        leaves = dict(opened.leaves(PARAMETERS.value))
        count = sum(leaf.size for leaf in leaves.values())
        checkpoint.save_parameters(making / "averages" / "imported", leaves, {"step": 0, "imported_from": str(CHECKPOINT.value)})
        files.replace(making / "config.json", config.to_json(experiment))
        if TOKENIZER.value:
            files.replace(making / tokenizer_files.TOKENIZER, text)
        else:
            tokenizer_files.copy(opened.tokenizer.parent, making)
    for note in opened.notes:
        print(f"note: {note}")
    model = opened.model
    parts = ", ".join(
        [
            f"{model.layers} layers of width {model.width}",
            *(["QK-norm"] * model.qk_norm + ["sandwich norm"] * model.sandwich_norm),
            f"soft-cap {model.logit_softcap:g}" if model.logit_softcap else "no soft-cap",
            "tied" if model.tied else "untied",
        ]
    )
    print(f"{count:,} parameters ({parts}), names as in table {opened.table!r}")
    print(f"written: {target}; the weights are {target / 'averages' / 'imported'}")


if __name__ == "__main__":
    run(main)
