"""launch/design_schedule.py as a user runs it, with a law in a file and runs to continue."""

import json

import numpy as np
import pytest

from kaiyuan_jax.config import Schedule
from kaiyuan_jax.schedules import build, file
from kaiyuan_jax.schedules.laws import artefact, catalogue
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from tests.scripts import run

LAW = catalogue.LAWS["multi_power_after_warmup"]
VALUES = dict(L0=3.040454, A=0.524687, alpha=0.507868, B=363.7887, C=2.065612, beta=0.582791, gamma=0.641423)


def law_file(folder, law=LAW, theta=None, covariance=True):
    theta = LAW.theta(VALUES) if theta is None else theta
    spread = np.diag(np.full(theta.size, 0.02)) ** 2 if covariance else None
    curve = Curve("cosine", np.arange(200, 2000, 20), np.ones(90), np.full(2000, 3e-4), 100, "cosine.csv", "0" * 64)
    details = {"reach": {"updates": 24_000, "summed_rate": 7.0, "peaks": [3e-4, 3e-4]}}
    fit = Fit(law, "converged", theta, 1e-4, ("cosine",), spread, details, {"residual": 1e-3, "model": {"scale": 1e-3}})
    artefact.write(folder / "law.json", artefact.tree(fit, [curve]))
    return folder / "law.json"


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    return law_file(tmp_path_factory.mktemp("law"))


def test_a_schedule_is_designed_compared_and_written_so_that_it_trains(law, tmp_path):
    flags = ("--steps=6000", "--peak=3e-4", "--warmup=300", f"--output={tmp_path}/s.json", f"--figure={tmp_path}/s.png", "--draws=4")
    code, out, error = run("design_schedule", f"--law={law}", *flags)
    assert code == 0, error
    first, *rows = out.splitlines()
    assert first.split() == ["schedule", "decay", "end", "rate", "predicted", "to", "designed"]
    names = [row[:16].strip() for row in rows[:10]]
    assert names[0] == "designed" and {"cosine", "linear", "WSD 1-sqrt", "WSD sqrt-cube"} <= set(names)
    assert all(float(row.split()[-1]) >= 0 for row in rows[:10])
    for words in ("predicted final loss", "shape: holds 0.0003 up to step", "--config.schedule.shape=", "sensitivity: 4 draws"):
        assert words in out
    tree = json.loads((tmp_path / "s.json").read_text())
    assert tree["steps"] == 6000 and tree["peak"] == 3e-4 and tree["warmup"] == 300 and tree["floor"] == pytest.approx(3e-7)
    assert tree["knots"][:2] == [[0, 0.0], [300, 3e-4]] and tree["knots"][-1][0] == 5999
    assert tree["law"]["parameters"]["B"] == pytest.approx(VALUES["B"]) and tree["sensitivity"]["draws"] == 4
    assert min(row["predicted_final_loss"] for row in tree["comparison"]) >= tree["predicted_final_loss"]
    low, high = tree["predicted_band"]
    assert low < tree["predicted_final_loss"] < high
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    schedule = Schedule(kind="file", path=str(tmp_path / "s.json"))
    rates = build.rates(schedule, 6000, batch_size=1, sequence_length=1)
    assert rates[-1] >= 3e-7 * (1 - 1e-12) and (np.diff(rates[300:]) <= 1e-18).all()
    assert rates[150] == pytest.approx(1.5e-4)


def test_a_run_under_way_is_continued_from_the_rates_it_has_felt(law, tmp_path):
    file.write(tmp_path / "history.json", [0, 300, 5999], [0.0, 3e-4, 1e-4])
    flags = ("--steps=6000", "--from_step=4000", f"--history={tmp_path}/history.json", f"--output={tmp_path}/rest.json")
    code, out, error = run("design_schedule", f"--law={law}", *flags)
    assert code == 0, error
    tree, felt = json.loads((tmp_path / "rest.json").read_text()), file.read(str(tmp_path / "history.json")).all_rates()
    rates = file.read(str(tmp_path / "rest.json")).all_rates()
    np.testing.assert_allclose(rates[:4000], felt[:4000], rtol=1e-12)
    assert rates[4000] <= felt[3999] and tree["from_step"] == 4000 and tree["warmup"] == 300
    assert tree["knots"][:2] == [[0, 0.0], [300, 3e-4]] and tree["knots"][2][0] >= 3999  # straight stretches are one line


def test_the_floor_may_be_a_rate_or_a_share_of_the_peak(law, tmp_path):
    ends = []
    for floor in ("10%", "3e-5"):
        flags = ("--steps=3000", "--peak=3e-4", "--warmup=100", f"--floor={floor}", "--draws=0", f"--output={tmp_path}/s.json")
        code, out, error = run("design_schedule", f"--law={law}", *flags)
        assert code == 0 and "sensitivity: not known" in out, error
        ends.append(file.read(str(tmp_path / "s.json")).rates[-1])
    assert ends[0] == pytest.approx(ends[1]) and ends[0] >= 3e-5 * (1 - 1e-12)


