"""Batches from small real stores: content, boundaries of documents, any number of processes, any step to resume from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config as c
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.data import loader, order, recipe
from kaiyuan_jax.data.store_write import write_store

EOD, LENGTH, BATCH = 7, 16, 8


def build(folder, documents, seed, tokenizer="{}", **settings):
    rng = np.random.default_rng(seed)
    table = ((f"{folder.name}-{i}", i / documents, 40, rng.integers(8, 300, rng.integers(1, 60))) for i in range(documents))
    return write_store(folder, documents=table, tokenizer_json=tokenizer, vocabulary=300, eod=EOD, **settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three stores, one compressed, and two phases whose border falls inside a batch."""
    folder = tmp_path_factory.mktemp("stores")
    for number, (name, documents, level) in enumerate([("web", 120, 0), ("code", 50, 1), ("math", 4, 0)]):
        build(folder / name, documents, number, compression=level)
    everything = [c.Use(source="web", passes=1.5), c.Use(source="code"), c.Use(source="math", passes=2.0)]
    best = [c.Use(source="web", window=(0.5, 1.0)), c.Use(source="code", window=(0.7, 1.0))]
    return c.Data(
        sources=[c.Source(name=name, path=str(folder / name)) for name in ("web", "code", "math")],
        phases=[c.Phase(name="all", uses=everything), c.Phase(name="best", uses=best, order="ascending")],
        sequence_length=LENGTH,
        batch_size=BATCH,
    )


@pytest.fixture(scope="module")
def stores(data):
    return loader.open_stores(data)


@pytest.fixture(scope="module")
def plan(data):
    return recipe.resolve(data, *recipe.facts_of(data))


@pytest.fixture(scope="module")
def whole(plan, stores):
    return list(loader.batches(plan, stores, mask_documents=True, prefetch=0))


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        assert np.array_equal(batch[name], other[name]), name


def test_a_batch_holds_the_tokens_of_the_sequences_that_the_order_names(plan, stores, whole):
    assert len(whole) == plan.steps
    for step, batch in enumerate(whole):
        rows = order.batch(plan, step)
        for i in range(BATCH):
            start = int(rows.sequence[i]) * LENGTH
            tokens = stores[rows.source[i]].read(start, start + LENGTH + 1)
            assert np.array_equal(batch["inputs_BL"][i], tokens[:-1])
            assert np.array_equal(batch["targets_BL"][i], tokens[1:])
        assert np.array_equal(batch["sources_B"], rows.source)


def test_every_token_but_the_first_is_a_target_once_per_pass(data, stores):
    data = c.Data(sources=data.sources, phases=[c.Phase(uses=[c.Use(source="web")])], sequence_length=LENGTH, batch_size=1)
    plan = recipe.resolve(data, *recipe.facts_of(data))
    targets = np.concatenate([batch["targets_BL"].ravel() for batch in loader.batches(plan, stores, prefetch=0)])
    tokens = stores[0].read(0, stores[0].tokens)
    assert np.array_equal(np.bincount(targets, minlength=300), np.bincount(tokens[1 : targets.size + 1], minlength=300))
    assert stores[0].tokens - 1 - targets.size < LENGTH


def test_arrays_are_int32_and_shaped_batch_by_length(whole):
    assert {(name, array.dtype.name, array.shape) for name, array in whole[0].items()} == {
        ("inputs_BL", "int32", (BATCH, LENGTH)),
        ("targets_BL", "int32", (BATCH, LENGTH)),
        ("segments_BL", "int32", (BATCH, LENGTH)),
        ("positions_BL", "int32", (BATCH, LENGTH)),
        ("sources_B", "int32", (BATCH,)),
    }


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.sampled_from([0, 1, 2, EOD]), min_size=9, max_size=9), min_size=1, max_size=6))
def test_segments_count_documents_and_positions_count_tokens_inside_them(tokens):
    inputs = np.array(tokens, np.int32)
    segments, positions = loader.segments_and_positions(inputs, EOD)
    for row in range(len(inputs)):
        segment, position = 1, 0
        for column in range(9):
            assert (segments[row, column], positions[row, column]) == (segment, position)
            position += 1
            if inputs[row, column] == EOD:
                segment, position = segment + 1, 0


