"""The global order: every document's place and token offset in the store, by (quality, seeded tie break, hash of the text).

The key is unique, so the order is the same whatever the parts. It is exact and needs no memory for the whole: sampled keys cut the key
range into buckets of at most a quarter of the memory, a bucket is collected by one query over the parts' key columns, sorted and
written to its own file, and the offsets run on from bucket to bucket. An offset divided by the store's tokens is a quality quantile in
token mass.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaiyuan_jax.data.prepare.engine import Engine
from kaiyuan_jax.data.prepare.tokenise import ORDER

ROW_BYTES = 300  # of one document in a query, with its id and scores, and the copies that sorting makes
SAMPLES = 4096  # keys sampled for each bucket that is needed


def order(engine: Engine, files: list[Path], folder: Path, documents: int) -> list[Path]:
    """Sorts the rows of the parts' tables into files `folder/000000.parquet`, ..., each with the column `offset` added, in order."""
    buckets = -(-documents * ROW_BYTES // max(1, engine.memory // 4))
    edges = splitters(files, buckets) if buckets > 1 else []
    made, offset = [], 0
    for number, (low, high) in enumerate(itertools.pairwise([None, *edges, None])):
        frame = engine.frame(files)
        # The bounds on quality alone let readers skip what lies outside.
        frame = frame if low is None else frame.where(frame["quality"] >= low[0]).where(_from(frame, low))
        frame = frame if high is None else frame.where(frame["quality"] <= high[0]).where(~_from(frame, high))
        table = frame.to_arrow().select(pq.read_schema(files[0]).names).sort_by([(name, "ascending") for name in ORDER])
        lengths = table["length"].to_numpy()
        table = table.append_column("offset", pa.array(offset + np.cumsum(lengths) - lengths))
        offset += int(lengths.sum())
        made.append(folder / f"{number:06d}.parquet")
        pq.write_table(table, made[-1], compression="lz4", row_group_size=1 << 16)
    return made


def splitters(files: list[Path], buckets: int) -> list[tuple[float, int]]:
    """At most `buckets - 1` ascending (quality, rank) that cut the documents into ranges of about equal count."""
    each = max(1, SAMPLES * buckets // len(files))
    qualities, ranks, mass = [], [], []
    for file in files:
        table = pq.read_table(file, columns=["quality", "rank"])
        step = max(1, table.num_rows // each)
        qualities.append(table["quality"].to_numpy()[::step])
        ranks.append(table["rank"].to_numpy()[::step])
        mass.append(np.full(len(ranks[-1]), step))
    quality, rank, weight = map(np.concatenate, (qualities, ranks, mass))
    order = np.lexsort((rank, quality))
    mass = np.cumsum(weight[order])
    cuts = order[np.searchsorted(mass, mass[-1] * np.arange(1, buckets) / buckets)]
    return sorted({(float(quality[cut]), int(rank[cut])) for cut in cuts})


def _from(frame, key: tuple[float, int]):
    """The rows at or above a key."""
    import daft

    quality, rank = key
    above = (frame["quality"] == quality) & (frame["rank"] >= daft.lit(rank).cast(daft.DataType.uint64()))
    return (frame["quality"] > quality) | above


def schema(files: list[Path]) -> pa.Schema:
    """Columns of the ordered documents."""
    return pq.read_schema(files[0])


def tables(files: list[Path]) -> Iterator[pa.Table]:
    """The ordered documents, a row group at a time."""
    for file in files:
        held = pq.ParquetFile(file)
        for group in range(held.num_row_groups):
            yield held.read_row_group(group)


def overlapping(files: list[Path], begin: int, end: int, columns: list[str]) -> pa.Table:
    """The ordered documents that have tokens in [begin, end); reads only the row groups that hold some."""
    found = []
    for file in files:
        held = pq.ParquetFile(file, memory_map=True)
        place = held.schema_arrow.get_field_index("offset")
        firsts = [held.metadata.row_group(group).column(place).statistics.min for group in range(held.num_row_groups)]
        for group, first in enumerate(firsts):
            last = firsts[group + 1] if group + 1 < len(firsts) else None
            if first < end and (last is None or last > begin):
                found.append(held.read_row_group(group, columns=columns))
        if firsts and firsts[0] >= end:
            break
    table = pa.concat_tables(found)
    return table.filter((pc.field("offset") < end) & (pc.field("offset") + pc.field("length") > begin))
