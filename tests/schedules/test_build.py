"""Learning rates at the knots of every schedule, and what holds of all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kaiyuan_jax.config import ConfigError, Piece, Schedule
from kaiyuan_jax.schedules import shapes
from kaiyuan_jax.schedules.build import KINDS, build, first_difference, problems


def rates(schedule, steps):
    return build(schedule, steps, batch_size=32, sequence_length=128)(np.arange(steps))


def test_warmup_rises_from_zero_and_its_last_step_plus_one_is_the_first_at_the_peak():
    assert rates(Schedule(kind="constant", peak=4e-3, warmup=4), 7).tolist() == np.float32([0, 1e-3, 2e-3, 3e-3, 4e-3, 4e-3, 4e-3]).tolist()


def test_without_warmup_the_first_step_is_at_the_peak():
    assert rates(Schedule(kind="constant", peak=4e-3, warmup=0), 2).tolist() == np.float32([4e-3, 4e-3]).tolist()


def test_constant_schedule_is_optax_linear_warmup():
    expected = optax.linear_schedule(0.0, 3e-3, 10)
    np.testing.assert_allclose(rates(Schedule(kind="constant", peak=3e-3, warmup=10), 50), [expected(s) for s in range(50)], rtol=1e-6)


def test_cosine_schedule_is_optax_warmup_cosine_decay():
    expected = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warmup_steps=10, decay_steps=99, end_value=1e-5)
    got = rates(Schedule(kind="cosine", peak=3e-3, end=1e-5, warmup=10), 100)
    np.testing.assert_allclose(got, [expected(s) for s in range(100)], rtol=1e-5, atol=1e-9)


def test_linear_wsd_is_optax_join_of_linear_pieces():
    pieces = [optax.linear_schedule(0, 1e-2, 10), optax.constant_schedule(1e-2), optax.linear_schedule(1e-2, 1e-4, 20)]
    expected = optax.join_schedules(pieces, [10, 79])
    got = rates(Schedule(kind="wsd", peak=1e-2, end=1e-4, warmup=10, decay=0.2, shape="linear"), 100)
    np.testing.assert_allclose(got, [expected(s) for s in range(100)], rtol=1e-5, atol=1e-9)


def test_wsd_leaves_the_peak_one_decay_before_the_last_step_and_ends_exactly_at_end():
    got = rates(Schedule(kind="wsd", peak=3e-3, end=6e-4, warmup=10, decay=0.2, shape="sqrt"), 101)
    assert got[10] == got[80] == np.float32(3e-3)
    assert got[81] < np.float32(3e-3)
    assert got[85] == pytest.approx(3e-3 - 2.4e-3 * 0.5, rel=1e-6)  # a quarter of the decay: sqrt(1/4)
    assert got[100] == np.float32(6e-4)


def test_wsd_with_exponential_decay_is_the_released_loss_curve_schedule():
    got = rates(Schedule(kind="wsd", peak=3e-4, end=3e-5, warmup=2160, decay=4000 / 24001, shape="exponential"), 24001)
    t = np.arange(20000, 24001)
    np.testing.assert_allclose(got[20000:], 3e-4 ** ((24000 - t) / 4000) * 3e-5 ** ((t - 20000) / 4000), rtol=1e-6)
    assert (got[2160:20001] == np.float32(3e-4)).all()


def test_a_decay_share_of_one_decays_over_the_whole_run():
    got = rates(Schedule(kind="wsd", peak=1.0, end=0.0, warmup=0, decay=1.0, shape="linear"), 11)
    np.testing.assert_allclose(got, np.linspace(1, 0, 11), rtol=1e-6)


def test_wsdc_holds_the_end_rate_over_its_tail():
    got = rates(Schedule(kind="wsdc", peak=1e-2, end=1e-3, warmup=5, decay=0.2, tail=0.1, shape="linear"), 100)
    assert got[69] == np.float32(1e-2) and got[70] < np.float32(1e-2)
    assert (got[89:] == np.float32(1e-3)).all() and got[88] > np.float32(1e-3)


def test_wsd_s_jumps_back_to_the_peak_after_each_decay():
    got = rates(Schedule(kind="wsd_s", peak=1e-2, end=1e-3, warmup=5, decay=0.2, cycles=4, shape="inverse"), 200)
    for last in (49, 99, 149, 199):
        assert got[last - 10] == np.float32(1e-2) and got[last] == np.float32(1e-3)
        assert got[last - 5] == pytest.approx(1 / (0.5 / 1e-2 + 0.5 / 1e-3), rel=1e-6)
    for first in (50, 100, 150):
        assert got[first] == np.float32(1e-2)


def test_wsd_s_climbs_back_from_the_decayed_rate_when_asked_to():
    got = rates(Schedule(kind="wsd_s", peak=1e-2, end=1e-3, warmup=5, decay=0.2, cycles=2, rewarmup=0.1, shape="linear"), 80)
    climb = got[39:45]  # the last step of the decay, 4 steps of climbing, the first at the peak
    np.testing.assert_allclose(climb, np.linspace(1e-3, 1e-2, 6), rtol=1e-6)


def test_one_cycle_of_wsd_s_is_wsd():
    fields = dict(peak=3e-3, end=1e-5, warmup=7, decay=0.3, shape="sqrt_cube")
    np.testing.assert_array_equal(rates(Schedule(kind="wsd_s", cycles=1, **fields), 90), rates(Schedule(kind="wsd", **fields), 90))


def test_pieces_begin_and_end_exactly_at_their_rates():
    # The published recipe in small: 5e-3 first, 3e-3 in the middle, then down to a fifth.
    first, middle = Piece(fraction=0.2, begin=5e-3, end=5e-3), Piece(fraction=0.6, begin=3e-3, end=3e-3)
    pieces = [first, middle, Piece(fraction=0.2, begin=3e-3, end=6e-4, shape="sqrt")]
    got = rates(Schedule(kind="piecewise", warmup=10, pieces=pieces), 110)
    assert got[5] == np.float32(2.5e-3)
    assert (got[10:30] == np.float32(5e-3)).all()
    assert (got[30:91] == np.float32(3e-3)).all() and got[91] < np.float32(3e-3)
    assert got[109] == np.float32(6e-4)


def test_power_schedule_is_the_formula_of_the_tokens_seen():
    schedule = Schedule(kind="power", peak=2e-2, warmup=100, power_scale=4.6, power_exponent=-0.51)
    rate = build(schedule, 100_000, batch_size=64, sequence_length=4096)
    for step in (20_000, 60_000, 99_999):
        assert rate(step) == pytest.approx(min(2e-2, 64 * 4.6 * (step * 64 * 4096) ** -0.51), rel=1e-5)
    at_warm = min(2e-2, 64 * 4.6 * (100 * 64 * 4096) ** -0.51)
    assert rate(100) == pytest.approx(at_warm, rel=1e-5) and rate(25) == pytest.approx(at_warm / 4, rel=1e-5)
    assert rate(0) == 0


@given(st.lists(st.floats(1e-30, 1.0), min_size=1, max_size=20), st.integers(0, 20))
def test_schedules_differ_first_where_the_float32_rates_do(values, place):
    first = np.array(values)
    second = first.copy()
    second[place:] = np.nextafter(np.float32(first[place:]), np.float32(2))
    assert first_difference(first, second) == (place if place < first.size else None)
    assert first_difference(first, first.astype(np.float32)) is None


@st.composite
def any_schedule(draw):
    kind = draw(st.sampled_from(KINDS))
    steps = draw(st.integers(2, 300))
    peak = draw(st.floats(1e-6, 1e-1))
    share = st.floats(0, 0.6)
    part = st.floats(1e-8, 1)
    shape = st.sampled_from(shapes.NAMES)
    fractions = draw(st.sampled_from([(1.0,), (0.5, 0.5), (0.3, 0.1, 0.6)]))
    schedule = Schedule(
        kind=kind,
        peak=peak,
        end=draw(part) * peak,
        warmup=draw(st.integers(0, steps)),
        decay=draw(share),
        tail=draw(share),
        cycles=draw(st.integers(1, 5)),
        rewarmup=draw(share),
        shape=draw(shape),
        pieces=[Piece(fraction=f, begin=draw(part) * peak, end=draw(part) * peak, shape=draw(shape)) for f in fractions],
    )
    assume(not problems(schedule, steps))
    return schedule, steps


@settings(deadline=None, max_examples=150)
@given(any_schedule())
def test_no_rate_is_negative_or_above_the_peak(case):
    schedule, steps = case
    got = rates(schedule, steps)
    assert got.shape == (steps,) and got.dtype == np.float32
    assert (got >= 0).all() and (got <= np.float32(schedule.peak)).all()


@settings(deadline=None, max_examples=60)
@given(any_schedule())
def test_after_warmup_a_schedule_without_cycles_or_pieces_never_rises(case):
    schedule, steps = case
    assume(schedule.kind not in ("wsd_s", "piecewise"))
    after = rates(schedule, steps)[schedule.warmup :]
    assert (np.diff(after) <= 1e-7 * schedule.peak).all()


@settings(deadline=None, max_examples=60)
@given(any_schedule())
def test_a_decay_ends_exactly_at_its_end(case):
    schedule, steps = case
    assume(schedule.kind not in ("constant", "power") and schedule.warmup < steps - 1)
    if schedule.kind in ("wsd", "wsdc", "wsd_s"):
        assume(schedule.decay > 0)
    end = schedule.pieces[-1].end if schedule.kind == "piecewise" else schedule.end
    assert rates(schedule, steps)[-1] == np.float32(end)


@settings(deadline=None, max_examples=10)
@given(any_schedule())
def test_traced_batched_and_scalar_steps_give_the_same_rates(case):
    schedule, steps = case
    schedule_of = build(schedule, steps, batch_size=32, sequence_length=128)
    host = schedule_of(np.arange(steps))
    np.testing.assert_array_equal(host, [schedule_of(step) for step in range(steps)])
    for traced in (jax.jit(schedule_of), jax.jit(jax.vmap(schedule_of))):
        got = traced(jnp.arange(steps))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, host, rtol=5e-5, atol=1e-6 * schedule.peak)


@settings(deadline=None, max_examples=40)
@given(any_schedule(), st.integers(-(2**31), 2**31 - 1))
def test_a_step_outside_the_run_has_the_rate_of_the_nearest_step_inside(case, step):
    schedule, steps = case
    rate = build(schedule, steps, batch_size=32, sequence_length=128)
    assert rate(step) == rate(min(max(step, 0), steps - 1))


@pytest.mark.parametrize("shape", [shape for shape in shapes.NAMES if shape != "sqrt"])
def test_wsd_has_no_jump_beyond_the_steepest_step_of_its_shape(shape):
    got = rates(Schedule(kind="wsd", peak=1.0, end=0.1, warmup=100, decay=0.5, shape=shape), 1001)
    assert np.abs(np.diff(got)).max() <= max(1 / 100, 10 / 500)


@pytest.mark.parametrize(
    ("fields", "steps", "message"),
    [
        (dict(kind="wsdd"), 100, "config.schedule.kind: found 'wsdd', must be one of"),
        (dict(kind="wsd"), 0, "the run has 0 steps"),
        (dict(kind="constant", warmup=100), 100, "config.schedule.warmup: found 100 steps, must be 0 to 99"),
        (dict(kind="wsd", warmup=60, decay=0.5), 100, "warmup 60 \\+ decay 50 steps, must be at most 99 .*decay to 0.39 or less"),
        (dict(kind="wsdc", warmup=30, decay=0.5, tail=0.3), 100, "tail 30"),
        (dict(kind="wsd_s", warmup=30, decay=0.5, cycles=4), 100, "in a cycle of 25 steps"),
        (dict(kind="wsd_s", warmup=0, cycles=101), 100, "config.schedule.cycles: found 101, must be at most the 100 steps"),
        (dict(kind="wsd_s", warmup=0, decay=0.5, cycles=4, rewarmup=0.6), 100, "config.schedule.rewarmup: 15 steps"),
        (dict(kind="wsd", warmup=0, shape="exponential", end=0.0), 100, "needs both rates above 0"),
        (dict(kind="wsd", warmup=0, shape="sqr"), 100, "config.schedule.shape: found 'sqr', must be one of linear"),
        (dict(kind="piecewise", warmup=0), 100, "config.schedule.pieces: found none"),
        (dict(kind="piecewise", warmup=0, pieces=[Piece(fraction=0.7)]), 100, "sum to 0.7, must sum to 1"),
        (dict(kind="piecewise", warmup=0, pieces=[Piece(shape="inverse", begin=0.0)]), 100, "pieces\\[0\\]: shape 'inverse'"),
    ],
)
def test_an_impossible_schedule_is_refused_in_one_line(fields, steps, message):
    with pytest.raises(ConfigError, match=message):
        build(Schedule(**fields), steps, batch_size=1, sequence_length=1)
