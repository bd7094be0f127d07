"""The token store: what goes in comes out, and a damaged or foreign store is refused with one clear line."""

import dataclasses
import json
import pickle
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from kaiyuan_jax.data import blocks
from kaiyuan_jax.data.store import COLUMNS, ROW_GROUP, Documents, StoreError, open_store, tie_break, verify_store
from kaiyuan_jax.data.store_write import write_documents, write_store

VOCABULARY, EOD = 300, 7
TOKENIZER = Tokenizer(models.BPE()).to_str()


def documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    for i, length in enumerate(lengths):
        tokens = rng.integers(8, VOCABULARY, length)
        yield f"document {i}", i / 2, 3 * length, tokens


def make(folder, lengths=(5, 1, 0, 40, 400), vocabulary=VOCABULARY, compression=0, **facts):
    return write_store(folder, documents=documents(lengths), tokenizer_json=TOKENIZER, vocabulary=vocabulary, eod=EOD,
                       compression=compression, **facts)  # fmt: skip


def flat(lengths):
    return np.concatenate([np.append(tokens, EOD) for *_, tokens in documents(lengths)])


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_documents(folder, **columns):
    """Rewrites the document table and makes the manifest's sizes agree, so that only the content is wrong."""
    path = folder / "documents.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.table([pa.array(columns.get(name, table[name].combine_chunks())) for name in COLUMNS.names], schema=COLUMNS), path)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files=files | {"documents.parquet": path.stat().st_size})


def refused(folder, *words, check=open_store):
    with pytest.raises(StoreError) as error:
        check(folder)
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    for word in words:
        assert word in message, message


def verify(folder):
    verify_store(open_store(folder))


@pytest.mark.parametrize("compression", [0, 1])
def test_tokens_and_documents_come_back_as_written(tmp_path, compression):
    lengths = (5, 1, 0, 40, 400)
    store = make(tmp_path / "s", lengths, compression=compression)
    verify_store(store)
    assert (store.read(0, store.tokens) == flat(lengths)).all() and store.read(3, 9).dtype == np.uint16
    assert store.tokens == sum(lengths) + len(lengths) and store.vocabulary == VOCABULARY and store.eod == EOD
    assert [store.documents.id(i) for i in range(5)] == [f"document {i}" for i in range(5)]
    assert (store.documents.length == np.array(lengths) + 1).all() and (store.documents.bytes == 3 * np.array(lengths)).all()
    assert (store.documents.quality == np.arange(5) / 2).all()


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(0, 60_000), min_size=1, max_size=6), length=st.integers(1, 20_000), compression=st.sampled_from([0, 1]),
       seed=st.integers(0, 9))  # fmt: skip
def test_rows_are_slices_of_the_flat_array(tmp_path_factory, lengths, length, compression, seed):
    store = make(tmp_path_factory.mktemp("store") / "s", lengths, compression=compression)
    tokens, count = flat(lengths), store.sequences(length)
    assert count == max(0, (len(tokens) - 1) // length)
    rows = np.random.default_rng(seed).integers(0, count, 20 if count else 0)
    found = store.read_rows(rows, length)
    assert found.dtype == np.int32 and found.shape == (len(rows), length + 1)
    for row, values in zip(rows, found, strict=True):
        assert (values == tokens[row * length : (row + 1) * length + 1]).all()


def test_every_token_but_the_first_is_a_target_exactly_once(tmp_path):
    store = make(tmp_path / "s", (1000, 23))
    rows = store.read_rows(np.arange(store.sequences(64)), 64)
    assert (rows[:, 1:].ravel() == store.read(1, 1 + rows[:, 1:].size)).all() and store.tokens - 1 - rows[:, 1:].size < 64


def test_blocks_are_right_when_the_cache_holds_almost_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "CACHE_BYTES", 3 * blocks.BLOCK)
    store = make(tmp_path / "s", (200_000,), compression=1)
    rows = np.random.default_rng(0).permutation(store.sequences(1000))
    tokens = flat((200_000,))
    assert (store.read_rows(rows, 1000)[:, 0] == tokens[rows * 1000]).all()


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    store = write_store(tmp_path / "s", documents=[("a", 0.0, 1, np.array([70_000]))], tokenizer_json=TOKENIZER, vocabulary=100_000, eod=1)
    assert store.read(0, 2).dtype == np.uint32 and store.read(0, 2).tolist() == [70_000, 1]


