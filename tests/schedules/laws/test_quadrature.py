"""The fast sums over past changes of the rate against the oracle, on every schedule that could be thought of."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws import cells, quadrature
from tests.schedules.laws import released

B_PEAK = 0.3  # what a released fit's B times its peak rate comes to, at most
LIMIT = 1e-6  # of the loss, nats per token


def multi_power(nodes, C, beta, gamma):
    return nodes.sum(-np.expm1(-beta * np.log1p(np.exp(math.log(C) - gamma * nodes.log_rate) * nodes.x)))


def exponential(nodes, C, beta, gamma):
    return nodes.sum(-np.expm1(-np.exp(math.log(C) - gamma * nodes.log_rate) * nodes.x))


def functional_scaling(nodes, C, beta, gamma):
    """Of nodes built with `falls_only`; in units of its own gain from the last summed rate, as c2 (c3 + T^-s) plays B."""
    s, elapsed = gamma / 1.4, np.maximum(np.repeat(nodes.total, np.diff(nodes.start)) - nodes.begin, 0.0)
    size = (0.1 + (nodes.begin / nodes.total.max()) ** -s) / 1.1
    return nodes.sum(size * -np.expm1(-beta * np.log1p(C * elapsed)))


def cosine(begin, end, steps):
    return end + 0.5 * (begin - end) * (1 + np.cos(np.pi * np.linspace(0, 1, steps)))


def warmed(rates):
    warmup = max(1, rates.size // 12)
    return np.concatenate([np.linspace(0, 1, warmup), rates[warmup:]])


def restarts(generator, T):
    return np.concatenate([cosine(1, generator.choice([0, 0.01, 0.3]), part.size) for part in np.array_split(np.arange(T), 5)])


def pieces(generator, T):
    return generator.uniform(0, 1, 20)[np.sort(generator.integers(0, 20, T))]


def ramps(generator, T):
    return np.interp(np.arange(T), np.sort(generator.integers(0, T, 8)), generator.uniform(0, 1, 8))


def decay(generator, T):
    r = np.linspace(0, 1, T - T // 2)
    shape = [1 - r, 1 - np.sqrt(r), (1 - r) ** 1.5, (1 - r) ** 2, 1e-12**r, np.maximum(0, 1 - 3 * r)][generator.integers(6)]
    return warmed(np.concatenate([np.ones(T // 2), shape]))


def zeros(generator, T):
    found = warmed(cosine(1, 0, T))
    for _ in range(3):
        begin = generator.integers(T)
        found[begin : begin + generator.integers(1, 2 + T // 4)] = 0
    return found


def logged(generator, T):
    """What is left of a curve's schedule that was logged every 128 steps with 3 decimals."""
    at = np.arange(0, T, 128)
    return np.interp(np.arange(T), at, np.round(warmed(cosine(1, 0.1, T))[at], generator.choice([3, 17])))


def telegraph(generator, T):
    """Two rates in turn for random times: what tells one fall from another is S(k) alone."""
    times = 1 + generator.geometric(1 / generator.choice([2, 8, 100]), 2 * T)
    return np.where(np.repeat(np.arange(2 * T), times)[:T] % 2, generator.uniform(0.05, 0.9), 1)


