"""Sampling with a temperature against Gumbel top-k itself, drawn and in its exact probabilities, and what a recipe makes of it."""

import collections
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from kaiyuan_jax import config as c
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.config_check import ORDERS
from kaiyuan_jax.data import order, sampling
from kaiyuan_jax.data.recipe import exposures, resolve


def gumbel_top_k(log_weights, rows, random, draws):
    """int64[draws, rows]: the definition."""
    keys = log_weights + random.gumbel(size=(draws, len(log_weights)))
    return np.argpartition(-keys, rows - 1, axis=1)[:, :rows]


def inclusion_by_enumeration(weights, rows):
    """float64[n]: how probably each is among `rows` draws in proportion to the weights that are left; all orders are listed."""
    found = np.zeros(len(weights))
    for chosen in itertools.permutations(range(len(weights)), rows):
        probability, left = 1.0, sum(weights)
        for one in chosen:
            probability, left = probability * weights[one] / left, left - weights[one]
        found[list(chosen)] += probability
    return found


def make_plan(size, *, rows=0, temperature=1.0, seed=0, scored=True, **use):
    phase = c.Phase(name="p", order=use.pop("order", "ascending"), tokens=4 * rows)
    phase.uses = [c.Use(source="s", temperature=temperature, **use)]
    data = c.Data(sources=[c.Source(name="s")], phases=[phase], sequence_length=4, batch_size=1, seed=seed)
    return resolve(data, {"s": 4 * size + 1}, {"s": scored})


def sequences(plan):
    return order.rows(plan, np.arange(plan.positions)).sequence


def test_gumbel_top_k_draws_without_replacement_in_proportion_to_the_weights_that_are_left():
    log_weights, draws = np.array([-1.5, -0.3, 0.0, 0.4, 1.7]), 40_000
    for rows in (1, 2, 4):
        exact = inclusion_by_enumeration(np.exp(log_weights), rows)
        chosen = gumbel_top_k(log_weights, rows, np.random.default_rng(rows), draws)
        drawn = np.bincount(chosen.ravel(), minlength=5) / draws
        np.testing.assert_allclose(drawn, exact, atol=4 * np.sqrt(0.25 / draws))


@settings(max_examples=60)
@given(st.integers(200, 4000), st.integers(200, 4000), st.floats(0.02, 0.98), st.floats(0.3, 5))
def test_of_two_kinds_as_many_are_taken_as_gumbel_top_k_takes_on_average(worse, better, share, temperature):
    # Gumbel top-k over two weights is Wallenius' noncentral hypergeometric distribution, whose mean is known exactly.
    rows, quantiles = max(1, round(share * (worse + better))), (0.3, 0.9)
    odds = np.exp((special.ndtri(0.9) - special.ndtri(0.3)) / temperature)
    exact = stats.nchypergeom_wallenius.mean(worse + better, better, rows, odds)
    low, high = sampling.inclusion(quantiles, (worse, better), rows, temperature)
    assert low * worse + high * better == pytest.approx(rows, rel=1e-9)
    assert high * better == pytest.approx(exact, abs=0.3)


