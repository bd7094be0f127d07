"""law.json gives back the fit that was put in, to the last bit; what is no law.json of this version is refused."""

import json
import pathlib

import numpy as np
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import artefact, catalogue, metrics
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit

CURVE = Curve("a", np.arange(100, 900, 20), 3 + np.arange(40)[::-1] / 100, np.full(1000, 1e-3), 7, "somewhere/deep/a.csv", "f" * 64)
MEASURES = {"mae", "prede", "r2", "rmse", "worste", "final_loss_error"}


def fitted(name="multi_power"):
    law, random = catalogue.LAWS[name], np.random.default_rng(1)
    size = len(law.parameters)
    square = random.normal(size=(size, size))
    values = random.uniform(0.1, 2, size)
    return Fit(
        law, "robust", values, 1 / 3, ("a",), square @ square.T, {"note": [1, None]}, {"residual": 0.1 + 0.2, "model": {"scale": 1e-3}}
    )


@pytest.mark.parametrize("name", sorted(catalogue.LAWS))
def test_a_fit_comes_back_to_the_last_bit(tmp_path, name):
    fit = fitted(name)
    artefact.write(tmp_path / "law.json", artefact.tree(fit, [CURVE]))
    back = artefact.load(tmp_path / "law.json")
    assert back.law is fit.law
    np.testing.assert_array_equal(back.theta, fit.theta)
    np.testing.assert_array_equal(back.covariance, fit.covariance)
    assert (back.protocol, back.objective, back.train, back.details, back.bands) == (
        fit.protocol, fit.objective, fit.train, fit.details, fit.bands,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]


def test_the_file_says_what_the_law_was_made_of(tmp_path):
    law, theta = catalogue.LAWS["one_power"], np.zeros(3)
    fit = Fit(law, "converged", theta, 0.5, ("a",))
    test = Curve("b", CURVE.steps, CURVE.losses, CURVE.rates, 7)
    measured = metrics.measure(law, theta, [CURVE], [test], [("a", "b")])
    contents = artefact.tree(fit, [CURVE], [test], measured, ["a warning"])
    assert contents["inputs"][0] == {
        "name": "a", "role": "train", "path": "a.csv", "sha256": "f" * 64, "points": 40, "first_step": 100, "last_step": 880,
        "steps_total": 1000, "warmup": 7, "peak": 1e-3, "summed_rate": pytest.approx(0.881),
    }  # fmt: skip
    assert set(contents["metrics"]["mean"]) == MEASURES == set(contents["metrics"]["curves"]["b"])
    assert set(contents["metrics"]["curves"]) == {"b"} and "gap_error" in contents["metrics"]["pairs"]["a-b"]
    assert contents["parameters"] == law.values(theta) and contents["objective"] == {"name": "huber", "delta": 1e-3, "value": 0.5}
    assert contents["units"] and contents["warnings"] == ["a warning"] and contents["covariance"] is None
    assert json.loads(json.dumps(contents, allow_nan=False)) == contents


def test_intervals_hold_nine_in_ten_draws_of_each_parameter():
    fit = fitted()
    contents, draws = artefact.tree(fit, [CURVE]), np.random.default_rng(0).multivariate_normal(fit.theta, fit.covariance, 20_000)
    for i, (name, logged) in enumerate(zip(fit.law.parameters, fit.law.logged, strict=True)):
        low, high = contents["intervals"][name]
        values = np.exp(draws[:, i]) if logged else draws[:, i]
        assert np.mean((values > low) & (values < high)) == pytest.approx(0.9, abs=0.01), name
    assert artefact.tree(Fit(fit.law, "robust", fit.theta, 0.0, ("a",)), [CURVE])["intervals"] is None