SMOOTH = {
    "cosine": lambda generator, T: warmed(cosine(1, generator.choice([0, 1e-3, 0.1]), T)),
    "cosine from the start": lambda generator, T: cosine(1, 0, T),
    "restarts": restarts,
    "decay": decay,
    "pieces": pieces,
    "ramps": ramps,
    "exponential": lambda generator, T: 1e-12 ** np.linspace(0, 1, T),
    "exponential rise": lambda generator, T: 1e-12 ** np.linspace(1, 0, T),
    "long zeros": zeros,
    "logged": logged,
}
ROUGH = {
    "white noise": lambda generator, T: generator.uniform(0, 1, T),
    "noise of 10%": lambda generator, T: warmed(cosine(1, 0.1, T)) * generator.uniform(0.9, 1, T),
    "noise of 0.1%": lambda generator, T: warmed(cosine(1, 0.1, T)) * generator.uniform(0.999, 1, T),
    "random walk": lambda generator, T: np.abs(np.cumsum(generator.normal(size=T))) / T**0.5,
    "random walk of the logarithm": lambda generator, T: np.exp(-np.abs(np.cumsum(generator.normal(size=T))) * 5 / T**0.5),
    "on and off": lambda generator, T: (np.arange(T) // generator.integers(1, 60)) % 2,
    "telegraph": telegraph,
    "spikes": lambda generator, T: np.where(generator.uniform(size=T) < 0.02, 1, 1e-12),
    "saw": lambda generator, T: 1 - (np.arange(T) % 97) / 97,
}
KERNELS = st.tuples(st.floats(math.log(1e-4), math.log(1e2)).map(math.exp), st.floats(0.05, 3), st.floats(0, 1.4))
# Where errors of this kind are largest: the steepest kernel, its bend anywhere on the way.
STEEP = [(C, 3.0, 1.4) for C in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]


def schedule(kind, seed, T, peak=3e-4, single=False):
    rates = peak * np.asarray((SMOOTH | ROUGH)[kind](np.random.default_rng(seed), T), np.float64)
    return rates.astype(np.float32).astype(np.float64) if single else rates


def errors(rates, steps, kernels, first=1):
    """The largest error of B times the sum, over the kernels and the laws that share the nodes."""
    scale, found = B_PEAK / max(rates.max(), 1e-300), [0.0]
    for falls_only, laws in ((False, (multi_power, exponential)), (True, (functional_scaling,))):
        fast = quadrature.build(rates, steps, first, falls_only)
        oracle = quadrature.exact(rates, steps, first, falls_only)
        if falls_only and np.any(oracle.begin <= 0):
            continue  # S(k)^-s has no value at S = 0
        for law in laws:
            found += [scale * np.max(np.abs(law(fast, *kernel) - law(oracle, *kernel))) for kernel in kernels]
    return np.max(found)  # NaN if any is


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([*SMOOTH, *ROUGH]),
    seed=st.integers(0, 2**31),
    T=st.integers(1, 4000),
    log_peak=st.floats(-5, -2),
    single=st.booleans(),
    first=st.integers(0, 50),
    kernels=st.lists(KERNELS, min_size=1, max_size=4),
    data=st.data(),
)
def test_the_fast_sums_agree_with_the_oracle_on_any_schedule(kind, seed, T, log_peak, single, first, kernels, data):
    steps = np.array(data.draw(st.lists(st.integers(0, T - 1), min_size=1, max_size=12)))
    assert errors(schedule(kind, seed, T, 10**log_peak, single), steps, [*kernels, *STEEP[1:4]], first) <= LIMIT


@settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([*SMOOTH, *ROUGH]),
    seed=st.integers(0, 2**31),
    log_T=st.floats(3.5, 6),
    single=st.booleans(),
    after_warmup=st.booleans(),
    kernel=KERNELS,
    at=st.floats(0.3, 1),
)
def test_the_fast_sums_agree_up_to_a_million_steps(kind, seed, log_T, single, after_warmup, kernel, at):
    T = round(10**log_T)
    rates, steps = schedule(kind, seed, T, single=single), np.unique([T - 1, round(at * (T - 1))])
    assert errors(rates, steps, [kernel, STEEP[seed % 5]], 1 + after_warmup * max(1, T // 12)) <= LIMIT


@pytest.mark.parametrize("power, T", [(0.5, 1_000_000), ("cosine", 1_000_000), ("cosine", 163_779), (1, 163_779), (2, 163_779)])
def test_falls_that_are_alike_in_all_octaves_of_the_summed_rate_stay_below_half_the_limit(power, T):
    rates = 3e-4 * (cosine(1, 0, T) if power == "cosine" else np.linspace(1, 0, T) ** power)
    fast, oracle = (nodes(rates, np.array([T - 1]), falls_only=True) for nodes in (quadrature.build, quadrature.exact))
    for kernel in STEEP[3:]:
        assert B_PEAK / 3e-4 * abs(functional_scaling(fast, *kernel) - functional_scaling(oracle, *kernel))[0] <= LIMIT / 2


def test_falls_long_ago_agree_however_far_away_they_are():
    # What tells them apart, S(k), is little against the distance and much against S(k) itself.
    for T in (100_000, 300_000):
        rates = np.append(schedule("telegraph", 1, T // 50), np.full(T - T // 50, 1.5e-4))
        fast, oracle = (nodes(rates, np.array([T - 1]), falls_only=True) for nodes in (quadrature.build, quadrature.exact))
        for kernel in STEEP[2:]:
            assert B_PEAK / 3e-4 * abs(functional_scaling(fast, *kernel) - functional_scaling(oracle, *kernel))[0] <= LIMIT


@pytest.mark.parametrize("T, levels", [(360, 144.6), (431, 159.4), (356, 93.7)])
def test_errors_of_second_order_do_not_add_up_to_the_limit(T, levels):
    # Rates of few digits: the rounding is in the variance of ln eta of every cell, with one sign in every error.
    rates = 3e-4 * np.round(np.exp(-5 * np.linspace(0, 1, T)) * levels) / levels
    assert errors(rates, np.arange(T // 4, T), STEEP) <= LIMIT * 0.7


@pytest.mark.parametrize("kind", ROUGH)
def test_the_errors_of_the_many_cells_of_a_rough_schedule_do_not_add_up_to_the_limit(kind):
    for seed in range(3):
        assert errors(schedule(kind, seed, 5000), np.arange(999, 5000, 500), STEEP[:4]) <= LIMIT


@settings(deadline=None, max_examples=50)
@given(rates=st.lists(st.one_of(st.just(0.0), st.floats(0, 1e-2), st.floats(1e-18, 1e-3)), min_size=1, max_size=60), kernel=KERNELS)
def test_rates_without_any_order_agree_too(rates, kernel):
    assert errors(np.array([*rates, 1e-3]), np.arange(len(rates) + 1), [kernel]) <= LIMIT


@pytest.mark.parametrize("name", [*released.TRAIN, *released.TEST])
def test_released_schedules_agree_wherever_they_were_logged(name):
    rates = released.rates(name)
    steps = np.append(np.arange(2176, rates.size, 128 * (rates.size // 8000)), rates.size - 1)  # some, or the oracle takes a minute
    fits = [(2.07, 0.583, 0.64), (2.13, 0.598, 0.655), (0.379, 0.113, 0.895), (0.00196, 0.245, 1.357), (0.218, 1.98, 0.542)]
    assert errors(rates, steps, fits) <= LIMIT


def test_the_three_training_curves_take_few_pairs():
    rates = [released.rates(name) for name in released.TRAIN]
    pairs = [quadrature.build(some, np.arange(2176, some.size, 128)).weight.size for some in rates]
    assert sum(pairs) <= 24_000  # of 3 million sources


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_smooth_schedule_takes_logarithmically_many_nodes(kind):
    for T in (1000, 10_000, 100_000):
        rates = schedule(kind, 7, T, single=True)
        nodes = quadrature.build(rates, np.append(np.arange(0, T, T // 20), T - 1))
        # 4 nodes for each octave of distance, twice where the rate itself goes through octaves, in each of up to five stretches
        assert np.diff(nodes.start).max() <= 20 * math.log2(T)


def test_a_million_steps_of_a_cosine_in_single_precision():
    rates = schedule("cosine", 0, 1_000_000, single=True)
    steps = np.array([300_000, 999_999])
    assert errors(rates, steps, STEEP[1:4]) <= LIMIT
    assert np.diff(quadrature.build(rates, steps).start).max() <= 8 * math.log2(1e6)


def test_a_million_steps_of_white_noise():
    rates, steps = schedule("white noise", 0, 1_000_000), np.array([999_999])
    fast, oracle = quadrature.build(rates, steps), quadrature.exact(rates, steps)
    for kernel in STEEP[1:4]:
        assert B_PEAK / rates.max() * abs(multi_power(fast, *kernel) - multi_power(oracle, *kernel))[0] <= LIMIT
    assert fast.weight.size <= 4096 * math.log2(1e6) < oracle.weight.size / 12


@pytest.mark.parametrize("kind", ROUGH)
def test_a_rough_schedule_takes_logarithmically_many_nodes(kind):
    for T in (2**12, 2**16, 2**18):
        nodes = quadrature.build(schedule(kind, 0, T), np.array([T - 1]))
        assert nodes.weight.size <= 4096 * math.log2(T)  # white noise is the worst: hundreds in each of its octaves of the rate


def test_the_oracle_is_the_formula():
    rates = schedule("random walk", 3, 40)
    C, beta, gamma = 2.0, 0.6, 0.7
    for s in (0, 1, 17, 39):
        terms = [(rates[k - 1] - rates[k]) * (1 - (1 + C * rates[k] ** -gamma * rates[k : s + 1].sum()) ** -beta) for k in range(3, s + 1)]
        oracle = quadrature.exact(rates, np.array([s]), first=3)
        assert multi_power(oracle, C, beta, gamma)[0] == pytest.approx(math.fsum(terms), abs=1e-15)
        assert oracle.begin == pytest.approx([rates[: k + 1].sum() for k in range(3, s + 1)])


def test_a_rate_of_zero_is_the_limit_of_the_floor():
    rates = warmed(np.interp(np.arange(3000), [0, 2000, 2500], [3e-4, 3e-4, 0]))
    rates *= 3e-4 / rates.max()
    floored, steps = np.maximum(rates, cells.FLOOR * 3e-4), np.array([2499, 2500, 2999])
    kernel = (2.0, 0.6, 1.4)
    ends = [multi_power(quadrature.build(some, steps), *kernel) for some in (rates, floored)]
    assert ends[0] == pytest.approx(ends[1], abs=LIMIT * 3e-4 / B_PEAK) and np.all(np.isfinite(ends))


def test_one_jump_is_one_pair_of_every_later_step():
    rates = np.repeat([3e-4, 9e-5], [8000, 8000])
    nodes = quadrature.build(rates, np.array([0, 7999, 8000, 15_999]))
    assert np.diff(nodes.start).tolist() == [0, 0, 1, 1]
    assert nodes.weight == pytest.approx([2.1e-4, 2.1e-4]) and np.exp(nodes.log_rate) == pytest.approx([9e-5, 9e-5])
    assert nodes.x == pytest.approx([9e-5, 8000 * 9e-5]) and nodes.begin == pytest.approx(8000 * 3e-4 + 9e-5)


def test_only_changes_from_the_first_on_are_sources_and_only_falls_where_asked():
    rates = np.array([0.0, 1.0, 2.0, 1.5, 1.5, 3.0, 1.0])
    steps = np.array([6])
    assert sorted(quadrature.build(rates, steps).weight) == [-1.5, -1.0, -1.0, 0.5, 2.0]
    assert sorted(quadrature.build(rates, steps, first=3).weight) == [-1.5, 0.5, 2.0]
    assert sorted(quadrature.build(rates, steps, first=3, falls_only=True).weight) == [0.5, 2.0]


def test_steps_come_in_any_order_and_more_than_once():
    rates, steps = schedule("cosine", 0, 2000), np.array([1500, 3, 700, 1500, 0])
    found = multi_power(quadrature.build(rates, steps), 2.0, 0.6, 0.6)
    alone = [multi_power(quadrature.build(rates, np.array([step])), 2.0, 0.6, 0.6)[0] for step in steps]
    assert found == pytest.approx(alone, rel=1e-12, abs=1e-18)


def test_a_schedule_without_changes_has_no_pairs_and_sums_to_zero():
    nodes = quadrature.build(np.full(100, 3e-4), np.array([5, 99]))
    assert nodes.weight.size == 0 and multi_power(nodes, 2.0, 0.6, 0.6).tolist() == [0.0, 0.0]
    assert nodes.total == pytest.approx([6 * 3e-4, 100 * 3e-4]) and nodes.rate.tolist() == [3e-4, 3e-4]


def test_curves_set_side_by_side_sum_as_each_alone():
    curves = [schedule("cosine", 0, 900), np.full(50, 3e-4), schedule("decay", 1, 700)]
    steps = [np.array([0, 500, 899]), np.array([3]), np.array([699])]
    parts = [quadrature.build(rates, at) for rates, at in zip(curves, steps, strict=True)]
    whole = quadrature.concatenate(parts)
    values = np.stack([whole.x, whole.log_rate])
    apart = [part.sum(np.stack([part.x, part.log_rate])) for part in parts]
    assert np.array_equal(whole.sum(values), np.concatenate(apart, axis=1)) and whole.step.tolist() == [0, 500, 899, 3, 699]
