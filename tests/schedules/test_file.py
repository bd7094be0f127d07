"""A schedule in a file gives exactly the rates it holds, and a file that is no schedule of this run is refused in one line."""

import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.config import ConfigError, Schedule
from kaiyuan_jax.config_check import check
from kaiyuan_jax.schedules import build as schedules
from kaiyuan_jax.schedules import file

KNOTS = [(0, 0.0), (10, 3e-4), (80, 3e-4), (99, 3e-7)]


def from_file(path, steps):
    return schedules.build(Schedule(kind="file", path=str(path)), steps, batch_size=32, sequence_length=128)


def written(folder, pairs=KNOTS, **facts):
    file.write(folder / "schedule.json", *zip(*pairs, strict=True), **facts)
    return folder / "schedule.json"


@st.composite
def any_knots(draw):
    inner = draw(st.sets(st.integers(1, 500), max_size=40))
    knots = sorted({0, *inner})
    pairs = [(knot, draw(st.floats(0, 1e-2, allow_subnormal=False))) for knot in knots]
    hypothesis.assume(any(rate for _, rate in pairs))  # a schedule that never learns is refused
    return pairs


@settings(deadline=None, max_examples=60)
@given(pairs=any_knots())
def test_every_knot_is_exact_and_between_two_knots_the_rate_is_the_straight_line(tmp_path_factory, pairs):
    path = written(tmp_path_factory.mktemp("any"), pairs)
    knots, values = map(np.array, zip(*pairs, strict=True))
    rate = from_file(path, knots[-1] + 1)
    np.testing.assert_array_equal(rate(knots), values.astype(np.float32))
    every = np.arange(knots[-1] + 1)
    np.testing.assert_array_equal(rate(every), np.interp(every, knots, values).astype(np.float32))
    np.testing.assert_array_equal(rate(every), [rate(step) for step in every])
    np.testing.assert_array_equal(file.read(str(path)).all_rates(), np.interp(every, knots, values))


@settings(deadline=None, max_examples=6)
@given(pairs=any_knots())
def test_traced_steps_give_the_rates_of_the_host(tmp_path_factory, pairs):
    rate = from_file(written(tmp_path_factory.mktemp("any"), pairs), pairs[-1][0] + 1)
    steps = np.arange(-3, pairs[-1][0] + 5)
    for traced in (jax.jit(rate), jax.jit(jax.vmap(rate))):
        got = traced(jnp.asarray(steps))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, rate(steps), rtol=5e-5, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(pairs=any_knots())
def test_the_segments_of_a_file_are_its_lines(tmp_path_factory, pairs):
    schedule = Schedule(kind="file", path=str(written(tmp_path_factory.mktemp("any"), pairs)))
    parts = schedules.segments(schedule, pairs[-1][0] + 1)
    assert parts[0].start == 0 and parts[-1].stop == pairs[-1][0]
    rate = from_file(schedule.path, pairs[-1][0] + 1)
    for part in parts:
        assert rate(part.start) == np.float32(part.begin) and rate(part.stop) == np.float32(part.end)
        middle = (part.start + part.stop) // 2
        assert rate(middle) == pytest.approx(float(part.rate(middle)), rel=1e-6)


def test_steps_outside_the_run_have_the_rate_of_the_nearest_step_inside(tmp_path):
    rate = from_file(written(tmp_path), 100)
    assert rate(-5) == rate(0) == 0 and rate(1000) == rate(99) == np.float32(3e-7)


def test_a_jump_is_two_knots_one_step_apart(tmp_path):
    rate = from_file(written(tmp_path, [(0, 3e-4), (49, 3e-4), (50, 9e-5), (99, 9e-5)]), 100)
    assert rate(49) == np.float32(3e-4) and rate(50) == np.float32(9e-5)


def test_a_run_of_one_step_has_its_one_rate(tmp_path):
    rate = from_file(written(tmp_path, [(0, 1e-3)]), 1)
    assert rate(0) == jax.jit(rate)(0) == np.float32(1e-3)


