"""Pass 3: the ordered tokens become a store, one shard a task.

A shard is a range of the global order, and each part is sorted by that order, so a shard is one stretch of every part's tokens, copied
document by document into place. Shards are files of their own: they are written in any order by any worker, and a finished one is kept.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from kaiyuan_jax.data import store, store_write
from kaiyuan_jax.data.prepare import rank
from kaiyuan_jax.data.prepare.engine import Engine
from kaiyuan_jax.data.prepare.job import Job, read_json, write_json
from kaiyuan_jax.data.prepare.settings import Settings

HIDDEN = ("rank", "hash", "part", "start")  # columns of the order that are not the store's


def write(
    job: Job,
    engine: Engine,
    folder: Path,
    *,
    side: str,
    order: list[Path],
    parts: list[dict],
    tokenizer_json: str,
    vocabulary: int,
    eod: int,
    settings: Settings,
    facts: dict,
) -> store.Manifest:
    """Writes the store of one side into `folder`. `parts` are the results of tokenise.make, in the order of their numbers."""
    tokens, dtype = sum(part[side]["tokens"] for part in parts), store.token_type(vocabulary)
    if not (folder / "tokens" / "zarr.json").is_file():
        shutil.rmtree(job.folder(f"write {side}"))  # marks of shards that are not there
        folder.mkdir(parents=True, exist_ok=True)
        store_write.create_tokens(folder, tokens, dtype, settings.compression)
    names = job.work / f"{side}.json"
    write_json(names, {"parts": [part[side]["name"] + ".tokens" for part in parts], "order": [str(file) for file in order]})
    common = {"folder": str(folder), "names": str(names), "dtype": dtype.name}
    tasks = [common | {"shard": i, "end": min(tokens, (i + 1) * store.SHARD)} for i in range(-(-tokens // store.SHARD))]
    done = job.parts(engine, f"write {side}", shard, tasks, sizes=[task["end"] - task["shard"] * store.SHARD for task in tasks], unit="tok")
    optional = [field for field in rank.schema(order) if field.name == "metadata" or field.name.startswith("score.")]
    store_write.write_documents(folder, rank.tables(order), pa.schema([*store.COLUMNS, *optional]))
    digests = [bytes.fromhex(facts["digest"]) for facts in done]
    return store_write.finish(folder, digests=digests, tokenizer_json=tokenizer_json, vocabulary=vocabulary, eod=eod,
                              scored=not settings.unscored, seed=settings.seed, facts=facts)  # fmt: skip


def shard(task: dict) -> dict:
    """Writes one shard and gives its digest."""
    begin, end = task["shard"] * store.SHARD, task["end"]
    names = read_json(Path(task["names"]))
    table = rank.overlapping([Path(file) for file in names["order"]], begin, end, ["offset", "length", "part", "start"])
    values = np.empty(end - begin, task["dtype"])
    offset, length, part, start = (table[name].to_numpy() for name in ("offset", "length", "part", "start"))
    low, high = np.maximum(begin, offset), np.minimum(end, offset + length)
    source = start + low - offset  # first token in the part's file
    for number in np.unique(part).tolist():
        rows = np.flatnonzero(part == number)
        first, last = int(source[rows[0]]), int(source[rows[-1]] + high[rows[-1]] - low[rows[-1]])
        stretch = np.fromfile(names["parts"][number], values.dtype, last - first, offset=first * values.dtype.itemsize)
        places = zip((low[rows] - begin).tolist(), (high[rows] - begin).tolist(), (source[rows] - first).tolist(), strict=True)
        for to, stop, at in places:
            values[to:stop] = stretch[at : at + stop - to]
    return {"digest": store_write.write_shard(Path(task["folder"]), task["shard"], values).hex()}