def test_numbers_that_json_cannot_say_become_null():
    contents = artefact.tree(Fit(fitted().law, "robust", np.ones(7), np.inf, ("a",), details={"x": np.float64("nan")}), [CURVE])
    assert contents["objective"]["value"] is None and contents["details"] == {"x": None}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 99}, "found schema 99, this version reads 1; fit the law again"),
        ({"law": "perfect"}, "found the law 'perfect', must be one of multi_power, "),
        ({"theta": [1.0, 2.0]}, "theta must be 7 finite numbers (L0, A, alpha, B, C, beta, gamma), none beyond 600, found [1.0, 2.0]"),
        ({"theta": [1, 2, 3, 4, 5, 6, None]}, "theta must be 7 finite numbers"),
        ({"covariance": ...}, "has no covariance"),
        ({"schema": ...}, "has no schema, must be a law.json"),
    ],
)
def test_a_file_that_is_no_law_of_this_version_is_refused(tmp_path, change, message):
    contents = artefact.tree(fitted(), [CURVE])
    for key, value in change.items():
        contents[key] = value
        if value is ...:
            del contents[key]
    artefact.write(tmp_path / "law.json", contents)
    with pytest.raises(UserError) as error:
        artefact.load(tmp_path / "law.json")
    assert message in str(error.value) and f"--law: {tmp_path}/law.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "\x00"])
def test_what_is_not_json_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "law.json").write_text(text)
    with pytest.raises(UserError, match="--law: .*law.json"):
        artefact.load(tmp_path / "law.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = pathlib.Path(tmp_path / "law.json")
    path.write_text("old")
    with pytest.raises(ValueError):
        artefact.write(path, {"x": float("nan")})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def changed(contents, path, value):
    *outer, last = path.split(".")
    for key in outer:
        contents = contents[key]
    contents[last] = value


REACH = {"updates": 5, "summed_rate": 0.1, "peaks": [1e-3, 1e-3]}


@pytest.mark.parametrize(
    "path, value",
    [
        *(("theta", bad) for bad in (None, "x", {"L0": 1}, ["a"] * 7, [None] * 7, [[1], [2, 3]], [1e300] * 7, [True] * 7)),
        *(("covariance", bad) for bad in ("x", [[1, 2], [3]], [[1.0]], [[None] * 7] * 7, (-np.eye(7)).tolist(), np.tri(7).tolist())),
        *(("objective", bad) for bad in (None, {}, {"value": "a"}, [1])),
        *(("train", bad) for bad in (None, 5, "a", [1])),
        *(("uncertainty", bad) for bad in (None, {"residual": "a"}, {"residual": -1.0}, {"model": 3}, {"model": {"scale": None}})),
        *(("details", bad) for bad in (None, [], {"loss": 3})),
        *(("details.reach", bad) for bad in ("x", [1], {"updates": 5}, REACH | {"updates": 0}, REACH | {"peaks": [0, 0]})),
        *(("protocol", bad) for bad in (None, {"a": 1})),
        *(("parameters", bad) for bad in (None, [1], {"L0": "3"})),
        *(("law", bad) for bad in (["multi_power"], None, {})),
    ],
    ids=str,
)
def test_a_file_that_was_edited_by_hand_is_refused_with_the_key_in_one_line(path, value):
    contents = artefact.tree(fitted(), [CURVE])
    changed(contents, path, value)
    with pytest.raises(UserError) as error:
        artefact.from_tree(contents, "--law: x.json")
    assert str(error.value).startswith("--law: x.json: ") and path.split(".")[0] in str(error.value) and "\n" not in str(error.value)


def test_parameters_that_are_not_those_of_theta_are_refused():
    contents = artefact.tree(fitted(), [CURVE])
    contents["parameters"]["L0"] = 99.0
    with pytest.raises(UserError, match="parameters say L0 = 99, theta says .*; change both or neither"):
        artefact.from_tree(contents)
    del contents["parameters"], contents["created_by"], contents["metrics"]  # for readers only
    contents["details"]["reach"] = REACH
    contents["objective"]["value"] = None  # of a fit whose objective was infinite
    back = artefact.from_tree(contents)
    assert back.details["reach"] == REACH and np.isnan(back.objective)
