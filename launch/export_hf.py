"""Writes a model for Hugging Face: python launch/export_hf.py --model=runs/x --output=exported/x [--dtype=bfloat16]

--model: a run (its newest checkpoint), RUN/checkpoints/STEP or RUN/averages/NAME. The folder made holds config.json, safetensors cut
into shards, and the tokenizer's files, of an architecture that transformers knows: Qwen3 or Llama for models without sandwich norm and
soft-cap, else Gemma3's text model, where that computes exactly what ours does. Memory is that of the largest leaf, twice; the folder
appears when it is complete. docs/hugging_face.md says what is exact in which dtype, and what other programs make of it.
"""

import json
import os
import shutil
from pathlib import Path

from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.flags import run

MODEL = flags.DEFINE_string("model", None, "Folder of a run, checkpoint or average.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
FORMAT = flags.DEFINE_string("format", "auto", "auto | qwen3 | gemma3 | llama; auto: the first that is exact.")
DTYPE = flags.DEFINE_enum("dtype", "", ["", "float32", "bfloat16", "float16"], "Of the files; empty: as the parameters are stored.")
SHARD_BYTES = flags.DEFINE_integer("shard_bytes", 5_000_000_000, "Most bytes of tensors in a file.", lower_bound=1)
END = flags.DEFINE_string("end_of_document", "", "Special token that ends documents; empty: the first usual one of the tokenizer.")


def main(argv):
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a matter of host memory: an accelerator may be training meanwhile
    from kaiyuan_jax.data.prepare import tokenizer as tokenizers
    from kaiyuan_jax.models.hf import configs, read, tokenizer_files, write
    from kaiyuan_jax.training import checkpoint, trained

    folder, parameters = trained.find("--model", MODEL.value)
    experiment = config.read(folder / "config.json")
    model, dtype = experiment.model, DTYPE.value or experiment.precision.parameters
    form = configs.choose(model, FORMAT.value)
    tokenizer, _ = tokenizers.load(folder / "tokenizer.json")
    end = tokenizers.end_of_document(tokenizer, END.value)
    count = write.count(model)
    target = new_folder(Path(OUTPUT.value), count * read.FLOATS[dtype].itemsize)
    paths, leaf = checkpoint.leaf_reader(*trained.place(parameters))
    with write.appearing(target) as making:
        written = write.write(making, model, form, paths, leaf, dtype=dtype, shard_bytes=SHARD_BYTES.value)
        length = experiment.data.sequence_length
        facts = configs.to_json(model, form, dtype=dtype, length=length, end=end)
        (making / "config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        tokenizer_files.write(folder, making, token=tokenizer.id_to_token(end), end=end, length=length)
    size = f"{count:,} parameters in {len(written.files)} file{'s' * (len(written.files) > 1)}, {written.bytes / 1e9:,.3g} GB"
    print(f"{configs.ARCHITECTURES[form]}, {dtype}: {size}")
    for path, loss in written.losses.items():
        if loss.missed:
            share = f"{loss.missed:,} of {loss.values:,} values"
            print(
                f"  {path}: {share} off by at most {loss.largest:.1e}, {loss.relative:.1e} of their size, in programs that read the files"
            )
    if written.losses:
        kept = "the bits that were exported" if written.exact else f"what the {dtype} files hold"
        print(f"  launch/import_hf.py gives {kept}; llama.cpp computes another model of these files, see docs/hugging_face.md")
    print(f"written: {target}")


def new_folder(target: Path, size: int) -> Path:
    """The folder to make; raises UserError where it exists, where it cannot be made, or where the disk has no room for `size` bytes."""
    if target.exists():
        raise config.UserError(f"--output={target}: exists; name another folder, or delete this one")
    if not target.parent.is_dir():
        raise config.UserError(f"--output={target}: {target.parent} is no folder; make it first")
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise config.UserError(f"--output={target}: needs {size / 1e9:,.3g} GB, {free / 1e9:,.3g} GB are free there; name another disk")
    return target


if __name__ == "__main__":
    run(main)
