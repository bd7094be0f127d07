"""A control store holds the same text as its source, in an order that says nothing, with noise exactly where it was asked for."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments import noise


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    random = np.random.default_rng(0)
    texts = [(f"d{i}", i / 80, 7 + i, random.integers(1, 300, 60).astype(np.uint16)) for i in range(80)]
    return write_store(tmp_path_factory.mktemp("source") / "train", documents=texts, tokenizer_json="{}", vocabulary=300, eod=0)


def by_id(store):
    table = store.documents
    spans = zip(table.offset.tolist(), (table.offset + table.length - 1).tolist(), strict=True)
    return {table.id(i): (store.read(*span), int(table.bytes[i])) for i, span in enumerate(spans)}


@settings(max_examples=10)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_documents_in_the_ranges_change_and_no_others(source, tmp_path_factory, one, other, seed):
    low, high = sorted((one, other))
    hypothesis.assume(low < high)
    made = noise.inject(source, tmp_path_factory.mktemp("made") / "train", noise=[(low, high), (0.9, 0.95)], seed=seed)
    before, after = by_id(source), by_id(made)
    assert before.keys() == after.keys()
    middle = {made.documents.id(i): made.quality_quantile(i) for i in range(len(made.documents))}
    for name, (tokens, size) in after.items():
        same = np.array_equal(tokens, before[name][0])
        assert same != (low <= middle[name] < high or 0.9 <= middle[name] < 0.95)
        assert len(tokens) == len(before[name][0]) and size == before[name][1] and 0 not in tokens


def test_the_new_order_has_nothing_to_do_with_the_old_one(source, tmp_path):
    made = noise.inject(source, tmp_path / "train", noise=[])
    places = [int(made.documents.id(i)[1:]) for i in range(80)]
    assert abs(np.corrcoef(places, range(80))[0, 1]) < 0.35 and np.all(np.diff(made.documents.quality) > 0)


def test_strength_is_the_share_of_tokens_that_change(source, tmp_path):
    made = noise.inject(source, tmp_path / "train", noise=[(0, 1)], strength=0.3)
    before, after = by_id(source), by_id(made)
    moved = np.mean([np.mean(after[name][0] != before[name][0]) for name in before])
    assert 0.25 < moved < 0.31


def test_graded_noise_falls_with_quality_to_a_clean_end(source, tmp_path):
    made = noise.grade(source, tmp_path / "train", share=0.8, rate=0.5)
    before, after = by_id(source), by_id(made)
    quantile = np.array([made.quality_quantile(i) for i in range(80)])
    changed = np.array([np.mean(after[made.documents.id(i)][0] != before[made.documents.id(i)][0]) for i in range(80)])
    expected = 0.5 * np.maximum(0, 1 - quantile / 0.8)
    assert np.all(changed[quantile >= 0.8] == 0) and np.abs(changed - expected).max() < 0.25
    assert abs(np.mean(changed - expected)) < 0.02
    assert all(0 not in tokens for tokens, _ in after.values())


@pytest.mark.parametrize("options", [{"share": 0.0}, {"rate": 1.2}])
def test_a_grade_outside_its_range_is_refused(source, tmp_path, options):
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        noise.grade(source, tmp_path / "train", **options)


@pytest.mark.parametrize("options", [{"noise": [(0.5, 0.4)]}, {"noise": [(0, 0.1), (-0.1, 0.4)]}, {"noise": [(0, 0.5)], "strength": 1.5}])
def test_what_is_no_range_is_refused_before_anything_is_written(source, tmp_path, options):
    with pytest.raises(UserError, match="must be"):
        noise.inject(source, tmp_path / "train", **options)
    assert not (tmp_path / "train").exists()
