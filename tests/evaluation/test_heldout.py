import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.evaluation import bootstrap, heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10_000), st.integers(1, 300))
def test_rows_are_distinct_and_spread_evenly_over_token_mass(sequences, rows):
    chosen = heldout.spread(sequences, rows)
    assert len(chosen) == min(rows, sequences) == len(set(chosen.tolist()))
    assert chosen.min() >= 0 and chosen.max() < sequences
    for edge in np.linspace(0, sequences, 7):
        assert abs(np.sum(chosen < edge) - len(chosen) * edge / sequences) <= 1 + 1e-9


def test_document_sums_equal_a_direct_computation(make_store, tmp_path, tokenizer):
    store = make_store(tmp_path / "s", 40)
    length, bytes_V = 16, byte_lengths(tokenizer, 400)
    sequences = heldout.spread(store.sequences(length), 9)
    rows = store.read_rows(sequences, length)
    losses = np.random.default_rng(0).uniform(0.5, 5, (len(rows), length))
    sums = heldout.document_sums(store, sequences, rows[:, 1:], losses, bytes_V)
    found = {int(d): i for i, d in enumerate(sums.document)}

    expected = {}
    tokens = store.read(0, store.tokens)
    ends = np.cumsum(store.documents.length)
    for row, sequence in enumerate(sequences):
        for column in range(length):
            place = sequence * length + column + 1  # the target's place in the store
            document = next(i for i, end in enumerate(ends) if place < end)
            size = len(tokenizer.decode([int(tokens[place])]).encode()) if tokens[place] != store.eod else 0
            entry = expected.setdefault(document, [0.0, 0, 0.0, 0])
            entry[0] += losses[row, column]
            entry[1] += 1
            entry[2] += losses[row, column] / np.log(2) * (size > 0)
            entry[3] += size
    assert set(found) == set(expected)
    for document, (nats, count, bits, size) in expected.items():
        i = found[document]
        assert sums.nats[i] == pytest.approx(nats)
        assert (sums.tokens[i], sums.bytes[i]) == (count, size)
        assert sums.bits[i] == pytest.approx(bits)
        assert sums.quantile[i] == store.quality_quantile(document)


def test_every_token_but_the_first_is_a_target_once_when_all_sequences_are_read(make_store, tmp_path, tokenizer):
    store = make_store(tmp_path / "s", 12)
    length = 8
    sequences = heldout.spread(store.sequences(length), 10**6)
    rows = store.read_rows(sequences, length)
    sums = heldout.document_sums(store, sequences, rows[:, 1:], np.ones((len(rows), length)), byte_lengths(tokenizer, 400))
    targets = len(rows) * length
    assert targets == (store.tokens - 1) // length * length
    whole = (sums.document > 0) & (sums.document < sums.document.max())
    assert np.array_equal(sums.tokens[whole], store.documents.length[sums.document[whole]])
    assert np.array_equal(sums.bytes[whole], store.documents.bytes[sums.document[whole]])


def test_bits_per_byte_by_hand():
    """Two documents: 2 ln 2 nats over 4 bytes and 6 ln 2 over 4, end-of-document tokens apart: (2 + 6) / 8 bits a byte."""
    nats = np.array([[2.0, 0.5], [6.0, 0.5]]) * np.log(2)
    sums = heldout.DocumentSums(
        document=np.array([0, 1]),
        quantile=np.array([0.25, 0.75]),
        nats=nats.sum(axis=1),
        tokens=np.array([3, 5]),
        bits=nats[:, 0] / np.log(2),
        bytes=np.array([4, 4]),
    )
    entry = heldout.summary(sums, quantiles=2, scored=True, resamples=200, source="x")
    assert entry["bits_per_byte"] == pytest.approx(1.0)
    assert entry["loss"] == pytest.approx(9 * np.log(2) / 8)
    assert [q["bits_per_byte"] for q in entry["quantiles"]] == pytest.approx([0.5, 1.5])
    assert [(q["low"], q["high"], q["documents"]) for q in entry["quantiles"]] == [(0, 0.5, 1), (0.5, 1, 1)]
    assert entry["bits_per_byte_interval"] == pytest.approx([0.5, 1.5])  # two documents: all of one, or all of the other
    assert entry["quantiles"][0]["interval"] is None


def test_a_source_without_scores_has_no_quality_bins():
    ones = np.ones(3)
    sums = heldout.DocumentSums(np.arange(3), ones / 3, ones, ones.astype(int), ones, ones.astype(int))
    assert heldout.summary(sums, quantiles=5, scored=False, resamples=10, source="x")["quantiles"] == []


def test_the_mean_over_sources_weighs_them_equally():
    def source(bits, documents):
        ones = np.ones(documents)
        return heldout.DocumentSums(np.arange(documents), ones, bits * ones, ones.astype(int), bits * ones, ones.astype(int))

    entry = heldout.mean_summary({"large": source(1.0, 100), "small": source(2.0, 3)}, resamples=20)
    assert entry["bits_per_byte"] == pytest.approx(1.5)
    assert entry["bits_per_byte_interval"] == pytest.approx([1.5, 1.5])
    assert bootstrap.ratio([100.0, 6.0], [100.0, 3.0]) != pytest.approx(1.5)


def test_batches_of_masked_documents_restart_segments_and_positions_after_each_end():
    rows = np.array([[5, 9, 6, 7, 9, 8, 3]])
    batch = heldout.make_batch(rows, eod=9, mask_documents=True)
    assert batch["inputs_BL"].tolist() == [[5, 9, 6, 7, 9, 8]]
    assert batch["targets_BL"].tolist() == [[9, 6, 7, 9, 8, 3]]
    assert batch["segments_BL"].tolist() == [[1, 1, 2, 2, 2, 3]]
    assert batch["positions_BL"].tolist() == [[0, 1, 0, 1, 2, 0]]
    plain = heldout.make_batch(rows, eod=9, mask_documents=False)
    assert plain["segments_BL"].tolist() == [[1] * 6]
    assert plain["positions_BL"].tolist() == [list(range(6))]