def test_a_csv_of_rates_is_the_schedule_and_its_other_columns_are_left_alone(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("step,lr,loss\n0,0.0,9.1\n10,3e-4,5.0\n20,3e-4,4.5\n80,3e-4,4.0\n99,3e-7,3.5\n")
    found = file.read(str(path))
    assert found.knots.tolist() == [0, 10, 80, 99]  # the inner knot of the constant stretch says nothing
    np.testing.assert_array_equal(from_file(path, 100)(np.arange(100)), from_file(written(tmp_path), 100)(np.arange(100)))


def test_a_file_that_changes_is_read_again(tmp_path):
    path = written(tmp_path)
    assert from_file(path, 100)(50) == np.float32(3e-4)
    written(tmp_path, [(0, 1e-3), (120, 1e-5)])
    assert from_file(path, 121)(0) == np.float32(1e-3)


def test_facts_travel_with_the_knots(tmp_path):
    path = written(tmp_path, peak=3e-4, warmup=10, law={"law": "multi_power"}, predicted_final_loss=2.5)
    tree = json.loads(path.read_text())
    assert tree["steps"] == 100 and tree["knots"] == [list(knot) for knot in KNOTS] and tree["schema"] == file.SCHEMA
    assert file.read(str(path)).facts["law"] == {"law": "multi_power"}
    assert file.read(str(path)).facts["predicted_final_loss"] == 2.5


def test_a_schedule_of_another_length_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"config.schedule.path: .* is a schedule of 100 steps, the run has 200; design .*--steps=200"):
        from_file(written(tmp_path), 200)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "is not JSON"),
        ("x.json", "[1]", "has no list 'knots'"),
        ("x.json", '{"points": []}', "has no list 'knots'"),
        ("x.json", '{"knots": []}', "holds no knots"),
        ("x.json", '{"knots": [[0, 1], [1]]}', r"knots\[1\]: found \[1\], must be \[step, rate\]"),
        ("x.json", '{"knots": [[0, 1], [5, 1], [5, 0]]}', "knot 2: found step 5 after 5"),
        ("x.json", '{"knots": [[0, 1], [5.5, 1]]}', "knot 1: found step 5.5"),
        ("x.json", '{"knots": [[3, 1], [5, 1]]}', "begins at step 3, must begin at step 0"),
        ("x.json", '{"knots": [[0, 1], [5, -1]]}', "step 5: found rate -1"),
        ("x.json", '{"knots": [[0, 1], [5, NaN]]}', r"knots\[1\]: found \[5, NaN\]"),
        ("x.json", '{"steps": 7, "knots": [[0, 1], [5, 1]]}', "says 7 steps, but its last knot is step 5"),
        ("x.csv", "step,loss\n0,1\n", "has the columns step, loss, a schedule needs step,lr"),
        ("x.csv", "", r"has the columns \(none\)"),
        ("x.csv", "step,lr\n", "holds no knots"),
        ("x.csv", "step,lr\n0,1e-3\n1,fast\n", "line 3: found '1','fast'"),
        ("x.csv", "step,lr\n0,1e-3\n1\n", "line 3"),
        ("x.csv", "step,lr\n0,1e-3\n1,nan\n", "step 1: found rate nan"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_schedule_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        from_file(tmp_path / name, 6)
    assert "config.schedule.path" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_said_before_anything_else(tmp_path):
    assert "no file" in file.problems(str(tmp_path / "absent.json"), 100)[0]


def test_the_config_check_wants_path_and_kind_together():
    from kaiyuan_jax import config as c

    def checked(**fields):
        data = c.Data(sources=[c.Source(name="a", planned_tokens=10**6)], phases=[c.Phase(uses=[c.Use(source="a")])])
        check(c.Experiment(data=data, schedule=Schedule(**fields)))

    checked(kind="file", path="x.json")
    with pytest.raises(ConfigError, match="config.schedule.path: empty; kind 'file' needs"):
        checked(kind="file")
    with pytest.raises(ConfigError, match="found 'x.json' with kind 'wsd'; set config.schedule.kind to file"):
        checked(kind="wsd", path="x.json")


@settings(deadline=None, max_examples=60)
@given(pairs=any_knots())
def test_straight_stretches_of_rates_are_one_line_and_every_rate_comes_back(pairs):
    knots, values = map(np.array, zip(*pairs, strict=True))
    rates = np.interp(np.arange(knots[-1] + 1), knots, values)
    found, ends = file.lines(rates)
    np.testing.assert_allclose(np.interp(np.arange(rates.size), found, ends), rates, rtol=1e-9, atol=1e-12 * max(rates.max(), 1e-300))
    assert found.size <= 4 * knots.size + 2


def test_a_table_from_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffstep, lr\r\n0,0.0\r\n10,1e-3\r\n".encode())
    np.testing.assert_allclose(file.read(str(path)).all_rates(), 1e-4 * np.arange(11))


@pytest.mark.parametrize(
    "text, found",
    [
        ('{"schema": 2, "knots": [[0, 1e-3]]}', "schema 2"),
        ('{"knots": [[0, 1e-3], [1e200, 1e-3]]}', "whole numbers"),
        ('{"knots": [[0, 1e-3], [1, 1' + 400 * "0" + "]]}", "must be [step, rate]"),
        ('{"knots": [[0, 0.0], [9, 0.0]]}', "every rate is 0"),
        ('{"knots": [[0, 1e-3], [100000000, 1e-3]]}', "has step 1e+08, must be below 1e+08; are these tokens?"),
    ],
    ids=["schema", "steps", "integer", "zero", "tokens"],
)
def test_what_is_no_schedule_is_said_in_one_line(tmp_path, text, found):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        file.read(str(path))
    assert found in str(error.value) and "\n" not in str(error.value)
