"""Nodes in place of sources: which sums they give back exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws import cells, rules


@pytest.mark.parametrize("n", range(1, cells.ORDER + 1))
def test_a_rule_of_n_nodes_has_the_first_2n_moments_of_the_changes(n):
    T = 512
    gaps = np.random.default_rng(n).uniform(0.5, 1.5, T)
    gaps[0] = 0
    # nearly constant rates: y is the step, up to a scale
    rates = 1 - 1e-12 * np.cumsum(gaps)
    gap = -np.diff(rates, prepend=rates[:1])
    y = np.arange(T, dtype=np.float64)
    tree = cells.tree(rates, gap, np.log(rates), y, False)
    which = np.array([np.flatnonzero(tree.count == 63)[0], np.flatnonzero(tree.count == 32)[-1]])
    spans = np.arange(0, 64), np.arange(T - 32, T)
    weight, u, at = rules.gauss(tree, which, n)
    for row, k in enumerate(spans):
        middle, half = k.mean(), k.size / 2
        for p in range(2 * n):
            expected = gap[k] @ ((y[k] - middle) / half) ** p
            assert weight[row] @ ((at[row] - middle) / half) ** p == pytest.approx(expected, abs=1e-10 * gap[k].sum() + 1e-20)
    assert np.all(weight > 0)


def test_the_nodes_of_rises_have_negative_weights():
    rates = np.linspace(0.5, 1, 64)
    tree = cells.tree(rates, -np.diff(rates, prepend=0.5), np.log(rates), np.cumsum(rates) - rates, False)
    weight, _, _ = rules.gauss(tree, np.flatnonzero(tree.count == 32), 3)
    assert np.all(weight < 0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), sources=st.integers(1, 300), degree=st.integers(2, 6))
def test_tensors_give_back_polynomials_in_both_directions(seed, sources, degree):
    generator = np.random.default_rng(seed)
    owner = np.sort(generator.integers(0, 3, sources))
    weight, u, y = generator.normal(size=sources), -generator.exponential(0.5, sources), generator.uniform(0, 1, sources)
    at, w, nu, ny = rules.tensors(owner, weight, u, y, degree)
    assert np.all(np.diff(at) >= 0) and set(at) <= set(owner)
    for i in range(degree):
        for j in range(degree):
            for cell in set(owner.tolist()):
                mine, nodes = owner == cell, at == cell
                expected = weight[mine] @ (u[mine] ** i * y[mine] ** j)
                assert w[nodes] @ (nu[nodes] ** i * ny[nodes] ** j) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_band_with_few_sources_keeps_them():
    u = np.array([-0.1, -0.2, -5.0])
    found = rules.tensors(np.zeros(3, int), np.array([1.0, 2.0, 3.0]), u, np.array([0.3, 0.2, 0.1]), degree=4)
    assert sorted(zip(*(part.tolist() for part in found), strict=True)) == [(0, 1.0, -0.1, 0.3), (0, 2.0, -0.2, 0.2), (0, 3.0, -5.0, 0.1)]


def test_sources_at_one_rate_and_one_place_may_be_as_many_as_they_like():
    found = rules.tensors(np.zeros(50, int), np.ones(50), np.full(50, -0.1), np.full(50, 7.0), degree=3)
    assert math.fsum(found[1]) == pytest.approx(50) and found[2] == pytest.approx(-0.1) and found[3] == pytest.approx(7.0)
