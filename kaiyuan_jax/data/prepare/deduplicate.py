"""Exact de-duplication: of all documents with the same normalised text one is kept, the best scored, then the smallest id.

Which one is kept depends on the set of documents alone, never on the order in which they were read.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def survivors(table: pa.Table) -> np.ndarray:
    """Row numbers int64, ascending, of the documents to keep of a table with columns hash, quality (null: unknown) and id."""
    order = pc.sort_indices(table, sort_keys=[("hash", "ascending"), ("quality", "descending"), ("id", "ascending")])  # nulls last
    hashes = table.column("hash").take(order).combine_chunks()
    if len(hashes) == 0:
        return np.zeros(0, np.int64)
    first = np.ones(len(hashes), bool)
    first[1:] = pc.not_equal(hashes[1:], hashes[:-1]).to_numpy(zero_copy_only=False)
    return np.sort(order.to_numpy()[first]).astype(np.int64)
