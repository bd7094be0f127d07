"""launch/fit_law.py as a user runs it, on curves that a law has made and on the released ones."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws import artefact, catalogue, huber
from kaiyuan_jax.schedules.laws.curves import Curve
from tests.schedules.laws import released
from tests.scripts import run

ROOT = pathlib.Path(__file__).parents[2]
LAW = catalogue.LAWS["multi_power_fading"]
VALUES = dict(L0=3.0, A=0.5, alpha=0.5, B=500.0, C=250.0, beta=0.25, gamma=0.42, fading=0.12)
WARMUP = 201
MEASURES = {"r2", "mae", "rmse", "prede", "worste", "final_loss_error"}


def schedules(total=6000):
    step = np.arange(total)
    rates = {"constant": np.full(total, 3e-4), "two_stage": np.where(step < 3000, 3e-4, 9e-5)}
    rates["cosine"] = 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * np.clip(step - 200, 0, None) / (total - 200)))
    rates["wsd"] = np.where(step < 5000, 3e-4, 3e-4 - 2.7e-4 * (step - 5000) / 1000)
    for values in rates.values():
        values[:WARMUP] = np.linspace(0, 3e-4, WARMUP)
    return rates


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made, random = tmp_path_factory.mktemp("curves"), np.random.default_rng(0)
    for name, rates in schedules().items():
        steps = np.arange(WARMUP - 1 if name == "cosine" else WARMUP + 10, rates.size, 40)
        curve = Curve(name, steps, np.ones(steps.size), rates, WARMUP - 1)
        losses = LAW.evaluate(LAW.prepare([curve]), LAW.theta(VALUES)) * np.exp(random.normal(0, 5e-4, steps.size))
        table = np.column_stack([steps, rates[steps], losses])
        np.savetxt(made / f"{name}.csv", table, ["%d", "%.17g", "%.6f"], ",", header="step,lr,loss", comments="")
    return made


def test_a_law_is_fitted_tested_and_written(folder, tmp_path):
    code, out, error = run("fit_law", f"--curves={folder}", "--train=cosine,constant,two_stage", f"--output={tmp_path}/law.json")
    assert code == 0, error
    contents = json.loads((tmp_path / "law.json").read_text())
    assert contents["train"] == ["cosine", "constant", "two_stage"] and contents["protocol"] == "robust"
    assert set(contents["metrics"]["curves"]) == {"wsd"} and set(contents["metrics"]["mean"]) == MEASURES
    assert set(contents["metrics"]["curves"]["wsd"]) == MEASURES and contents["metrics"]["mean"]["worste"] < 5e-3
    assert abs(contents["metrics"]["pairs"]["cosine-wsd"]["gap_error"]) < 3e-3
    assert "mean of the test curves" in out and "cosine-wsd" in out and f"written: {tmp_path}/law.json" in out
    assert "the samples begin after the warm-up: a linear one of 200 updates is assumed" in error
    assert [item["warmup"] for item in contents["inputs"]] == [199] * 4
    fit = artefact.load(tmp_path / "law.json")
    rates = schedules()["wsd"]
    curve = Curve("wsd", np.array([5900]), np.ones(1), rates, WARMUP - 1)
    truth = LAW.evaluate(LAW.prepare([curve]), LAW.theta(VALUES))
    assert abs(huber.residuals(truth, fit.law.evaluate(fit.law.prepare([curve]), fit.theta))[0]) < 2e-3


def test_other_laws_protocols_and_named_schedules_give_a_page(folder, tmp_path):
    np.save(tmp_path / "wsd.npy", schedules()["wsd"])
    flags = ["--train=cosine,wsd", "--test=constant", "--law=linear", "--protocol=converged", f"--warmup={WARMUP}", "--pairs=wsd-cosine"]
    code, out, error = run("fit_law", f"--curves={folder}", *flags, f"--schedules=wsd={tmp_path}/wsd.npy", f"--report={tmp_path}/law.html")
    assert code == 0, error
    assert out.startswith("linear (converged)") and "wsd-cosine" in out and "constant" in out and "two_stage" not in out
    assert "is assumed" not in error
    assert "wsd-cosine" in (tmp_path / "law.html").read_text(encoding="utf-8")


def test_a_law_of_constant_curves_says_what_it_cannot_know(folder, tmp_path):
    code, out, error = run("fit_law", f"--curves={folder}", "--train=constant", "--test=", f"--output={tmp_path}/law.json")
    assert code == 0, error
    assert "no decay seen, so B, C, beta, gamma, fading cannot be identified" in error
    assert json.loads((tmp_path / "law.json").read_text())["metrics"]["mean"] is None


def test_a_test_curve_of_another_peak_is_doubted(folder, tmp_path):
    for name, factor in (("cosine", 1.0), ("twice", 2.0)):
        steps, rates, losses = np.loadtxt(folder / "cosine.csv", delimiter=",", skiprows=1).T
        table = np.column_stack([steps, factor * rates, losses])
        np.savetxt(tmp_path / f"{name}.csv", table, ["%d", "%.17g", "%.6f"], ",", header="step,lr,loss", comments="")
    code, _, error = run("fit_law", f"--curves={tmp_path}", "--train=cosine", "--law=one_power", "--protocol=converged")
    assert code == 0 and "note: twice: its peak rate is 0.0006, that of the training curves 0.0003: the law is for theirs" in error, error


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--train=cosine,wsd_2"], "--train: found 'wsd_2', must be of constant, cosine, two_stage, wsd (the curves in "),
        (["--train=cosine", "--test=cosine"], "--test: cosine is in --train too"),
        (["--train=cosine", "--law=perfect"], "--law: found 'perfect', must be one of multi_power, "),
        (["--train=cosine", "--protocol=best"], "--protocol: found 'best', must be one of robust, "),
        (["--train=cosine", "--pairs=cosine-none"], "--pairs: found 'cosine-none'"),
        (["--train=cosine", "--schedules=wsd=nothing.npy"], "--schedules: nothing.npy is no file"),
        (["--train=cosine", "--schedules=nothing.npy"], "--schedules: found 'nothing.npy', must be NAME=FILE"),
        (["--train=cosine", "--schedules=wsd={0}/constant.csv"], "constant.csv begins at step 211"),
        (["--train=cosine", "--warmup=900"], "--warmup=900: at step"),
        (["--train=cosine", "--loss=heldout/mean"], "heldout/mean is missing"),
        (["--train=cosine", "--output=law.txt"], "--output=law.txt: must end in .json"),
        (["--train=cosine", "--report={0}"], "must end in .html, be no folder, and lie in a folder that exists"),
        (["--train=cosine", "--first_step=5700"], "multi_power_fading has 8 parameters; give longer or more curves"),
    ],
)
def test_mistakes_are_one_line(folder, flags, message):
    code, out, error = run("fit_law", f"--curves={folder}", *(flag.format(folder) for flag in flags))
    assert code == 2 and message in error and error.count("\n") == 1 and not out


@pytest.mark.parametrize("size", released.SIZES)
def test_released_curves_are_fitted_without_jax_or_drawing(size, tmp_path):
    flags = [f"--curves={released.folder(size)}", f"--train={','.join(released.TRAIN)}", f"--output={tmp_path}/law.json"]
    code = "import sys, runpy; sys.argv = ['fit_law', *sys.argv[1:]]\ntry: runpy.run_path('launch/fit_law.py', run_name='__main__')\n"
    code += "finally: print('\\nheavy', *sorted({'jax', 'matplotlib', 'pyarrow', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].strip() == "heavy"
    contents = json.loads((tmp_path / "law.json").read_text())
    assert set(contents["metrics"]["curves"]) == set(released.TEST)
    assert contents["inputs"][0]["sha256"] == released.curve(size, "cosine_24000").checksum
