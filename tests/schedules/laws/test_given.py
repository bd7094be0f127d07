"""Schedules named on the command line: files and experiments' configs come out as one rate for every update."""

import pathlib

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules import build, file
from kaiyuan_jax.schedules.laws import given

ROOT = pathlib.Path(__file__).parents[3]
QUICKSTART = f"{ROOT}/configs/quickstart.py:uniform_wsd"


def experiment(tokens=64_000):
    phases = [config.Phase(name=name, uses=[config.Use(source="a")], tokens=tokens) for name in "ab"]
    data = config.Data(sources=[config.Source(name="a")], phases=phases, sequence_length=32, batch_size=4)
    return config.Experiment(data=data, schedule=config.Schedule(kind="wsd", peak=1e-3, end=1e-5, warmup=10))


def test_files_of_every_kind_give_the_same_rates(tmp_path):
    made = experiment()
    rates = build.rates(made.schedule, 1000, batch_size=4, sequence_length=32)
    (tmp_path / "config.json").write_text(config.to_json(made))
    np.save(tmp_path / "a.npy", rates)
    np.savetxt(tmp_path / "a.csv", np.column_stack([np.arange(1000), rates]), "%.17g", ",", header="step,lr", comments="")
    file.write(tmp_path / "a.json", range(1000), rates)
    for name in ("config.json", "config.json@1000", "a.npy", "a.csv", "a.json", "a.json@1000"):
        np.testing.assert_array_equal(given.rates(f"{tmp_path}/{name}"), rates, err_msg=name)


def test_steps_of_a_config_are_said_or_paid_for():
    assert given.rates(f"{QUICKSTART}@3000").size == 3000 == given.rates(QUICKSTART, 3000).size
    assert given.planned_steps(experiment().data) == 2 * 64_000 // 32 // 4 == 1000
    with pytest.raises(UserError, match="without a token budget, so its updates are unknown: say @STEPS or --steps"):
        given.of_experiment(experiment(0), None)


def test_rates_of_a_config_are_not_rounded_to_single_precision():
    rates = given.rates(f"{QUICKSTART}@3000")
    single = np.asarray(build.build(config.Schedule(kind="wsd"), 3000, batch_size=1, sequence_length=1)(np.arange(3000)))
    assert rates.dtype == np.float64 and single.dtype == np.float32
    falling = rates[rates < rates.max()][100:]
    assert (falling != falling.astype(np.float32)).any()


@pytest.mark.parametrize(
    "item, message",
    [
        ("nothing.json", "--schedule: nothing.json is no file"),
        (f"{ROOT}/README.md", "README.md ends in .md, must be a schedule .json"),
        (f"{QUICKSTART}@many", "found 'many' after the @, must be a number of updates"),
        (f"{ROOT}/configs/quickstart.py:none@100", "--schedule: "),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(item, message):
    with pytest.raises(UserError) as error:
        given.rates(item)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_rates_that_no_run_could_have_are_refused(tmp_path):
    for name, array in (
        ("shape", np.ones((2, 2))),
        ("nan", np.array([1.0, np.nan])),
        ("low", np.array([1.0, -1.0])),
        ("none", np.zeros(3)),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(UserError, match=name):
            given.rates(f"{tmp_path}/{name}.npy")
    for name, array in (("text", np.array(["a"])), ("complex128", np.array([1e-3 + 1j])), ("bool", np.ones(3, bool))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(UserError, match="must be a vector of real numbers"):
            given.rates(f"{tmp_path}/{name}.npy")
    np.savez(tmp_path / "several.npz", a=np.ones(3))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    (tmp_path / "empty.npy").touch()
    for name, message in (("several", "holds several arrays"), ("empty", "is no array of numbers")):
        with pytest.raises(UserError, match=message):
            given.rates(f"{tmp_path}/{name}.npy")
    np.save(tmp_path / "short.npy", np.ones(5))
    with pytest.raises(UserError, match="is a schedule of 5 updates, found 6 asked for"):
        given.rates(f"{tmp_path}/short.npy", 6)


@pytest.mark.parametrize("does", ["return unknown", "return 1 / 0", "assert False", "raise SystemExit(3)", "raise RuntimeError('a\\nb')"])
def test_a_config_file_may_fail_in_any_way(tmp_path, does):
    (tmp_path / "bad.py").write_text(f"def get_config():\n    {does}\n")
    with pytest.raises(UserError, match=r"^--schedule: .*bad.py cannot be loaded \(\w+: ?.*\)$"):
        given.rates(f"{tmp_path}/bad.py@100")


def test_more_updates_than_a_run_can_have_are_refused_before_they_are_made():
    for item, steps in ((f"{QUICKSTART}@100000001", None), (QUICKSTART, 10**10)):
        with pytest.raises(UserError, match=r"updates, must be at most 1e\+08; are these tokens\?"):
            given.rates(item, steps)
