"""Curves are read from CSV and Parquet alike; what no law could use is refused in one line, what makes a fit doubtful is said."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import curves
from tests.schedules.laws import released

STEPS = np.arange(100, 2000, 50)
RATES = np.concatenate([np.linspace(0, 1e-3, 101), np.full(900, 1e-3), np.linspace(1e-3, 1e-4, 1000)])
LOSSES = 3 + STEPS**-0.5
MULTI_POWER = ("L0", "A", "alpha", "B", "C", "beta", "gamma")


def write(path, steps=STEPS, rates=None, losses=LOSSES, header="step,lr,loss"):
    rates = RATES[np.asarray(steps, int)] if rates is None else rates
    path.write_text("\n".join([header, *(f"{s},{float(r)!r},{float(x)!r}" for s, r, x in zip(steps, rates, losses, strict=True))]) + "\n")
    return path


def made(**changes):
    curve = curves.Curve("made", STEPS, LOSSES, RATES, 100)
    return dataclasses.replace(curve, **changes)


def test_csv_and_parquet_of_the_same_samples_are_the_same_curve(tmp_path):
    csv = write(tmp_path / "a.csv")
    pq.write_table(pa.table({"loss": LOSSES, "more": STEPS, "step": STEPS, "lr": RATES[STEPS]}), tmp_path / "a.parquet")
    both = [curves.read(path) for path in (csv, tmp_path / "a.parquet")]
    for samples in both:
        assert samples.name == "a" and samples.steps.dtype == np.int64
        np.testing.assert_array_equal(samples.steps, STEPS)
        np.testing.assert_array_equal(samples.rates, RATES[STEPS])
        np.testing.assert_array_equal(samples.losses, LOSSES)
    assert both[0].checksum != both[1].checksum and len(both[0].checksum) == 64


def test_another_column_can_be_the_loss(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,lr,loss,val\n5,1e-3,9,3.5\n6,1e-3,9,3.4\n")
    assert list(curves.read(path, loss="val").losses) == [3.5, 3.4]
    with pytest.raises(UserError, match="found columns step, lr, loss, val, must have step, lr and heldout; heldout is missing"):
        curves.read(path, loss="heldout")


def test_a_released_file_becomes_the_curve_that_the_formulas_make():
    expected = released.curve(25, "wsd_20000_24000")
    curve, notes = curves.assemble(curves.read(expected.path), warmup=released.WARMUP)
    assert (curve.name, curve.warmup, curve.checksum, notes) == (expected.name, expected.warmup, expected.checksum, [])
    np.testing.assert_array_equal(curve.steps, expected.steps)
    np.testing.assert_allclose(curve.rates, expected.rates[: curve.rates.size], rtol=1e-9)


@pytest.mark.parametrize(
    "row, cell, value, message",
    [
        (3, "loss", "nan", "row 4 has loss nan, must be finite and above 0"),
        (3, "loss", "0.0", "row 4 has loss 0, must be finite and above 0"),
        (0, "loss", "-1.5", "row 1 has loss -1.5, must be finite and above 0"),
        (5, "loss", "inf", "row 6 has loss inf, must be"),
        (2, "step", "150", "row 3: step 150 repeats"),
        (4, "step", "120", "row 5: step 120 comes after 250"),
        (1, "step", "150.5", "row 2 has step 150.5, must be a whole number"),
        (1, "step", "nan", "row 2 has step nan, must be a whole number"),
        (0, "step", "-3", "row 1 has step -3, must be a whole number"),
        (STEPS.size - 1, "step", "1e30", f"row {STEPS.size} has step 1e+30, must be below 1e+08 (are these tokens? give updates)"),
        (7, "lr", "-0.001", "row 8 has lr -0.001, must be a finite rate"),
        (7, "lr", "nan", "row 8 has lr nan, must be a finite rate"),
        (7, "lr", "high", "row 8 has lr 'high', must be a number"),
        (7, "lr", "1,2", "row 8 has 4 cells, must have the 3 of the header"),
    ],
)
def test_a_row_that_no_law_could_use_is_named(tmp_path, row, cell, value, message):
    path = write(tmp_path / "bad.csv")
    lines = path.read_text().splitlines()
    cells = lines[row + 1].split(",")
    cells[["step", "lr", "loss"].index(cell)] = value
    lines[row + 1] = ",".join(cells)
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        curves.read(path)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "step,lr,loss\n", "step,loss\n1,2\n"])
def test_files_without_rows_or_columns_are_refused(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="bad.csv"):
        curves.read(path)
    (tmp_path / "bad.parquet").write_text(text)
    with pytest.raises(UserError, match="bad.parquet: cannot be read"):
        curves.read(tmp_path / "bad.parquet")


def test_a_schedule_that_is_not_that_of_the_lr_column_is_refused_with_step_and_both_rates(tmp_path):
    samples = curves.read(write(tmp_path / "a.csv"))
    curve, notes = curves.assemble(samples, rates=RATES)
    assert notes == [] and curve.rates is RATES and curve.warmup == 100
    other = RATES.copy()
    other[1500:] *= 0.9
    with pytest.raises(UserError, match=r"at step 1500 .* rate 0.000495\d*, its lr column says 0.00055\d* \(10 of 38 samples differ\)"):
        curves.assemble(samples, rates=other)
    with pytest.raises(UserError, match="its last step is 1950, the schedule given for it has 1950 updates"):
        curves.assemble(samples, rates=RATES[:1950])
    single = curves.assemble(dataclasses.replace(samples, rates=samples.rates.astype(np.float32).astype(float)), rates=RATES)
    np.testing.assert_array_equal(single[0].rates, RATES)  # rates logged in single precision agree


def test_points_inside_the_warmup_are_left_out(tmp_path):
    steps = np.arange(20, 2000, 20)
    samples = curves.read(write(tmp_path / "a.csv", steps, losses=3 + steps**-0.5))
    curve, notes = curves.assemble(samples)
    assert curve.warmup == 100 and curve.steps[0] == 100 and notes == ["points inside the warm-up of 100 updates are left out (4)"]
    with pytest.raises(UserError, match="all 3 points lie inside the warm-up"):
        curves.assemble(
            dataclasses.replace(samples, steps=samples.steps[:3], rates=samples.rates[:3], losses=samples.losses[:3]), rates=RATES
        )


def test_a_rate_that_never_stops_rising_is_refused(tmp_path):
    steps = np.arange(0, 101, 4)
    with pytest.raises(UserError, match="its rate still rises at its last step, 100: all of it is warm-up"):
        curves.assemble(curves.read(write(tmp_path / "a.csv", steps, losses=9 - steps / 100)))


def test_steps_before_any_learning_have_no_loss_for_a_law():
    rates = np.concatenate([np.zeros(3), np.linspace(0, 1e-3, 11), np.full(40, 1e-3)])
    curve, notes = curves.assemble(curves.Samples("a", np.arange(54), np.linspace(9, 3, 54), rates))
    assert curve.steps[0] == curve.warmup == 13 and notes == ["points inside the warm-up of 13 updates are left out (13)"]
    assert (np.cumsum(curve.rates)[curve.steps] > 0).all()


def test_two_columns_of_one_name_and_what_is_no_file_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("step,lr,loss,loss\n1,1e-3,3,4\n")
    with pytest.raises(UserError, match="a.csv: has two columns loss, must have one"):
        curves.read(tmp_path / "a.csv")
    assert curves.read(write(tmp_path / "b.csv")).losses.size  # other names may repeat
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(UserError, match="c.csv: cannot be read"):
        curves.read(tmp_path / "c.csv")


def test_points_before_the_first_step_asked_for_are_left_out(tmp_path):
    samples = curves.read(write(tmp_path / "a.csv"))
    curve, notes = curves.assemble(samples, warmup=101, first_step=501)
    assert curve.steps[0] == 550 and curve.losses[0] == LOSSES[STEPS == 550] and notes == []
    np.testing.assert_array_equal(curve.rates, curves.assemble(samples, warmup=101)[0].rates)
    with pytest.raises(UserError, match="its last step is 1950, none is left with --first_step=1951"):
        curves.assemble(samples, first_step=1951)


def test_fewer_points_than_parameters_are_refused():
    few = made(steps=STEPS[:3], losses=LOSSES[:3])
    with pytest.raises(UserError, match="--train: made, made have 6 points together, multi_power has 7 parameters"):
        curves.fewest([few, few], 7, "multi_power")
    curves.fewest([few, few], 6, "multi_power")


def test_constant_schedules_alone_name_what_cannot_be_identified():
    constant = made(rates=np.minimum(RATES[:101].tolist() + [1e-3] * 1900, 1e-3))
    (doubt,) = curves.doubts([constant, constant], MULTI_POWER)
    assert "no decay seen, so B, C, beta, gamma cannot be identified" in doubt
    assert curves.doubts([constant, made()], MULTI_POWER) == []
    assert curves.doubts([constant], ("L0", "A", "alpha")) == []
    before_the_decay = made(steps=STEPS[:15], losses=LOSSES[:15])
    assert curves.doubts([before_the_decay], MULTI_POWER) == [doubt]


def test_curves_of_other_peaks_are_doubted():
    (doubt,) = curves.doubts([made(), made(name="other", rates=2 * RATES)], MULTI_POWER)
    assert "peak rates differ (made 0.001, other 0.002)" in doubt


def test_curves_of_mostly_early_points_are_doubted():
    (doubt,) = curves.doubts([made(steps=np.arange(100, 200, 5), losses=np.full(20, 3.0)), made()], MULTI_POWER)
    assert "50% of its points lie within half a warm-up" in doubt


def test_extrapolation_is_said_beyond_two_and_a_half_times_the_longest_curve():
    longest = curves.reach([made(), made(steps=STEPS[:5])])
    assert longest == (1951, pytest.approx(RATES[:1951].sum()))
    assert curves.extrapolation("x", np.concatenate([RATES[:1951]] * 2 + [RATES[:500]]), longest) == ""
    assert "2.6 and" in curves.extrapolation("x", np.concatenate([RATES[:1951]] * 2 + [RATES[:1200] * 0]), longest)
    assert "1.0 and 5.0 times" in curves.extrapolation("x", 5 * RATES[:1951], longest)