def test_without_masking_a_row_is_one_segment(plan, stores, whole):
    for batch, masked in zip(loader.batches(plan, stores, prefetch=0), whole, strict=True):
        assert np.array_equal(batch["inputs_BL"], masked["inputs_BL"])
        assert (batch["segments_BL"] == 1).all()
        assert (batch["positions_BL"] == np.arange(LENGTH)).all()
    assert max(batch["segments_BL"].max() for batch in whole) > 1


@pytest.mark.parametrize("layout", ["blocks", "strided", "uneven"])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_global_batch_is_the_same_for_any_number_of_processes(plan, stores, whole, processes, layout):
    if layout == "uneven":
        shares = np.array_split(np.random.default_rng(0).permutation(BATCH), processes)
    elif layout == "strided":
        shares = [np.arange(p, BATCH, processes) for p in range(processes)]
    else:
        shares = np.split(np.arange(BATCH), processes)
    parts = [loader.batches(plan, stores, rows=rows, mask_documents=True, prefetch=2) for rows in shares]
    for expected in whole:
        batch = {name: np.empty_like(array) for name, array in expected.items()}
        for rows, part in zip(shares, parts, strict=True):
            for name, array in next(part).items():
                batch[name][rows] = array
        assert_equal(batch, expected)
    for part in parts:
        with pytest.raises(StopIteration):
            next(part)


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_resuming_at_any_step_continues_with_the_same_batches(plan, stores, whole, prefetch):
    for step in range(0, plan.steps + 1, 5):
        rest = loader.batches(plan, stores, start_step=step, mask_documents=True, prefetch=prefetch)
        for k in range(step, min(step + 3, plan.steps)):
            assert rest.state == k  # the next step, whatever has been read ahead
            assert_equal(next(rest), whole[k])
        rest.close()


def test_a_run_that_is_complete_resumes_to_nothing(plan, stores):
    assert list(loader.batches(plan, stores, start_step=plan.steps)) == []


def test_any_batch_is_there_by_its_step(plan, stores, whole):
    elements = loader.dataset(plan, stores, mask_documents=True)
    for step in (plan.steps - 1, 0, plan.steps // 2):
        assert_equal(elements[step], whole[step])


@pytest.mark.parametrize("step", [-1, 10**6])
def test_a_start_outside_the_run_is_refused(plan, stores, step):
    with pytest.raises(ConfigError, match=f"start_step: found {step}, must be 0 to {plan.steps}"):
        loader.batches(plan, stores, start_step=step)


@pytest.mark.parametrize("rows", [[], [-1], [0, BATCH]])
def test_rows_outside_the_batch_are_refused(plan, stores, rows):
    with pytest.raises(ConfigError, match="must be some of 0 to 7"):
        loader.batches(plan, stores, rows=np.array(rows, np.int64))


def test_stores_that_the_plan_was_not_made_for_are_refused(plan, stores):
    with pytest.raises(ConfigError, match="found 2, the plan has 3 sources: web, code, math"):
        loader.batches(plan, stores[:2])
    with pytest.raises(ConfigError, match="'web': its store has .* the plan was made for"):
        loader.batches(plan, [stores[1], stores[0], stores[2]])


def test_every_store_that_does_not_open_is_named(data, tmp_path):
    build(tmp_path / "other", 5, 9, tokenizer='{"another": 1}')
    wrong = [*data.sources[:1], c.Source(name="gone", path=str(tmp_path / "gone")), c.Source(name="other", path=str(tmp_path / "other"))]
    with pytest.raises(ConfigError) as error:
        loader.open_stores(c.Data(sources=wrong))
    gone, other = str(error.value).splitlines()
    assert gone.startswith("config.data.sources 'gone': ") and "no such folder" in gone
    assert other.startswith("config.data.sources 'other': ") and "another tokenizer" in other


def test_a_store_whose_tokens_changed_on_disk_is_refused_unless_it_is_too_large_to_read(tmp_path):
    build(tmp_path / "web", 40, 0)
    data = c.Data(sources=[c.Source(name="web", path=str(tmp_path / "web"))])
    stores = loader.open_stores(data)
    loader.verify(data, stores)
    (shard,) = (path for path in (tmp_path / "web" / "tokens").rglob("0") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[10] ^= 1  # one bit of one token; the size stays, so opening does not see it
    shard.write_bytes(content)
    stores = loader.open_stores(data)
    with pytest.raises(ConfigError, match="config.data.sources 'web': .*checksum"):
        loader.verify(data, stores)
    data.verify_tokens = stores[0].tokens - 1
    loader.verify(data, stores)
