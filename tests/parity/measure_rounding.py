"""What storing a model in Gemma3's files does to its logits: python tests/parity/measure_rounding.py

A random model of Kaiyuan's form is written in each dtype and read back without corrections, so with the values that other programs
compute with, and its float32 logits are held against the original's; beside it the same values rounded to that dtype without folding.
"""

import json
import pathlib
import tempfile

import jax
import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder
from kaiyuan_jax.models.hf import configs, layout, read, write

MODEL = config.Model(layers=4, width=512, feedforward=768, heads=4, kv_heads=2, head_size=64, vocabulary=1000)
LENGTH = 64


def main() -> None:
    graphdef, abstract = decoder.abstract(MODEL, config.Precision())
    random, size = np.random.default_rng(0), layout.sizes(MODEL)
    leaves = {}
    for path in write.leaf_paths(MODEL):
        shape = layout.leaf_shape(path, size)
        values = random.uniform(0.5, 1.5, shape) if "norm" in path else 0.05 * random.standard_normal(shape)
        leaves[path] = values.astype(np.float32)
    tokens_BL = random.integers(MODEL.vocabulary, size=(1, LENGTH)).astype(np.int32)
    positions_BL = np.arange(LENGTH, dtype=np.int32)[None]

    @jax.jit
    def logits(params):
        model = decoder.merge(graphdef, params)
        return model.logits(model(tokens_BL, np.ones_like(tokens_BL), positions_BL))

    def tree(values):
        return jax.tree.map_with_path(lambda keys, _: values["/".join(key.key for key in keys)], abstract)

    def error(params):
        difference = np.asarray(logits(params)) - exact
        return f"{np.abs(difference).max():.1e} {np.sqrt(np.square(difference).mean()):.1e}"

    exact = np.asarray(logits(tree(leaves)))
    print(f"standard deviation of the logits {exact.std():.2f}; largest difference, root mean square")
    for dtype, kept in read.FLOATS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write.write(folder, MODEL, "gemma3", leaves, leaves.__getitem__, dtype=dtype, shard_bytes=1 << 30)
            (folder / read.CORRECTIONS).unlink(missing_ok=True)
            (folder / "config.json").write_text(json.dumps(configs.to_json(MODEL, "gemma3", dtype=dtype, length=LENGTH, end=None)))
            folded = error(read.load(folder).params)
        rounded = error(tree({path: leaf.astype(kept).astype(np.float32) for path, leaf in leaves.items()}))
        print(f"{dtype:<10} folded {folded}   rounded alone {rounded}")


if __name__ == "__main__":
    main()
