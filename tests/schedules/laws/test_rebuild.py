"""Schedules come back whole from samples of them: the released ones exactly, and any chain of the known shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules import shapes
from kaiyuan_jax.schedules.laws import rebuild, stretches
from tests.schedules.laws import released


def chain(parts, warmup, peak=1e-3):
    """A warm-up, then (shape, steps, level) after one another; a constant part whose level is another one begins with a jump."""
    rates, level = [np.linspace(0, peak, warmup + 1)], peak
    for shape, steps, end in parts:
        r = np.arange(1, steps + 1) / steps
        rates.append(np.full(steps, end * peak) if shape == "constant" else shapes.rate(shape, r, level, end * peak))
        level = end * peak
    return np.concatenate(rates)


@pytest.mark.parametrize("size", released.SIZES)
@pytest.mark.parametrize("name", (*released.TRAIN, *released.TEST))
@pytest.mark.parametrize("warmup", (released.WARMUP, None))
def test_released_schedules_come_back_to_a_billionth(size, name, warmup):
    curve, table = released.curve(size, name), np.loadtxt(released.folder(size) / f"{name}.csv", delimiter=",", skiprows=1)
    rates, notes = rebuild.rebuild(curve.steps, table[:, 1], warmup, assumed=released.WARMUP)
    np.testing.assert_allclose(rates, curve.rates[: rates.size], rtol=1e-9)
    assert rates.size == curve.steps[-1] + 1
    assert rebuild.warmup_of(rates) in (2159, 2160)  # update 2160 of a cosine is at the peak too
    assert any("jumps" in note for note in notes) == name.startswith("wsdcon")
    assert any("a linear one of 2160 updates is assumed" in note for note in notes) == (warmup is None)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_chain_of_known_shapes_comes_back_from_samples(data):
    stride, phase = data.draw(st.integers(2, 90)), data.draw(st.integers(0, 89))
    levels = data.draw(st.permutations([0.8, 0.45, 0.25, 0.1, 0.03]))
    kinds = data.draw(st.lists(st.sampled_from(shapes.NAMES), min_size=1, max_size=4))
    warmup, parts, before = data.draw(st.integers(1, 300)), [], 1.0
    for kind, level in zip(kinds, levels, strict=False):
        hold = data.draw(st.integers(0, 20)) * stride + data.draw(st.integers(0, stride))
        parts += [("constant", hold + 8 * stride, before)] if hold > 4 * stride else []
        parts.append((kind, data.draw(st.integers(9, 60)) * stride + data.draw(st.integers(0, stride)), level))
        before = level
    whole = chain(parts, warmup)
    steps = np.arange(warmup + phase % stride, whole.size, stride)
    rates, notes = rebuild.rebuild(steps, whole[steps], warmup + 1)
    np.testing.assert_allclose(rates, whole[: rates.size], rtol=0, atol=2.5 * rebuild.TOLERANCE * whole.max())
    assert notes == []


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(50, 4000), st.sampled_from([0.5, 0.1]))
def test_a_jump_is_unsure_by_no_more_than_the_note_says(stride, hold, level):
    whole = chain([("constant", hold + 3 * stride, 1.0), ("constant", 4 * stride, level)], 20)
    steps = np.arange(21, whole.size, stride)
    rates, notes = rebuild.rebuild(steps, whole[steps], 21)
    apart = abs(rates.sum() - whole[: rates.size].sum())
    assert len(notes) == (stride > 1) and "jumps" in notes[0]
    bound = float(notes[0].rsplit(" ", 1)[1].removesuffix("%")) / 100
    sample = int(steps[np.argmax(whole[steps] < whole.max())])  # the first of the new level
    assert apart <= (bound + 1e-4) * rates[:sample].sum()


def test_a_jump_is_where_the_samples_begin_anew_or_at_the_roundest_step():
    steps = np.array([*range(2176, 7937, 128), *range(8000, 9000, 128)])
    assert rebuild._jump(steps, int(np.searchsorted(steps, 7936)))[0] == 8000
    regular = np.arange(0, 9000, 70)
    assert rebuild._jump(regular, int(np.searchsorted(regular, 7980)))[0] == 8000  # 7980 to 8050
    assert rebuild._jump(np.arange(0, 90, 9), 4)[0] == 41  # nothing round in 36 to 45


def test_rates_logged_in_single_precision_give_the_schedule_to_their_precision():
    whole = chain([("constant", 3000, 1.0), ("cosine", 5000, 0.1)], 200)
    steps = np.arange(210, whole.size, 37)
    rates, notes = rebuild.rebuild(steps, whole[steps].astype(np.float32).astype(np.float64), 201)
    np.testing.assert_allclose(rates, whole[: rates.size], rtol=0, atol=3e-7 * whole.max())
    assert notes == []


@pytest.mark.parametrize("digits", [3, 4, 6])
@pytest.mark.parametrize("name", [name for name in (*released.TRAIN, *released.TEST) if not name.startswith("constant")])
def test_rates_printed_with_few_digits_give_the_schedule_to_about_their_rounding(name, digits):
    whole, curve = released.rates(name), released.curve(25, name)
    rounded = np.array([float(f"{rate:.{digits}g}") for rate in whole[curve.steps]])
    rates, notes = rebuild.rebuild(curve.steps, rounded, released.WARMUP)
    assert np.abs(rates - whole[: rates.size]).max() < 2 * 10.0 ** (1 - digits) * released.PEAK
    assert not any("interpolated" in note for note in notes)


def test_shapes_without_a_formula_are_interpolated_and_the_note_says_so():
    r = np.linspace(0, 1, 4001)
    whole = np.concatenate([np.linspace(0, 1e-3, 101), np.full(2000, 1e-3), 1e-3 * (1 - np.sqrt(r)) ** 1.3])
    steps = np.arange(120, whole.size, 40)
    rates, notes = rebuild.rebuild(steps, whole[steps], 101)
    assert len(notes) == 1 and "interpolated linearly" in notes[0]
    np.testing.assert_array_equal(rates[steps], whole[steps])
    assert np.abs(rates - whole[: rates.size]).max() < 0.1 * whole.max()


def test_a_sampled_warmup_is_continued_to_the_first_update():
    whole = chain([("constant", 2000, 1.0), ("linear", 1000, 0.1)], 500)
    steps = np.arange(30, whole.size, 30)
    rates, notes = rebuild.rebuild(steps, whole[steps], assumed=999)
    np.testing.assert_allclose(rates, whole[: rates.size], atol=1e-12)
    assert notes == [] and rebuild.warmup_of(rates) == 500


def test_samples_of_every_update_are_the_schedule():
    whole = np.random.default_rng(0).uniform(0, 1, 300)
    rates, _ = rebuild.rebuild(np.arange(300), whole)
    np.testing.assert_array_equal(rates, whole)


def test_a_warmup_that_the_samples_contradict_is_refused():
    with pytest.raises(UserError, match=r"--warmup=900: at step 500 .* at most 501"):
        rebuild.rebuild(np.arange(500, 3000, 100), np.full(25, 1e-3), 900)


def test_without_a_warmup_the_peak_holds_from_the_first_update():
    rates, notes = rebuild.rebuild(np.arange(1, 100), np.full(99, 1e-3))
    assert (rates == 1e-3).all() and notes == [] and rebuild.warmup_of(rates) == 0


def test_a_warmup_is_a_rise_from_about_zero():
    assert rebuild.warmup_of(np.array([0.0, 1.0, 2.0, 2.0, 1.0])) == 2
    assert rebuild.warmup_of(np.array([0.2, 0.4, 0.6, 0.8, 1.0])) == 4
    assert rebuild.warmup_of(np.linspace(0.6, 1.0, 50)) == 0  # a schedule that rises, not a warm-up
    assert rebuild.warmup_of(np.array([1.0, 0.5])) == rebuild.warmup_of(np.ones(1)) == 0


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_long_logs_give_the_same_schedule_from_every_so_many_th_sample(data):
    stride, decay = data.draw(st.integers(1, 3)), data.draw(st.sampled_from(shapes.NAMES))
    parts = [("constant", data.draw(st.integers(900, 3000)), 1.0), (decay, data.draw(st.integers(900, 3000)), 0.1)]
    whole = chain([*parts, ("constant", data.draw(st.sampled_from([0, 40, 300])), 0.1)], data.draw(st.integers(12, 400)))
    steps = np.arange(0, whole.size, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "MOST", 60)
        rates, notes = rebuild.rebuild(steps, whole[steps])
    assert notes == []
    np.testing.assert_allclose(rates, whole[: rates.size], rtol=0, atol=2.5 * rebuild.TOLERANCE * whole.max())


def count(monkeypatch) -> list[int]:
    """The samples that families look at from now on, one entry a look."""
    looked = []
    for group in ("_LINES", "_CURVES"):

        def counted(family):
            return lambda steps, rates, tolerance: looked.append(len(steps)) or family(steps, rates, tolerance)

        monkeypatch.setattr(stretches, group, tuple((counted(family), fewest) for family, fewest in getattr(stretches, group)))
    return looked


@pytest.mark.parametrize("kind", ["printed", "noisy", "both"])
def test_the_work_on_a_log_of_every_step_does_not_grow_with_the_square_of_its_length(kind, monkeypatch):
    rows, random = 100_000, np.random.default_rng(0)
    exact = 1.65e-4 + 1.35e-4 * np.cos(np.linspace(0, np.pi, rows))
    logged = exact if kind == "printed" else exact * np.exp(0.01 * random.normal(size=rows))
    logged = logged if kind == "noisy" else np.round(logged, 8)
    looked = count(monkeypatch)
    rates, _ = rebuild.rebuild(np.arange(rows), logged)
    assert sum(looked) < 20 * rows and len(looked) < rows
    np.testing.assert_allclose(rates, logged, rtol=0, atol=1e-8)


def test_zeros_before_the_rise_belong_to_the_warm_up():
    rise = np.concatenate([np.zeros(3), np.linspace(0, 1e-3, 11), np.full(5, 1e-3)])
    assert rebuild.warmup_of(rise) == 13
    assert rebuild.warmup_of(rise[3:]) == 10