def test_a_peak_that_the_law_was_not_fitted_to_is_doubted(law, tmp_path):
    code, _, error = run(
        "design_schedule", f"--law={law}", "--steps=3000", "--peak=1e-3", "--warmup=100", "--draws=0", f"--output={tmp_path}/s.json"
    )
    assert code == 0 and "note: this schedule: its peak rate is 0.001" in error


FRESH = ("--steps=3000", "--peak=3e-4", "--warmup=100")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--steps=3000", "--peak=3e-4"), "--peak and --warmup: give both"),
        ((*FRESH, "--from_step=100"), "--from_step and --history: give both"),
        ((*FRESH, "--floor=lots"), "--floor: found 'lots', must be a rate such as 3e-7 or a share of the peak such as 0.1%"),
        ((*FRESH, "--floor=200%"), "--floor: found 200% (0.0006), must be 0 or more and below"),
        ((*FRESH, "--knots=1"), "--knots: found 1, must be at least 2"),
        (("--steps=100", "--peak=3e-4", "--warmup=100"), "--warmup: found 100 updates, must be 0 to 98"),
        (("--steps=100", "--peak=0", "--warmup=10"), "--peak: found 0, must be 1e-12 to 1000, a learning rate such as 3e-4"),
        (("--steps=100", "--peak=inf", "--warmup=10"), "--peak: found inf, must be"),
        (("--steps=-5", "--peak=3e-4", "--warmup=10"), "--steps: found -5, must be 2 to 1e+08"),
        (("--steps=10000000000", "--peak=3e-4", "--warmup=10"), "--steps: found 10000000000, must be 2 to 1e+08"),
        (
            (*FRESH, "--floor=100%"),
            "--floor: found 100% (0.0003), must be 0 or more and below the rate",
        ),
        ((*FRESH, "--draws=-1"), "--draws=-1"),
        ((*FRESH, "--figure=FOLDER.png"), "must end in .png, be no folder, and lie in a folder that exists"),
        (("--steps=3000", "--from_step=1000", "--history=ZERO", "--floor=0"), "--from_step: found 1000, where "),
        (("--steps=3000", "--from_step=50", "--history=HISTORY"), "--from_step: found 50, lies in the warm-up of 100 updates"),
        (("--steps=3000", "--from_step=2500", "--history=HISTORY"), "must be above 0, below --steps=3000 and at most the 2000 updates"),
        (("--steps=3000", "--from_step=500", "--history=absent.csv"), "--history: absent.csv is no file"),
        (("--steps=3000", "--peak=1e-3", "--from_step=500", "--history=HISTORY"), "--peak: found 0.001, but"),
        (("--steps=3000", "--warmup=7", "--from_step=500", "--history=HISTORY"), "--warmup: found 7, but that of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(law, tmp_path, flags, message):
    file.write(tmp_path / "history.json", [0, 100, 1999], [0.0, 3e-4, 3e-4])
    file.write(tmp_path / "zero.json", [0, 100, 999], [0.0, 3e-4, 0.0])
    (tmp_path / "folder.png").mkdir()
    for word, name in (("HISTORY", "history.json"), ("ZERO", "zero.json"), ("FOLDER.png", "folder.png")):
        flags = [flag.replace(word, f"{tmp_path}/{name}") for flag in flags]
    code, _, error = run("design_schedule", f"--law={law}", *flags, f"--output={tmp_path}/s.json")
    assert code == 2 and message in error and error.count("\n") == 1, error
    assert not (tmp_path / "s.json").exists()


def test_too_few_lines_and_a_law_without_its_maker_are_no_obstacle(law, tmp_path):
    contents = json.loads(law.read_text())
    del contents["created_by"]
    (tmp_path / "law.json").write_text(json.dumps(contents))
    code, out, error = run("design_schedule", f"--law={tmp_path}/law.json", *FRESH, "--knots=2", "--draws=0", f"--output={tmp_path}/s.json")
    assert code == 0, error
    assert "is predicted to end lower: 2 lines are too few to follow it; give more --knots" in out
    assert json.loads((tmp_path / "s.json").read_text())["made_by"].startswith("launch/design_schedule.py, kaiyuan_jax ")


def test_a_law_without_a_decay_and_a_bad_output_are_refused(law, tmp_path):
    power = catalogue.LAWS["one_power"]
    other = law_file(tmp_path, power, np.zeros(len(power.parameters)))
    code, _, error = run("design_schedule", f"--law={other}", *FRESH, f"--output={tmp_path}/s.json")
    assert code == 2 and "--law: the law one_power cannot design a schedule" in error
    code, _, error = run("design_schedule", f"--law={law}", *FRESH, f"--output={tmp_path}/s.txt")
    assert code == 2 and "--output=" in error and "must end in .json" in error
