"""Of every cluster of equal or near-equal documents the best one stays, with the size of its cluster.

Documents with the same hash are equal. Of what is left, documents that share a band of MinHash values are near (`minhash`), and so is what
they are near to: a cluster is a connected component. The best document of a cluster is the one with the smallest priority number, then
the highest quality (unknown: last), then the smallest hash, then the smallest tie. The result depends on the set of documents alone.

Texts never move: all this works on narrow keys, 160 bytes a document, which Daft reads, filters and unfolds where its runner runs. What
is compared must be in one place: the keys are taken in passes, by hash and by value of band, so that one pass fits into the memory
allowed. Equal values end in one pass, hence passes are independent but for the edges they find. Beyond the memory of a pass this process
holds 16 bytes a surviving document, and 16 bytes an edge: a group of n documents that share a band gives n - 1 edges, all to the first.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csgraph, csr_array

from kaiyuan_jax.data.prepare.tally import Tally

if TYPE_CHECKING:
    import daft

RANKED = ("uid", "hash", "quality", "tie", "priority")
KEY_BYTES = 160  # memory of a pass by document: the keys, and the arrays that sort them
BAND_BYTES = 48  # memory of a pass by band of a document
BATCH = 16_384  # documents whose bands are unfolded at a time
CLUSTERS = pa.schema([("uid", pa.int64()), ("copies", pa.int64())])


def clusters(keys: "daft.DataFrame", near: bool, memory: int, tally: Tally) -> pa.Table:
    """The documents to keep, ascending by uid, and how many documents each stands for, itself included (columns uid, copies: int64).

    `keys` has the columns uid int64 (unique), hash binary(16), quality float64, tie binary(8), priority int32 and, if `near`, bands
    (fixed-size list of uint64; null: only compared by hash). Quality may be null or NaN: unknown. It is read several times, so that it
    had better come from files. `memory`: bytes of one pass.
    """
    documents = keys.count_rows()
    uids, copies = _equal(keys, _passes(documents * KEY_BYTES, memory))
    tally.add("documents compared", documents)
    tally.add("exact duplicates", documents - len(uids))
    if near:
        bands = keys.schema()["bands"].dtype.size
        edges = _edges(keys, uids, _passes(documents * bands * BAND_BYTES, memory))
        kept, sizes, largest, count = _best(keys, uids, copies, edges)
        tally.add("near duplicates", len(uids) - int(kept.sum()))
        tally.add("clusters of near duplicates", count)
        tally.add("documents in the largest cluster of near duplicates", largest)
        uids, copies = uids[kept], sizes[kept]
    return pa.table([uids, copies], schema=CLUSTERS)


def _passes(size: int, memory: int) -> int:
    return max(1, -(-size // memory))


def _equal(keys: "daft.DataFrame", passes: int) -> tuple[np.ndarray, np.ndarray]:
    """(uid of the best document of each hash, ascending; number of documents with that hash)."""
    import daft

    found = [np.zeros((2, 0), np.int64)]
    for number in range(passes):
        part = keys.select(*RANKED)
        if passes > 1:
            part = part.where(daft.col("hash").hash() % passes == number)
        table = _collected(part, passes)
        hashes = _integers(table.column("hash"))
        order, repeated = _repeated(hashes[0])
        uids = table.column("uid").to_numpy()
        alone = uids[order[~repeated]]
        rows = order[repeated]
        ranked, group = _ranked(table.take(rows), *hashes[:, rows])
        starts = _starts(*(group[:, ranked]))
        sizes = np.diff(np.append(starts, len(rows)))
        found.append(np.stack([alone, np.ones_like(alone)]))
        found.append(np.stack([uids[rows[ranked[starts]]], sizes]))
    uids, copies = np.concatenate(found, axis=1)
    order = np.argsort(uids)
    return uids[order], copies[order]


def _edges(keys: "daft.DataFrame", uids: np.ndarray, passes: int) -> np.ndarray:
    """int64 [2, edges], distinct: positions in `uids` (ascending) of the first and another document that share a band."""
    import daft

    edges = np.zeros(0, np.int64)
    size = max(len(uids), 1)
    for number in range(passes):
        part = keys.select("uid", "bands").into_batches(BATCH).explode("bands")
        part = part.where(daft.col("bands").not_null() if passes == 1 else daft.col("bands") % passes == number)
        table = _collected(part, passes)
        values = table.column("bands").to_numpy()
        order, repeated = _repeated(values)
        order = order[repeated]
        values, several = values[order], table.column("uid").to_numpy()[order]
        nodes = np.minimum(np.searchsorted(uids, several), size - 1)
        kept = uids[nodes] == several if len(uids) else np.zeros(0, bool)  # not of the exact duplicates
        values, nodes = values[kept], nodes[kept]
        starts = _starts(values)
        first = np.repeat(np.minimum.reduceat(nodes, starts) if len(starts) else nodes, np.diff(np.append(starts, len(nodes))))
        edges = np.union1d(edges, (first * size + nodes)[first != nodes])
    return np.stack([edges // size, edges % size])


def _best(keys: "daft.DataFrame", uids: np.ndarray, copies: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
    """(bool: stays; documents it stands for if so; documents in the largest cluster; clusters of more than one of `uids`)."""
    import daft

    kept, sizes = np.ones(len(uids), bool), copies.copy()
    nodes, places = np.unique(edges, return_inverse=True)
    if len(nodes) == 0:
        return kept, sizes, 0, 0
    first, other = places.reshape(2, -1)
    graph = csr_array((np.ones(len(first), np.int8), (first, other)), shape=(len(nodes), len(nodes)))
    count, component = csgraph.connected_components(graph, directed=False)
    table = keys.select(*RANKED).join(daft.from_arrow(pa.table({"uid": uids[nodes]})), on="uid", how="semi").to_arrow()
    table = table.take(pc.sort_indices(table.column("uid")))  # now row i is node i
    ranked, _ = _ranked(table, component)
    best = nodes[ranked[_starts(component[ranked])]]
    totals = np.zeros(count, np.int64)
    np.add.at(totals, component, copies[nodes])
    kept[nodes] = False
    kept[best] = True
    sizes[best] = totals
    return kept, sizes, int(totals.max()), count


def _collected(frame: "daft.DataFrame", passes: int) -> pa.Table:
    import daft

    if passes == 1:
        return frame.to_arrow()
    # Where memory is short, files are read one after the other: all at once they would take more than the pass.
    with daft.execution_config_ctx(scantask_max_parallel=1):
        return frame.to_arrow()


def _repeated(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order that sorts the values, bool in that order: another one is equal)."""
    order = np.argsort(values)
    same = np.zeros(len(values) + 1, bool)
    same[1:-1] = np.diff(values[order]) == 0
    return order, same[1:] | same[:-1]


def _starts(*values: np.ndarray) -> np.ndarray:
    """Where runs of equal rows of the sorted columns begin."""
    begins = np.ones(len(values[0]), bool)
    begins[1:] = np.any([column[1:] != column[:-1] for column in values], axis=0)
    return np.flatnonzero(begins)


def _ranked(table: pa.Table, *groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order by group, then from best to worst; the columns of the groups)."""
    quality = pc.fill_null(table.column("quality"), np.nan).to_numpy()
    unknown = np.isnan(quality)
    best_first = (
        table.column("priority").to_numpy(),
        unknown,
        -np.where(unknown, 0, quality),
        *_integers(table.column("hash")),
        *_integers(table.column("tie")),
        table.column("uid").to_numpy(),
    )
    return np.lexsort((*best_first[::-1], *groups[::-1])), np.stack(groups)


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    """uint64 [words, rows] of fixed-size binaries without nulls, ordered alike."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    size = column.type.byte_width
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8, count=len(array) * size, offset=array.offset * size)
    return data.reshape(len(array), size).view(">u8").T.astype(np.uint64)
