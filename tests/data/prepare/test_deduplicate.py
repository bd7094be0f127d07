"""De-duplication keeps the best of equal texts, whatever the order in which they come."""

import random

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.deduplicate import survivors

SCHEMA = pa.schema([("hash", pa.binary(16)), ("quality", pa.float64()), ("id", pa.large_string())])


def table(rows):
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)


HASH = st.integers(0, 5).map(lambda i: bytes([i]) * 16)
ROW = st.tuples(HASH, st.one_of(st.none(), st.integers(0, 3).map(float)), st.sampled_from("abcdef"))


@settings(deadline=None, max_examples=60)
@given(st.lists(ROW, max_size=30), st.randoms())
def test_one_of_each_text_stays_the_best_scored_then_the_smallest_id(rows, random_order):
    def best(some):
        groups = {}
        for row in some:
            groups.setdefault(row[0], []).append(row)
        return {min(group, key=lambda row: (-(row[1] if row[1] is not None else -1), row[2])) for group in groups.values()}

    shuffled = rows[:]
    random_order.shuffle(shuffled)
    for some in (rows, shuffled):
        kept = survivors(table(some))
        assert (kept[1:] > kept[:-1]).all() and len(kept) == len({row[0] for row in rows})
        assert {some[i] for i in kept} == best(rows)


def test_documents_without_duplicates_all_stay():
    rows = [(random.Random(i).randbytes(16), None, str(i)) for i in range(1000)]
    assert len(survivors(table(rows))) == 1000
