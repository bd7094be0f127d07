"""What the study says is what its losses say: contrasts, outcomes and findings on losses whose effects are known."""

import json

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments import curriculum, curriculum_results, curriculum_runs
from kaiyuan_jax.experiments.curriculum import AVERAGES, QUICK, Corpus, Recipe, Study, recipes
from kaiyuan_jax.experiments.curriculum_findings import FINDINGS, TABLES, kept
from kaiyuan_jax.experiments.curriculum_results import outcome, together

DOCUMENTS = 40


def paper(recipe, average):
    """Nats per token of a world in which every finding holds: a bias of the order, noise of the rate, and good text that a decay wastes."""
    mean = average in ("sma", "ema", "ema_seeded", "ema_powers")
    depth = {"constant": 0, "wsd_3": 1}.get(recipe.schedule, 2)
    noise = (0.30, 0.10, 0.0)[depth] * (0.2 if mean else 0.9 if average == "wma" else 1.0)
    bias = {"uniform": 0.5, "ascending": 0.0, "descending": 0.9, "folded": 0.2, "U,U": 0.5, "U,A": 0.45, "A,A": 0.1, "A-T": 0.0}
    good = {"ascending": 0.56, "folded": 0.33, "U,A": 0.05, "A,A": 0.41, "A-T": 0.52}.get(recipe.order, 0.0)
    wasted = good * (0.6 if average == "wma" else (0.0, 0.02, 1.0)[depth])
    return 4.0 + bias[recipe.order] + noise + wasted


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Study(QUICK, (Corpus("known", ()),), 3, tmp_path_factory.mktemp("study"))
    tokens = np.random.default_rng(9).integers(20, 40, DOCUMENTS)  # of the same documents for every seed
    for cell in made.cells():
        noise = np.random.default_rng(cell.seed)
        common = noise.normal(0, 0.05)
        nats = [[paper(recipe, average) + common + noise.normal(0, 1e-3, DOCUMENTS) for average in AVERAGES] for recipe in recipes()]
        cell.folder.mkdir(parents=True)
        arrays = {"nats": np.array(nats) * tokens, "tokens": tokens, "document": np.arange(DOCUMENTS)}
        np.savez(curriculum_runs.losses_path(cell), **{f"text/{name}": values for name, values in arrays.items()})
    return made


@pytest.fixture(scope="module")
def results(study):
    return curriculum_results.collect(study)


def test_in_a_world_where_all_holds_every_finding_reproduces(results):
    found = results["corpora"]["known"]["findings"]
    assert {one["title"]: one["outcome"] for one in found} == {one.title: "yes" for one in FINDINGS}
    assert sum(not one["extra"] for one in found) == 6


def test_gaps_are_those_of_the_world(results):
    corpus = results["corpora"]["known"]
    for average in AVERAGES:
        for row, schedule in zip(corpus["gaps"][average], ("constant", "wsd_3", "wsd_10"), strict=False):
            uniform, ascending = (paper(curriculum.Recipe(order, schedule), average) for order in ("uniform", "ascending"))
            assert row["mean"] == pytest.approx(uniform - ascending, abs=2e-3)
            assert row["interval"][0] < row["mean"] < row["interval"][1]
    assert [row["end"] for row in corpus["gaps"]["none"]] == pytest.approx([1, 1 / 3, 1 / 10, 1 / 30, 1 / 100, 1 / 300])


def test_a_member_that_diverged_is_named_and_seen_in_no_finding(study, tmp_path):
    other = Study(QUICK, study.corpora, 2, tmp_path)
    for cell, theirs in zip(other.cells(), study.cells(), strict=False):
        cell.folder.mkdir(parents=True)
        with np.load(curriculum_runs.losses_path(theirs)) as arrays:
            tables = dict(arrays)
        tables["text/nats"][recipes().index(Recipe("ascending", "constant"))] = np.nan
        np.savez(curriculum_runs.losses_path(cell), **tables)
    corpus = curriculum_results.collect(other)["corpora"]["known"]
    assert corpus["diverged"] == [f"ascending constant {average}" for average in AVERAGES]
    assert corpus["findings"][0]["outcome"] == "not seen"


def test_tables_compare_with_their_first_row(results):
    for name, rows in results["corpora"]["known"]["tables"].items():
        first = rows[0]["loss"]["mean"]
        assert rows[0]["difference"] is None and len(rows) == len(TABLES[name])
        for row in rows[1:]:
            assert row["difference"]["mean"] == pytest.approx(row["loss"]["mean"] - first)


def test_everything_is_json_and_on_disk(study, results):
    assert json.loads((study.folder / "results.json").read_text()) == json.loads(json.dumps(results))


def test_a_cell_that_is_not_finished_is_named(study):
    more = Study(QUICK, study.corpora, 4, study.folder)
    with pytest.raises(UserError, match="known_seed3: not finished"):
        curriculum_results.collect(more)


@pytest.mark.parametrize(
    "seeds, documents, expected",
    [
        ([-2, -1], [-2, -1], "yes"), ([1, 2], [1, 2], "no"), ([-1, 1], [-2, -1], "not seen"), ([-2, -1], [-1, 1], "not seen"),
        ([-2, -1], [1, 2], "not seen"), (None, [-2, -1], "not seen"), ([np.nan, np.nan], [-2, -1], "not seen"),
    ],
)  # fmt: skip
def test_an_outcome_needs_both_intervals_on_one_side(seeds, documents, expected):
    assert outcome({"interval": seeds, "documents": documents}) == expected


def test_a_finding_is_as_its_tests_are():
    assert together(["yes", "yes"]) == "yes"
    assert together(["yes", "not seen"]) == "not seen"
    assert together(["yes", "no", "not seen"]) == "no"


def test_every_test_of_a_finding_is_a_contrast_that_sums_to_nothing_where_all_are_equal():
    for finding in FINDINGS:
        for test in finding.tests:
            assert sum(sign for sign, _ in test.terms) == 0
    assert str(kept("A-T", "constant", "sma")) == "A-T constant sma"
