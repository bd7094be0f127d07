"""Intervals hold what they promise, chance is not flagged, and what is there is."""

import numpy as np
import pytest

from kaiyuan_jax.experiments.quantiles import statistics
from kaiyuan_jax.experiments.quantiles.statistics import Measure, draws, rank_means, ranking, shapes

DOCUMENTS = 60


def measure(random, means_IQ, *, seeds=3, cell=0.02, shared=0.1, document=0.3):
    """Sums with known truth: cell noise, an effect of the seed on all cells, and documents of differing difficulty that all cells share."""
    means_IQ = np.asarray(means_IQ, np.float64)
    shape = (*means_IQ.shape, seeds)
    values = means_IQ[..., None] + cell * random.standard_normal(shape) + shared * random.standard_normal(seeds)
    weights = random.integers(50, 500, DOCUMENTS).astype(np.float64)
    difficulty = document * random.standard_normal(DOCUMENTS)
    return Measure("made up", (values[..., None] + difficulty) * weights, weights)


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 500)


def test_equal_windows_are_flagged_no_more_often_than_promised():
    random = np.random.default_rng(0)
    found = [shapes(draws(measure(random, np.ones((1, 5)))))[0] for _ in range(80)]
    assert np.mean([any(one.flagged for one in shape.inversions) for shape in found]) < 0.1  # 5% promised
    assert 0.3 < np.mean([shape.p for shape in found]) < 0.7


def test_a_window_that_breaks_the_order_is_flagged_against_those_below_it():
    random = np.random.default_rng(1)
    table = draws(measure(random, [[1.0, 1.02, 1.3, 1.04, 1.06], [1.0, 1.05, 1.1, 1.15, 1.2]]))
    broken, whole = shapes(table)
    assert {(one.better, one.worse) for one in broken.inversions if one.flagged} == {(2, 3), (2, 4)}
    assert not any(one.flagged for one in whole.inversions)
    assert broken.p < 0.01 and whole.correlation > 0.8 and whole.gain_interval[0] > 0.1


def test_intervals_of_differences_hold_the_truth_as_often_as_they_say():
    random, inside = np.random.default_rng(2), []
    for _ in range(120):
        shape = shapes(draws(measure(random, [[1.0, 1.1, 1.05]])))[0]
        inside.append(shape.gain_interval[0] <= 0.05 <= shape.gain_interval[1])
    assert 0.88 <= np.mean(inside) <= 0.995  # 0.95


def test_what_a_seed_does_to_all_cells_widens_no_difference():
    values = np.random.default_rng(3).standard_normal((2, 4, 3, 1))
    weights = np.full(DOCUMENTS, 10.0)
    quiet, loud = (
        shapes(draws(Measure("m", (0.01 * values + shift) * weights, weights)))
        for shift in (np.zeros((1, 1, 3, 1)), np.array([5.0, 0, -5]).reshape(1, 1, 3, 1))
    )
    for one, other in zip(quiet, loud, strict=True):
        np.testing.assert_allclose(one.gain_interval, other.gain_interval, atol=1e-9)


def test_more_seeds_and_less_noise_give_narrower_intervals():
    def width(**options):
        low, high = shapes(draws(measure(np.random.default_rng(4), np.ones((1, 6)), **options)))[0].gain_interval
        return high - low

    assert width(seeds=12) < 0.7 * width(seeds=3) and width(cell=0.005) < 0.5 * width(cell=0.02)


def test_a_mean_of_measures_weighs_them_equally_whatever_their_documents():
    random = np.random.default_rng(5)
    parts = [draws(measure(random, [[1.0, 2.0], [3.0, 4.0]])), draws(measure(random, [[5.0, 5.0], [5.0, 5.0]]))]
    both = statistics.combined(parts)
    np.testing.assert_allclose(both.mean, (parts[0].mean + parts[1].mean) / 2)
    np.testing.assert_allclose(both.documents, (parts[0].documents + parts[1].documents) / 2)
    np.testing.assert_array_equal(statistics.combined(parts[:1]).samples, parts[0].samples)


def test_noise_that_measures_have_in_common_does_not_average_out():
    one = measure(np.random.default_rng(7), np.ones((2, 6)))
    parts = [draws(Measure(name, one.numerators, one.denominators)) for name in ("one task", "another", "a third")]

    def width(table):
        low, high = shapes(table)[0].gain_interval
        return high - low

    assert width(statistics.combined(parts)) > 0.9 * width(parts[0])


def test_windows_that_are_equal_in_every_draw_are_no_inversion():
    weights, right = np.ones(DOCUMENTS), np.arange(DOCUMENTS) % 2.0
    values = np.stack([right, right, np.zeros(DOCUMENTS)])[None, :, None].repeat(3, axis=2)  # seeds agree in every document
    (shape,) = shapes(draws(Measure("accuracy", values, weights)))
    assert {(one.better, one.worse) for one in shape.inversions if one.flagged} == {(0, 2), (1, 2)}


def test_sources_are_ranked_with_the_doubt_there_is():
    table = draws(measure(np.random.default_rng(6), [[1.5, 1.5], [1.0, 1.0], [1.001, 1.001]]))
    places = ranking(table.mean[:, 0], table.samples[:, 0])
    assert {places[0].source, places[1].source} == {1, 2} and places[2].source == 0
    assert places[1].behind_interval[0] < 0 < places[1].behind_interval[1]  # these two cannot be told apart
    assert places[2].behind_interval[0] > 0.3 and places[2].best == 0 and places[2].rank == (3, 3)
    assert sum(place.best for place in places) == pytest.approx(1)
    assert rank_means([table, table], 0)[2].source == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 1)])
def test_noise_that_cannot_be_told_is_not_guessed(shape):
    with pytest.raises(ValueError, match="two of each"):
        draws(Measure("m", np.ones((*shape, 4)), np.ones(4)))
