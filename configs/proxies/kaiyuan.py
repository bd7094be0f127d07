"""The published recipe for small models: `--config=configs/proxies/kaiyuan.py:SIZE` with 10m, 25m, 50m, 100m, 250m or 500m.

Everything that is not named below is configs/kaiyuan_2b.py: stores, five phases, mixture, order, norms, soft-cap, rates, averaging.

Shape. A model of N layers and width D keeps the 2B model's proportions: F = 3 D, query heads that fill the width (H C = D), half as
many key/value heads. A layer then holds 3 D^2 parameters of attention and 9 D^2 of feed-forward, so the model without embeddings is

    12 N D^2 + N (4 D + 2 C) + D

(norms last), which is what the names count, to within 10%. Depth grows with width as in the 2B model, D / N between 55 and 73 (there 73).
Heads are 64 wide, half of the 2B model's, so that small widths have enough of them. The vocabulary is the stores', so two
embeddings of 151,936 D come on top: most of a small model is its embeddings.

               N     D   without embeddings   with
    10m        6   384         10.6M          127M
    25m        8   512         25.2M          181M
    50m       10   640         49.2M          244M
    100m      14   768         99.1M          333M
    250m      16  1152        254.9M          605M
    500m      21  1408        499.7M          928M

Data (ours). About 20 tokens a parameter without embeddings, in batches that make 3,000 to 5,000 steps. A phase gets its share of them,
and every source of it is thinned evenly: mixture, windows and order stay, the counts of repetition shrink with the data.
Two hundred checkpoints, so that the last 8 lie in the second half of phase 5.
"""

import pathlib
import runpy

from kaiyuan_jax import config as c

# size: layers, width, rows a batch
SHAPES = {
    "10m": (6, 384, 16),
    "25m": (8, 512, 32),
    "50m": (10, 640, 64),
    "100m": (14, 768, 128),
    "250m": (16, 1152, 256),
    "500m": (21, 1408, 512),
}
HEAD = 64  # C
TOKENS_PER_PARAMETER = 20
CHECKPOINTS = 200
WARMUP = 100  # steps


def without_embeddings(layers: int, width: int) -> int:
    """Parameters."""
    return 12 * layers * width**2 + layers * (4 * width + 2 * HEAD) + width


def get_config(size: str = "100m") -> c.Experiment:
    if size not in SHAPES:
        raise ValueError(f"size {size!r} unknown, must be one of {', '.join(SHAPES)}")
    layers, width, rows = SHAPES[size]
    published = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "kaiyuan_2b.py"))
    experiment = published["get_config"]()
    data = experiment.data
    experiment.name = f"kaiyuan_{size}"
    experiment.model = c.Model(
        layers=layers,
        width=width,
        feedforward=3 * width,
        heads=width // HEAD,
        kv_heads=width // HEAD // 2,
        head_size=HEAD,
        vocabulary=experiment.model.vocabulary,
    )
    data.batch_size = rows
    per_step = rows * data.sequence_length
    every = round(TOKENS_PER_PARAMETER * without_embeddings(layers, width) / per_step / CHECKPOINTS)
    sizes = [published["billions"](phase) for phase in data.phases]
    ends = [round(sum(sizes[: i + 1]) / sum(sizes) * every * CHECKPOINTS * rows) for i in range(len(sizes))]  # in rows
    for phase, begin, end in zip(data.phases, [0, *ends], ends, strict=False):
        phase.tokens = (end - begin) * data.sequence_length
    experiment.schedule = published["schedule"]([phase.tokens / per_step for phase in data.phases], WARMUP)
    experiment.mesh = c.Mesh()
    experiment.checkpoint.every = every
    experiment.evaluation.every = 500
    return experiment
