"""The global order: sorted by a unique key, the same whatever the parts and the passes, offsets running on."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.data.prepare import rank
from kaiyuan_jax.data.prepare.engine import start


def table(documents, seed, ties):
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, 3, documents) / 2 if ties else rng.random(documents)
    hashes = pa.array([rng.bytes(16) for _ in range(documents)], pa.binary(16))
    ranks = rng.integers(0, 2**64, documents, np.uint64, endpoint=False)
    columns = {"quality": quality, "rank": ranks, "length": rng.integers(1, 50, documents), "name": np.arange(documents)}
    return pa.table({name: pa.array(values) for name, values in columns.items()}).append_column("hash", hashes)


def ordered(engine, documents, folder, cuts):
    (folder / "order").mkdir(parents=True)
    files, shuffled = [], documents.take(pa.array(np.random.default_rng(1).permutation(documents.num_rows)))
    for number, (begin, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        files.append(folder / f"{number}.parquet")
        pq.write_table(shuffled.slice(begin, end - begin).sort_by([(name, "ascending") for name in rank.ORDER]), files[-1])
    return rank.order(engine, files, folder / "order", documents.num_rows)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 99), documents=st.integers(1, 400), ties=st.booleans(), passes=st.integers(1, 6), parts=st.integers(1, 4))
def test_order_is_exact_for_any_parts_and_any_memory(tmp_path_factory, seed, documents, ties, passes, parts):
    rows = table(documents, seed, ties)
    cuts = np.linspace(0, documents, parts + 1).astype(int)
    engine = dataclasses.replace(start(workers=1), memory=4 * (documents * rank.ROW_BYTES // passes + 1))
    files = ordered(engine, rows, tmp_path_factory.mktemp("rank"), cuts)
    found = pa.concat_tables(rank.tables(files))
    expected = rows.sort_by([(name, "ascending") for name in rank.ORDER])
    assert found["name"].to_pylist() == expected["name"].to_pylist()
    assert found["offset"].to_pylist() == (np.cumsum(expected["length"]) - expected["length"].to_numpy()).tolist()
    if passes == 1:
        assert len(files) == 1


def test_little_memory_makes_buckets_of_about_equal_size_even_where_every_score_is_the_same(tmp_path):
    rows = table(5000, 0, False).set_column(0, "quality", pa.array(np.zeros(5000)))
    files = ordered(dataclasses.replace(start(workers=1), memory=4 * 1000 * rank.ROW_BYTES), rows, tmp_path, [0, 2000, 5000])
    sizes = [pq.read_metadata(file).num_rows for file in files]
    assert len(files) == 5 and sum(sizes) == 5000 and max(sizes) < 1200


def test_the_documents_of_a_stretch_are_those_with_tokens_in_it(tmp_path):
    files = ordered(dataclasses.replace(start(workers=1), memory=4 * 100 * rank.ROW_BYTES), table(300, 3, True), tmp_path, [0, 300])
    whole = pa.concat_tables(rank.tables(files))
    for file in files:  # row groups are read alone: many, so that some hold nothing of a stretch
        pq.write_table(pq.read_table(file), file, row_group_size=7)
    offsets, ends = whole["offset"].to_numpy(), whole["offset"].to_numpy() + whole["length"].to_numpy()
    for begin, end in ((0, 1), *((at, at + 1) for at in range(0, int(ends[-1]), 37)), (500, 2000), (ends[-1] - 1, ends[-1])):
        inside = rank.overlapping(files, int(begin), int(end), ["offset", "length"])
        assert inside["offset"].to_pylist() == offsets[(ends > begin) & (offsets < end)].tolist()