def test_document_at_inverts_offsets_and_quantiles_are_token_mass(tmp_path):
    store = make(tmp_path / "s", (5, 1, 0, 40, 400))
    owner = store.document_at(np.arange(store.tokens))
    assert (owner == np.repeat(np.arange(5), store.documents.length)).all() and store.document_at(6) == 1
    middle = [np.flatnonzero(owner == i).mean() + 0.5 for i in range(5)]
    assert np.allclose(store.quality_quantile(np.arange(5)), np.array(middle) / store.tokens)


def test_rows_outside_the_store_are_refused(tmp_path):
    store = make(tmp_path / "s", (100,))
    with pytest.raises(IndexError):
        store.read_rows(np.array([store.sequences(10)]), 10)
    with pytest.raises(IndexError):
        store.read(0, store.tokens + 1)


def test_a_fault_that_passes_is_not_laid_to_the_store(tmp_path):
    make(tmp_path)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            open_store(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_store(tmp_path).tokens


def test_a_pickled_store_reads_the_same(tmp_path):
    store = make(tmp_path / "s", (100,))
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.read_rows(np.arange(5), 10) == store.read_rows(np.arange(5), 10)).all()


def test_the_same_documents_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name, (100, 50_000, 3), compression=1)
    left, right = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("a", "b"))
    assert left == right and len(left) >= 5


