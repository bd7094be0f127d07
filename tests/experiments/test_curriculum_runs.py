"""A cell is trained, averaged and evaluated as one, and what is there is not done again."""

import dataclasses

import jax
import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.experiments import curriculum_runs, population
from kaiyuan_jax.experiments.curriculum import AVERAGES, QUICK, Cell, Recipe, Study, recipes
from kaiyuan_jax.experiments.population.trained import open_population

RECIPES = tuple(Recipe(order, schedule) for order in ("ascending", "A,A") for schedule in ("constant", "wsd_300"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "text"
    tokenizer = tokenizers.train(["the cat sat on the mat"], 270)
    for part, documents in (("train", 120), ("heldout", 40)):
        random = np.random.default_rng(documents)
        texts = [(f"d{i}", float(i), 60, random.integers(1, 50, 30).astype(np.uint16)) for i in range(documents)]
        write_store(folder / part, documents=texts, tokenizer_json=tokenizer.to_str(), vocabulary=270, eod=0)
    return folder


@pytest.fixture(scope="module")
def cell(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    corpus = curriculum_runs.control(str(stores / "train"), str(stores / "heldout"), folder)
    made = Cell(corpus, QUICK, 0, folder / "cells" / "control_seed0", RECIPES)
    devices = jax.devices()[:1]
    curriculum_runs.evaluate(made, *curriculum_runs.train(made, devices), devices)
    return made


def of(table, recipe, average):
    return table["nats"][recipes().index(recipe), AVERAGES.index(average)]


def test_every_recipe_of_the_cell_has_a_loss_of_its_own_under_every_average(cell):
    (table,) = curriculum_runs.held_out(cell).values()
    assert table["nats"].shape == (36, 6, len(table["document"]))
    assert table["tokens"].sum() == QUICK.rows * QUICK.sequence_length
    found = table["nats"][[recipes().index(recipe) for recipe in RECIPES]]
    assert np.isfinite(found).all() and len({loss.tobytes() for loss in found.reshape(4 * 6, -1)}) == 4 * 6
    assert np.isnan(of(table, Recipe("folded", "constant"), "none")).all()


def test_losses_are_those_of_the_checkpoints(cell):
    """The mean of three checkpoints, weighed by hand and read alone."""
    trained, recipe = open_population(cell.folder / "decays"), Recipe("A,A", "wsd_300")
    index = trained.names.index(recipe.name(0))
    parts = [trained.solo(trained.parameters({step: 1.0}), index) for step in (16, 18, 20)]
    mean = jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(np.float32), *parts)
    (table,) = curriculum_runs.held_out(cell).values()
    store = open_store(cell.corpus.sources[0][2])
    sums = heldout.losses_by_document(heldout.token_losses(trained.graphdef), mean, store, trained.members[index], np.zeros(2048, np.int64))
    np.testing.assert_allclose(of(table, recipe, "sma"), sums.nats, rtol=1e-4)


def test_decays_end_with_the_same_bits_and_lines_as_from_their_beginning(cell, tmp_path):
    decays = cell.part(decays=True)
    whole = population.train(decays, tmp_path, devices=jax.devices()[:1], folders=False)
    branched = open_population(cell.folder / "decays")
    jax.tree.map(np.testing.assert_array_equal, *(end.parameters({QUICK.steps: 1.0}) for end in (whole, branched)))
    for one in decays:
        lines = [(folder / "metrics" / f"{one.name}.jsonl").read_text() for folder in (whole.folder, branched.folder)]
        assert lines[0] == lines[1] and len(lines[0].splitlines()) > QUICK.steps
    assert branched.steps == [12, 14, 16, 18, 20] and not (cell.folder / "trunk" / "members").exists()


def test_a_second_call_does_nothing(cell):
    path = curriculum_runs.losses_path(cell)
    before = path.read_bytes(), path.stat().st_mtime_ns
    curriculum_runs.evaluate(cell, *curriculum_runs.train(cell, jax.devices()[:1]))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_the_best_share_of_a_store_is_its_end(stores, tmp_path):
    source, best = open_store(stores / "heldout"), open_store(curriculum_runs.best(str(stores / "heldout"), 0.25, tmp_path))
    assert len(best.documents) == 10 and best.documents.quality.tolist() == source.documents.quality[-10:].tolist()
    np.testing.assert_array_equal(best.read(0, best.tokens), source.read(source.tokens - best.tokens, source.tokens))


def test_a_folder_that_holds_another_size_is_refused_and_more_seeds_are_not(cell, tmp_path):
    study = Study(QUICK, (cell.corpus,), 2, tmp_path)
    curriculum_runs.hold(study)
    curriculum_runs.hold(dataclasses.replace(study, seeds=3))
    with pytest.raises(UserError, match="holds a study with another size"):
        curriculum_runs.hold(dataclasses.replace(study, size=dataclasses.replace(QUICK, peak=1.0)))