def test_the_parts_of_a_window_give_what_gumbel_top_k_over_its_sequences_gives():
    size, rows, temperature, draws = 4000, 900, 1.0, 300
    log_weights = special.ndtri((np.arange(size) + 0.5) / size) / temperature
    chosen = gumbel_top_k(log_weights, rows, np.random.default_rng(0), draws)
    drawn = np.bincount(chosen.ravel() // (size // sampling.PARTS), minlength=sampling.PARTS) / draws
    ours = np.array(sampling.counts(0, size, size, rows, temperature, 0))
    assert ours.sum() == rows
    np.testing.assert_allclose(ours, drawn, atol=0.5 + 4 * np.sqrt(10 / draws))  # a rounding, and the noise of the mean of a count


@settings(max_examples=50)
@given(st.integers(1, 10**9), st.floats(0, 0.9), st.floats(0.01, 1), st.floats(1e-3, 1e3), st.floats(0, 1), st.integers(0, 9))
def test_counts_add_up_and_no_part_gives_more_than_it_has_nor_less_than_a_worse_one(size, low, width, temperature, share, seed):
    begin, end = int(low * size), max(int(low * size) + 1, int(min(1, low + width) * size))
    rows = round(share * (end - begin))
    found = np.array(sampling.counts(begin, end, size, rows, temperature, seed))
    sizes = np.diff(sampling.edges(end - begin))
    assert found.sum() == rows and (found >= 0).all() and (found <= sizes).all() and (sizes > 0).all()
    assert np.diff(found / sizes).min(initial=0) >= -2 / sizes.min()  # but for roundings


def test_a_low_temperature_takes_the_best_and_a_high_one_all_alike():
    assert sampling.counts(0, 1000, 1000, 250, 1e-3, 0) == (0,) * 75 + (10,) * 25
    assert set(sampling.counts(0, 1000, 1000, 250, 1e6, 0)) <= {2, 3}
    assert sampling.counts(0, 1000, 1000, 1000, 1.0, 0) == (10,) * 100


@pytest.mark.parametrize("rows", [1, 137, 1000, 2999, 3000])
def test_every_order_reads_the_same_sequences_once_and_ascending_sorts_them(rows):
    read = [sequences(make_plan(3000, rows=rows, order=kind)) for kind in ORDERS]
    assert all(len(set(one.tolist())) == rows for one in read)
    assert len({frozenset(one.tolist()) for one in read}) == 1
    assert (np.diff(read[ORDERS.index("ascending")]) > 0).all() and (np.diff(read[ORDERS.index("descending")]) < 0).all()


def test_over_seeds_a_sequence_is_read_as_often_as_gumbel_top_k_would_take_it():
    size, rows, seeds = 700, 200, 150
    read = np.zeros(size)
    for seed in range(seeds):
        read[sequences(make_plan(size, rows=rows, seed=seed, window=(0.1, 1.0)))] += 1
    log_weights = special.ndtri((np.arange(70, size) + 0.5) / size)
    drawn = np.bincount(gumbel_top_k(log_weights, rows, np.random.default_rng(1), 2000).ravel(), minlength=630) / 2000
    assert not read[:70].any()
    tenths = read[70:].reshape(10, 63).mean(axis=1) / seeds, drawn.reshape(10, 63).mean(axis=1)
    np.testing.assert_allclose(*tenths, atol=0.01)
    assert abs(np.abs(read[70:] / seeds - drawn)).max() < 5 * np.sqrt(0.25 / seeds)


def test_two_samples_of_a_phase_keep_their_sources_windows_and_temperatures():
    uses = [c.Use(source="a", temperature=0.2, share=0.5), c.Use(source="b", share=0.2), c.Use(source="c", temperature=9.0, share=0.3)]
    phase = c.Phase(uses=uses, tokens=4000)
    data = c.Data(sources=[c.Source(name=name) for name in "abc"], phases=[phase], sequence_length=4, batch_size=10)
    plan = resolve(data, dict.fromkeys("abc", 16_001), dict.fromkeys("abc", True))
    rows = order.rows(plan, np.arange(plan.positions))
    found = {name: rows.quantile[rows.source == number] for number, name in enumerate("abc")}
    assert {name: len(values) for name, values in found.items()} == {"a": 500, "b": 200, "c": 300}
    assert found["a"].mean() > 0.9 and found["b"].mean() == pytest.approx(0.5, abs=0.06) and 0.5 < found["c"].mean() < 0.65
    assert max(collections.Counter(zip(rows.source.tolist(), rows.sequence.tolist(), strict=True)).values()) == 1


def test_exposures_say_how_densely_each_part_is_read():
    plan = make_plan(1000, rows=250, temperature=0.5)
    steps = exposures(plan)["s"]
    assert sum((step.high - step.low) * step.passes for step in steps) == pytest.approx(0.25)
    passes = [step.passes for step in steps]
    assert passes[-1] == 1.0 and passes[0] == 0.0
    assert np.mean(passes[-4:]) > 0.9 and min(passes[-10:]) > max(passes[: len(passes) // 3])


def test_a_plan_of_billions_of_sequences_takes_no_time():
    begin = time.perf_counter()
    plan = make_plan(3 * 10**9, rows=10**9, temperature=2.0)
    rows = order.rows(plan, np.arange(10**9 - 512, 10**9))
    assert time.perf_counter() - begin < 2 and (np.diff(rows.sequence) > 0).all() and rows.sequence.max() < 3 * 10**9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 2.0}, r"uses\[0\].passes: found 2 with temperature 1, which reads nothing twice; must be at most 1"),
        ({"temperature": -1.0}, r"uses\[0\].temperature: found -1, must be 0 \(none\) or at least 0.001"),
        ({"temperature": 1e-300}, r"uses\[0\].temperature: found 1e-300, must be 0 \(none\) or at least 0.001"),
        ({"scored": False}, r"'s' has temperature 1, but its store is not scored"),
    ],
)
def test_samples_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(1000, **settings)