def test_a_store_without_manifest_is_refused(tmp_path):
    make(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    refused(tmp_path / "s", "manifest.json is missing")
    refused(tmp_path / "nowhere", "no such folder")


def test_a_manifest_of_another_schema_or_shape_is_refused(tmp_path):
    make(tmp_path / "s")
    edit_manifest(tmp_path / "s", extra=1)
    refused(tmp_path / "s", "extra")
    edit_manifest(tmp_path / "s", schema=99)
    refused(tmp_path / "s", "schema 99")
    (tmp_path / "s" / "manifest.json").write_text("{")
    refused(tmp_path / "s", "not readable JSON")


def test_wrong_checksums_are_refused(tmp_path):
    make(tmp_path / "s")
    edit_manifest(tmp_path / "s", tokens_sha256="0" * 64)
    refused(tmp_path / "s", "tokens have checksum", "000000000000", check=verify)
    make(tmp_path / "s")
    edit_manifest(tmp_path / "s", documents_sha256="0" * 64)
    refused(tmp_path / "s", "documents.parquet has checksum", check=verify)


def test_one_changed_token_is_refused(tmp_path):
    make(tmp_path / "s")
    path = tmp_path / "s" / "tokens" / "c" / "0"
    data = bytearray(path.read_bytes())
    assert data[0] not in (9, EOD)
    data[0] = 9
    path.write_bytes(data)
    refused(tmp_path / "s", "tokens have checksum", check=verify)


def test_compressed_tokens_that_cannot_be_decoded_are_refused(tmp_path):
    make(tmp_path / "s", compression=1)
    path = tmp_path / "s" / "tokens" / "c" / "0"
    path.write_bytes(b"x" * path.stat().st_size)
    refused(tmp_path / "s", "cannot be decoded", check=verify)


def test_tokens_outside_the_vocabulary_are_refused(tmp_path):
    make(tmp_path / "s")
    edit_manifest(tmp_path / "s", vocabulary=100)
    refused(tmp_path / "s", "outside the vocabulary of 100", check=verify)
    make(tmp_path / "s")
    refused(tmp_path / "s", "vocabulary of 300", "model.vocabulary", check=lambda folder: open_store(folder, vocabulary=299))
    assert open_store(tmp_path / "s", vocabulary=300)
    with pytest.raises(StoreError, match="outside the vocabulary"):
        make(tmp_path / "t", vocabulary=20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_quality_that_is_not_finite_is_refused(tmp_path, bad):
    make(tmp_path / "s")
    edit_documents(tmp_path / "s", quality=[0.0, 0.5, bad, 1.5, 2.0])
    refused(tmp_path / "s", "document 2 (document 2)", "must be finite")
    with pytest.raises(StoreError, match="must be finite"):
        write_store(tmp_path / "t", documents=[("a", bad, 1, np.array([1]))], tokenizer_json=TOKENIZER, vocabulary=9, eod=0)


def test_documents_that_do_not_ascend_are_refused(tmp_path):
    make(tmp_path / "s")
    edit_documents(tmp_path / "s", quality=[0.0, 0.5, 0.4, 1.5, 2.0])
    refused(tmp_path / "s", "falls at document 2 from 0.5 to 0.4")
    with pytest.raises(StoreError, match="ascending quality"):
        rows = [("a", 1.0, 1, np.array([1])), ("b", 0.0, 1, np.array([1]))]
        write_store(tmp_path / "t", documents=rows, tokenizer_json=TOKENIZER, vocabulary=9, eod=0)


def test_documents_that_do_not_tile_the_tokens_are_refused(tmp_path):
    make(tmp_path / "s")
    edit_documents(tmp_path / "s", offset=np.array([0, 5, 8, 9, 50]))
    refused(tmp_path / "s", "do not tile")


def test_another_tokenizer_is_refused(tmp_path):
    store = make(tmp_path / "s")
    assert open_store(tmp_path / "s", fingerprint=store.fingerprint)
    refused(tmp_path / "s", "another tokenizer", "--tokenizer", check=lambda folder: open_store(folder, fingerprint="ab" * 32))
    path = tmp_path / "s" / "tokenizer.json"
    path.write_text(path.read_text().replace("null", "nul ", 1))
    refused(tmp_path / "s", "not the tokenizer that made the tokens")


@pytest.mark.parametrize("name", ["tokens/c/0", "documents.parquet", "tokenizer.json", "tokens/zarr.json"])
def test_truncated_or_missing_files_are_refused(tmp_path, name):
    make(tmp_path / "s")
    path = tmp_path / "s" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    refused(tmp_path / "s", name, "truncated")
    path.unlink()
    refused(tmp_path / "s", name, "missing")


def test_ends_of_documents_in_the_wrong_place_are_refused(tmp_path):
    make(tmp_path / "s")
    edit_manifest(tmp_path / "s", eod=EOD + 1)
    refused(tmp_path / "s", "end-of-document", check=verify)


def test_nothing_is_left_after_a_failure_and_nothing_foreign_is_replaced(tmp_path):
    def broken():
        yield from documents((10,))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", documents=broken(), tokenizer_json=TOKENIZER, vocabulary=VOCABULARY, eod=EOD)
    with pytest.raises(StoreError, match="no documents"):
        make(tmp_path / "s", ())
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="not a store"):
        make(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_store_is_replaced_only_when_the_new_one_is_complete(tmp_path):
    old = make(tmp_path / "s", (10,))
    with pytest.raises(StoreError):
        make(tmp_path / "s", (10, 20), vocabulary=20)
    assert open_store(tmp_path / "s").manifest == old.manifest
    assert make(tmp_path / "s", (10, 20)).tokens == 32


def test_manifests_survive_a_round_trip(tmp_path):
    store = make(tmp_path / "s", facts={"x": [1, 2]}, seed=5, scored=False)
    assert not store.scored and open_store(tmp_path / "s").manifest == store.manifest
    assert dataclasses.asdict(store.manifest)["facts"] == {"x": [1, 2]}


def test_tie_breaks_depend_on_the_seed():
    orders = {seed: sorted(range(50), key=lambda i, seed=seed: tie_break(bytes([i]), seed)) for seed in (0, 1, -1)}
    assert orders[0] != orders[1] != orders[-1] != orders[0]


def test_files_outside_the_store_are_refused(tmp_path):
    make(tmp_path / "s")
    (tmp_path / "secret").write_text("x")
    edit_manifest(tmp_path / "s", files={"../secret": 1})
    refused(tmp_path / "s", "'../secret'", "outside the store")


def test_the_document_table_has_fixed_row_groups_whatever_the_tables_it_came_in(tmp_path):
    count = 2 * ROW_GROUP + 5
    table = pa.table([pa.array(np.arange(count))] * 2 + [pa.array(np.arange(count) / 2)] + [pa.array(np.arange(count))] * 2
                     + [pa.array([f"d{i}" for i in range(count)], pa.large_string())], schema=COLUMNS)  # fmt: skip
    for name, cuts in (("a", [0, count]), ("b", [0, 7, ROW_GROUP + 1, ROW_GROUP + 1, count])):
        (tmp_path / name).mkdir()
        tables = [table.slice(begin, end - begin) for begin, end in zip(cuts[:-1], cuts[1:], strict=True)]
        assert write_documents(tmp_path / name, tables, COLUMNS) == count
    left, right = ((tmp_path / name / "documents.parquet") for name in "ab")
    assert left.read_bytes() == right.read_bytes()
    found = Documents(str(left), count)
    assert [found.id(i) for i in (0, ROW_GROUP - 1, ROW_GROUP, count - 1)] == ["d0", "d16383", "d16384", f"d{count - 1}"]
    with pytest.raises(KeyError, match="no column 'score.x'; found offset"):
        found.column("score.x")
