"""The cells of a schedule: what they hold, and from how far away they may be replaced."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws import cells


def tree(rates, early=False):
    rates = np.asarray(rates, np.float64)
    gap = -np.diff(rates, prepend=rates[:1])
    log_rate = np.log(np.maximum(rates, cells.FLOOR * rates.max()))
    return cells.tree(rates, gap, log_rate, np.concatenate([[0.0], np.cumsum(rates)[:-1]]), early), gap


def each(found):
    """(level, sign, place, index) of every cell that has sources."""
    offset = 0
    for level, width in enumerate(found.widths):
        for here in range(2 * width):
            if found.index[offset + here] >= 0:
                yield level, here // width, here % width, found.index[offset + here]
        offset += 2 * width


@settings(deadline=None, max_examples=40)
@given(rates=st.lists(st.floats(1e-6, 1e-2), min_size=2, max_size=200).filter(lambda rates: len(set(rates)) > 1))
def test_every_level_holds_every_source_once(rates):
    found, gap = tree(rates)
    for level in range(len(found.widths)):
        mine = [(sign, place, index) for at, sign, place, index in each(found) if at == level]
        assert sum(found.count[index] for *_, index in mine) == np.count_nonzero(gap)
        for sign, place, index in mine:
            size = cells.LEAF * 2**level
            inside = gap[place * size : (place + 1) * size]
            assert found.mass[index] == pytest.approx(inside[inside < 0 if sign else inside > 0].sum(), rel=1e-9)


def test_projections_give_back_what_they_are_projections_of():
    T = 512
    rates = np.linspace(1, 0.5, T) ** 2
    found, gap = tree(rates)
    y = np.concatenate([[0.0], np.cumsum(rates)[:-1]])
    for level, _, place, index in each(found):
        if found.count[index] > cells.ORDER:
            size = cells.LEAF * 2**level
            k = np.arange(place * size, (place + 1) * size)
            k = k[gap[k] > 0]
            # the first coefficient is the mean in the measure of the gaps, the squares of all add up to the mean square
            weights = gap[k] / gap[k].sum()
            assert found.u[0][index] == pytest.approx(weights @ np.log(rates[k]), rel=1e-9)
            assert found.last[index] + found.y[0][index] == pytest.approx(weights @ y[k], rel=1e-9)
            squares = sum(found.u[j][index] ** 2 for j in range(cells.ORDER))
            assert squares == pytest.approx(weights @ np.log(rates[k]) ** 2, abs=1e-4)


def test_more_nodes_reach_no_further_than_fewer():
    found, _ = tree(1 + np.cos(np.linspace(0, math.pi, 3000)))
    assert np.all(found.reach[1:] <= found.reach[:-1]) and np.all(found.reach >= 0)


def test_a_jump_in_an_otherwise_smooth_cell_puts_it_out_of_reach():
    smooth = np.linspace(1, 0.9, 1024)
    jump = np.where(np.arange(1024) < 700, smooth, 0.5 * smooth)
    cells_of_128 = [
        np.array([found.reach[-1, index] for level, *_, index in each(found) if level == 4]) for found, _ in map(tree, (smooth, jump))
    ]
    assert np.isfinite(cells_of_128[0]).tolist() == [True] * 8
    assert np.isfinite(cells_of_128[1]).tolist() == [True] * 5 + [False] + [True] * 2


def test_factors_of_the_summed_rate_ask_for_more_distance_early_on():
    rates = np.linspace(1, 0, 4096)
    plain, early = tree(rates)[0].reach, tree(rates, early=True)[0].reach
    assert np.all(early >= plain) and np.any(early > plain)


def test_cells_of_equal_rates_are_as_far_as_the_scatter_of_their_summed_rates_asks():
    times = 1 + np.random.default_rng(0).geometric(0.2, 1000)
    rates = np.repeat(np.tile([1.0, 0.2], 500), times)
    found, gap = tree(rates)
    y, tolerance = np.cumsum(rates) - rates, cells.TOLERANCE * min(1, cells.VARIATION / np.abs(gap).sum())
    n, seen = cells.ORDER, 0
    for level, sign, place, index in each(found):
        size = cells.LEAF * 2**level
        k = np.arange(place * size, min((place + 1) * size, gap.size))
        k = k[gap[k] < 0 if sign else gap[k] > 0]
        if k.size > 2 * n and np.isfinite(found.reach[-1, index]):
            scatter = np.std(y[k] - np.polynomial.Polynomial.fit(k, y[k], n - 1)(k))
            share, d = np.abs(gap[k]).sum() / tolerance, found.reach[-1, index]
            assert cells.SECOND * share * (scatter / d) ** 2 / 4 <= 1.001
            seen += 1
    assert seen >= 20


def test_only_where_splitting_does_not_help_are_tensors_of_use():
    noise = np.random.default_rng(0).uniform(0.5, 1, 8192)
    assert not np.isfinite(tree(np.linspace(1, 0.1, 8192))[0].tensor).any()
    found, _ = tree(noise)
    assert np.isfinite(found.tensor).any()
    for *_, index in each(found):
        if np.isfinite(found.tensor[index]):
            assert found.count[index] > found.degree**2 and np.isinf(found.reach[-1, index])
