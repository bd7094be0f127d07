import numpy as np
import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax.data import loader, order, provenance, recipe
from kaiyuan_jax.data.store_write import write_store

LENGTH = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        table = ((f"{name}{i}", float(i), 9, rng.integers(1, 50, rng.integers(1, 25))) for i in range(30))
        write_store(folder / name, documents=table, tokenizer_json="{}", vocabulary=50, eod=0)
    data = c.Data(
        sources=[c.Source(name=name, path=str(folder / name)) for name in "ab"],
        phases=[c.Phase(name="first", uses=[c.Use(source="a", passes=2.0), c.Use(source="b")], order="ascending")],
        sequence_length=LENGTH,
        batch_size=4,
    )
    return recipe.resolve(data, *recipe.facts_of(data)), loader.open_stores(data)


def test_the_documents_of_a_row_are_exactly_its_input_tokens(run):
    plan, stores = run
    for step in range(plan.steps):
        inputs_BL = loader.dataset(plan, stores)[step]["inputs_BL"]
        for row, inputs in zip(provenance.trace(plan, stores, step), inputs_BL, strict=True):
            store = stores[plan.sources.index(row.source)]
            parts = [store.documents.offset[piece.document] + piece.begin + np.arange(piece.tokens) for piece in row.pieces]
            assert np.array_equal(store.read(0, store.tokens)[np.concatenate(parts)], inputs)
            assert sum(piece.tokens for piece in row.pieces) == LENGTH


def test_a_row_names_its_source_pass_score_and_quantile(run):
    plan, stores = run
    for step in (0, plan.steps - 1):
        rows = order.batch(plan, step)
        for i, row in enumerate(provenance.trace(plan, stores, step)):
            assert (row.row, row.phase, row.source) == (i, "first", plan.sources[rows.source[i]])
            assert (row.sequence, row.pass_, row.quantile) == (rows.sequence[i], rows.pass_[i], rows.quantile[i])
            for piece in row.pieces:
                assert piece.id == f"{row.source}{piece.document}" and piece.quality == piece.document
                assert abs(piece.quantile - row.quantile) < 0.1  # a document of this row lies where the row lies


def test_some_rows_of_a_batch_are_the_same_as_in_the_whole(run):
    plan, stores = run
    whole = provenance.trace(plan, stores, 3)
    assert provenance.trace(plan, stores, 3, [2, 0]) == [whole[2], whole[0]]
