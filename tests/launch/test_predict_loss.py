"""launch/predict_loss.py as a user runs it: a forecast of configs and files, with a band, a table and a picture."""

import pathlib

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws import artefact, catalogue, forecast, given
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from tests.scripts import run

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/quickstart.py:uniform_wsd"


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    made = catalogue.LAWS["multi_power"]
    theta = made.theta(dict(L0=3.0, A=0.5, alpha=0.5, B=100.0, C=2.0, beta=0.5, gamma=0.6))
    rates = given.rates(f"{ROOT}/{CONFIG}", 1000)
    train = Curve("a", np.arange(100, 1000, 10), np.full(90, 3.0), rates, 20)
    details = {"reach": forecast.reach([train])}
    fit = Fit(made, "robust", theta, 0.0, ("a",), np.eye(7) * 1e-6, details, {"residual": 1e-3})
    path = tmp_path_factory.mktemp("law") / "law.json"
    artefact.write(path, artefact.tree(fit, [train]))
    return path


def test_a_forecast_is_printed_and_written_with_its_band(law, tmp_path):
    code, out, error = run(
        "predict_loss", f"--law={law}", f"--schedule={CONFIG}", "--steps=2000", f"--output={tmp_path}/forecast", "--points=50"
    )
    assert code == 0 and error == "", error
    table = np.genfromtxt(tmp_path / "forecast" / "forecast.csv", delimiter=",", names=True)
    assert table.dtype.names == ("step", "lr", "loss", "low", "high") and table.size == 50 and table["step"][-1] == 1999
    rates = given.rates(f"{ROOT}/{CONFIG}", 2000)
    loss, low, high = forecast.predict(artefact.load(law), rates, table["step"].astype(int))
    np.testing.assert_allclose([table["loss"], table["low"], table["high"]], [loss, low, high], atol=1e-6)
    np.testing.assert_allclose(table["lr"], rates[table["step"].astype(int)], rtol=1e-8)
    assert f"{loss[-1]:.4f}  {low[-1]:.4f} to {high[-1]:.4f}" in out and out.startswith("quickstart.py: 2,000 updates")
    assert (tmp_path / "forecast" / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_extrapolation_is_said(law, tmp_path):
    np.save(tmp_path / "long.npy", np.full(9000, 3e-3))
    code, _, error = run("predict_loss", f"--law={law}", f"--schedule={tmp_path}/long.npy")
    assert code == 0 and "long.npy: 9,000 updates and a summed rate of 27" in error and "extrapolation" in error


def test_zeros_before_the_rise_have_no_prediction(law, tmp_path):
    np.save(tmp_path / "late.npy", np.concatenate([np.zeros(5), np.linspace(0, 3e-3, 21), np.full(500, 3e-3)]))
    code, out, error = run("predict_loss", f"--law={law}", f"--schedule={tmp_path}/late.npy")
    assert code == 0 and "nan" not in out and error == "" and "warm-up 25," in out, error


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--law=none.json", f"--schedule={CONFIG}"], "--law: none.json is no file, must be a law.json; launch/fit_law.py makes one"),
        (["--law={0}", "--schedule=none.csv"], "--schedule: none.csv is no file"),
        (["--law={0}", f"--schedule={CONFIG}", "--steps=0"], "--steps: found 0, must be at least 1"),
        (["--law={0}", "--schedule={0}"], "has no list 'knots'"),
        (["--law={0}", f"--schedule={CONFIG}", "--steps=10000000000"], "found 10000000000 updates, must be at most 1e+08"),
        (["--law={0}", f"--schedule={CONFIG}", "--steps=2000", "--output={0}"], "is a file, must be a folder, which may be new"),
        (["--law={0}", f"--schedule={CONFIG}", "--steps=2000", "--output={0}/inside"], "is a file, must be a folder, which may be new"),
    ],
)
def test_mistakes_are_one_line(law, flags, message):
    code, out, error = run("predict_loss", *(flag.format(law) for flag in flags))
    assert code == 2 and message in error and error.count("\n") == 1 and not out
