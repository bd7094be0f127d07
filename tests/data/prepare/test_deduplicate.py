"""De-duplication keeps the best of equal and near-equal documents, whatever the order, the files and the memory of a pass."""

import itertools
import math
import random

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare.deduplicate import clusters
from kaiyuan_jax.data.prepare.tally import Tally

BANDS = 3
SCHEMA = pa.schema(
    [
        ("uid", pa.int64()),
        ("hash", pa.binary(16)),
        ("quality", pa.float64()),
        ("tie", pa.binary(8)),
        ("priority", pa.int32()),
        ("bands", pa.list_(pa.uint64(), BANDS)),
    ]
)
LARGE = 1 << 30
# Bands follow from the text, hence from its hash.
TEXTS = st.lists(st.one_of(st.none(), st.lists(st.integers(2**63, 2**63 + 6), min_size=BANDS, max_size=BANDS)), min_size=8, max_size=8)
DOCUMENT = st.tuples(
    st.integers(0, 7), st.one_of(st.none(), st.just(math.nan), st.integers(-1, 1).map(float)), st.integers(0, 255), st.integers(0, 1)
)


def rows_of(documents, texts):
    return [
        {
            "uid": uid - 3,  # the first ones are of an earlier store
            "hash": bytes([200 - 25 * text]) * 16,
            "quality": quality,
            "tie": bytes([tie]) * 8,
            "priority": priority,
            "bands": texts[text],
        }
        for uid, (text, quality, tie, priority) in enumerate(documents)
    ]


def frame(rows, parts=1):
    tables = [pa.Table.from_pylist(rows[part::parts], schema=SCHEMA) for part in range(parts)]
    return daft.from_arrow(tables)


def kept(rows, near=True, memory=LARGE, parts=1, tally=None):
    table = clusters(frame(rows, parts), near, memory, tally if tally is not None else Tally())
    assert table.schema == pa.schema([("uid", pa.int64()), ("copies", pa.int64())])
    return list(zip(table.column("uid").to_pylist(), table.column("copies").to_pylist(), strict=True))


def slowly(rows, near):
    """Merges groups until no two of them hold equal or near documents, then takes the best of each."""
    groups = [[row] for row in rows]

    def linked(one, other):
        equal = one["hash"] == other["hash"]
        return equal or bool(near and one["bands"] and other["bands"] and any(map(int.__eq__, one["bands"], other["bands"])))

    def rank(row):
        known = row["quality"] is not None and not math.isnan(row["quality"])
        return row["priority"], not known, -row["quality"] if known else 0, row["hash"], row["tie"], row["uid"]

    merged = True
    while merged:
        merged = False
        for one, other in itertools.combinations(groups, 2):
            if any(linked(*two) for two in itertools.product(one, other)):
                one += other
                groups.remove(other)
                merged = True
                break
    return sorted((min(group, key=rank)["uid"], len(group)) for group in groups)


# Bands carry their number in practice: the same value in another place is another value here too.
def placed(texts):
    return [[value + 100 * place for place, value in enumerate(text)] if text else None for text in texts]


@settings(deadline=None, max_examples=40)
@given(st.lists(DOCUMENT, max_size=14), TEXTS, st.booleans(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_the_best_of_every_cluster_stays_whatever_order_files_and_memory(documents, texts, near, shuffler, parts):
    rows = rows_of(documents, placed(texts))
    expected = slowly(rows, near)
    assert kept(rows, near) == expected
    shuffler.shuffle(rows)
    assert kept(rows, near, memory=max(1, 160 * len(rows) // 3), parts=parts) == expected


def test_equal_documents_leave_the_one_of_smallest_priority_then_highest_quality_then_smallest_tie():
    def document(uid, quality=None, tie=0, priority=1):
        return {"uid": uid, "hash": b"h" * 16, "quality": quality, "tie": bytes([tie]) * 8, "priority": priority, "bands": None}

    assert kept([document(0, 0.9), document(1, 0.1, priority=0)]) == [(1, 2)]
    assert kept([document(0, None), document(1, -5.0), document(2, math.nan)]) == [(1, 3)]
    assert kept([document(0, 0.5, 200), document(1, 0.5, 100), document(2, 0.4, 0)]) == [(1, 3)]


def test_documents_of_an_earlier_store_win_and_are_told_by_their_negative_uid():
    def document(uid, text, band, priority):
        return {
            "uid": uid,
            "hash": text * 16,
            "quality": 1.0,
            "tie": b"t" * 8,
            "priority": priority,
            "bands": [band, uid + 2**32, uid + 2**33],
        }

    rows = [document(-1, b"a", 1, 0), document(-2, b"b", 2, 0), document(0, b"a", 1, 1), document(1, b"c", 2, 1), document(2, b"d", 3, 1)]
    assert kept(rows) == [(-2, 2), (-1, 2), (2, 1)]


def test_near_documents_in_a_chain_are_one_cluster_and_are_counted():
    rows = [
        {
            "uid": i,
            "hash": bytes([i]) * 16,
            "quality": float(i),
            "tie": b"t" * 8,
            "priority": 0,
            "bands": [i, 1000 + i // 2, 2000 + (i + 1) // 2],
        }
        for i in range(50)
    ]
    rows.append({**rows[7], "uid": 50})
    tally = Tally()
    assert kept(rows, tally=tally) == [(49, 51)]
    assert tally.counts == {
        "documents compared": 51,
        "exact duplicates": 1,
        "near duplicates": 49,
        "clusters of near duplicates": 1,
        "documents in the largest cluster of near duplicates": 51,
    }
    assert kept(rows, near=False) == [(uid, 2 if uid == 7 else 1) for uid in range(50)]


@pytest.mark.parametrize("near", [False, True])
def test_nothing_gives_nothing(near):
    assert kept([], near) == []


def test_passes_over_files_find_what_one_pass_finds(tmp_path):
    rng = np.random.default_rng(0)
    count = 20_000
    text = np.where(rng.random(count) < 0.2, rng.integers(0, count, count), np.arange(count))
    model = np.where(rng.random(count) < 0.2, rng.integers(0, count, count), np.arange(count))
    own = rng.integers(0, 2**64, (count, BANDS), np.uint64)
    bands = np.where(rng.random((count, BANDS)) < 0.4, own[model], own)[text]
    digests = [random.Random(int(number)).randbytes(16) for number in range(count)]
    table = pa.table(
        [
            pa.array(rng.permutation(count)),
            [digests[number] for number in text],
            rng.random(count).round(1)[text],
            [digests[number][:8] for number in rng.permutation(count)],
            rng.integers(0, 2, count).astype(np.int32),
            pa.FixedSizeListArray.from_arrays(pa.array(bands.reshape(-1)), BANDS),
        ],
        schema=SCHEMA,
    )
    for part in range(5):
        pq.write_table(table.slice(part * count // 5, count // 5), tmp_path / f"{part}.parquet")
    found = [clusters(daft.read_parquet(f"{tmp_path}/*.parquet"), True, memory, Tally()) for memory in (LARGE, 1_000_000, 200_000)]
    assert found[0].equals(found[1]) and found[0].equals(found[2])
    assert sum(found[0].column("copies").to_pylist()) == count
    assert 0.6 * count < found[0].num_rows < 0.8 * count
