"""Pass 2: the texts of a part that stay become tokens, in the order that the store will have.

For a part, and for each of its sides (train, heldout):

    NAME.keys.parquet    keys of the documents for later sources (survivors.keep_fingerprints)
    NAME.SIDE.tokens     raw tokens of the documents, one after the other, sorted by (quality, tie break, hash)
    NAME.SIDE.parquet    one row a document in the same order: quality, rank (the tie break), hash, length, bytes, copies, part, start
                         (its first token in the file), id, metadata, score.NAME

Every part being sorted, a shard of the store, which is a range of that order, is one stretch of each part.
"""

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaiyuan_jax.data import store
from kaiyuan_jax.data.prepare import split, survivors
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.prepare.documents import Part
from kaiyuan_jax.data.prepare.job import unique

SIDES = ("train", "heldout")
ORDER = ["quality", "rank", "hash"]  # sort key of the store


def make(task: dict) -> dict:
    """Writes both sides of one part; gives documents and tokens of each. The task names part, settings, tokenizer and survivors."""
    part, settings = Part(**task["part"]), task["settings"]
    table = survivors.table(part, task["survivors"])
    if not settings.metadata_fields:
        table = table.drop_columns("metadata")
    ranks = [int.from_bytes(store.tie_break(digest, settings.seed), "big") for digest in table["hash"].to_pylist()]
    table = table.append_column("rank", pa.array(ranks, pa.uint64()))
    table = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in ORDER]))
    texts = part.texts()
    held = split.heldout(table["hash"].to_pylist(), settings.heldout)
    name, result = unique(task["name"]), {}
    if settings.near_duplicates:
        pq.write_table(survivors.keys_of(table), name + ".keys.parquet", compression="lz4", row_group_size=1 << 15)
        result["keys"] = name + ".keys.parquet"
    table = table.drop_columns([name for name in ("tie", "bands") if name in table.column_names])
    for side, members in zip(SIDES, (~held, held), strict=True):
        mine = table.filter(pa.array(members)).combine_chunks()
        chosen = texts.take(mine["row"].combine_chunks()).to_pylist() if mine.num_rows else []
        tokens, lengths = _encoder(task["tokenizer"], task["fingerprint"], task["eod"])(chosen)
        with open(f"{name}.{side}.tokens", "wb") as file:  # not tofile: it hides why a write failed
            file.write(memoryview(tokens.astype(store.token_type(task["vocabulary"]))).cast("B"))
        mine = mine.append_column("length", pa.array(lengths)).append_column("start", pa.array(np.cumsum(lengths) - lengths))
        mine = mine.append_column("part", pa.array(np.full(len(lengths), task["place"], np.int32))).rename_columns({"size": "bytes"})
        pq.write_table(mine.drop_columns(["row", "uid"]), f"{name}.{side}.parquet", compression="lz4", row_group_size=1 << 16)
        result[side] = {"documents": len(lengths), "tokens": len(tokens), "bytes": int(pc.sum(mine["bytes"]).as_py() or 0),
                        "name": f"{name}.{side}"}  # fmt: skip
    return result


@functools.lru_cache(maxsize=1)
def _encoder(path: str, fingerprint: str, eod: int) -> tokenizers.Encoder:
    del fingerprint  # of the file: another tokenizer may stand at the same path later
    return tokenizers.Encoder(tokenizers.load(path)[1], eod)
