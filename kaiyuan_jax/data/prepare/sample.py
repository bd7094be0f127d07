"""The text that a tokenizer is trained on: the training documents with the smallest hashes, as many as make `sample_bytes`.

Whatever the parts and the order of the input, the sample is the same; and it is spread over the whole source, hashes being uniform.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax.data.prepare import split, survivors
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.prepare.documents import Part
from kaiyuan_jax.data.prepare.engine import Engine
from kaiyuan_jax.data.prepare.settings import PrepareError, Settings

NOTHING = "--heldout={}: holds out all {} documents, none is left to train on; lower it"


def train(engine: Engine, parts: list[Part], kept: Path, settings: Settings) -> str:
    """tokenizer.json of a byte-level BPE trained on the sample."""
    total = sum(part.bytes for part in parts)
    share = min(1.0, 1.5 * settings.sample_bytes / max(1, total) + 50 / sum(part.documents for part in parts))
    while True:
        common = {"survivors": str(kept), "share": share, "heldout": settings.heldout}
        tasks = [common | {"part": dataclasses.asdict(part)} for part in parts]
        found = sorted(pair for _, pairs in engine.map(take, tasks, "sample") for pair in pairs)
        sizes = np.cumsum([len(text.encode()) for _, text in found])
        enough = int(np.searchsorted(sizes, settings.sample_bytes)) + 1
        if share == 1.0 or enough < len(found):
            break
        share = min(1.0, 4 * share)
    if not found:
        raise PrepareError(NOTHING.format(settings.heldout, pq.read_metadata(kept).num_rows))
    return tokenizers.train((text for _, text in found[:enough]), settings.vocabulary).to_str()


def take(task: dict) -> list[tuple[bytes, str]]:
    """(hash, text) of a part's training documents whose hash, as a fraction, is below `share`."""
    part = Part(**task["part"])
    table = survivors.table(part, task["survivors"]).select(["hash", "row"])
    hashes = table["hash"].to_pylist()
    below = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in hashes]) < task["share"]
    chosen = np.flatnonzero(below & ~split.heldout(hashes, task["heldout"]))
    texts = part.texts().take(pa.array(table["row"].to_numpy()[chosen])).to_pylist() if len(chosen) else []
    return [(hashes[at], text) for at, text in zip(chosen, texts, strict=True)]
