"""The script as a user runs it, over checkpoints written by hand."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.training import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
# The high-water mark of this process alone: getrusage would begin with that of the parent.
MEASURED = """
import runpy, sys
sys.argv = ["launch/average_checkpoints.py", *sys.argv[1:]]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print("peak", 1024 * int(line.split()[1]))
"""


def make_run(folder, steps, shapes, **averaging):
    folder.mkdir(exist_ok=True)
    experiment = config.Experiment(averaging=config.Averaging(**averaging))
    (folder / "config.json").write_text(config.to_json(experiment))
    for step in steps:
        random = np.random.default_rng(step)
        leaves = {path: random.random(shape, np.float32) for path, shape in shapes.items()}
        checkpoint.save_parameters(folder / "checkpoints" / str(step), leaves, {"step": step})


def average(run, *flags):
    """(exit code, output, errors, peak bytes)"""
    command = [sys.executable, "-c", MEASURED, f"--run={run}", *flags]
    # glibc keeps freed blocks below 32 MB for itself: count what is in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    peak = int(done.stdout.rsplit("peak ", 1)[1]) if "peak " in done.stdout else 0
    return done.returncode, done.stdout, done.stderr, peak


def leaf(folder, path):
    return checkpoint.leaf_reader(folder)[1](path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, range(100, 600, 100), {"embedding_VD": (64, 8), "layers/query_NDHC": (2, 8, 2, 4)}, kind="ema", last=3, alpha=0.25)
    return folder


@pytest.fixture(scope="module")
def averaged(run):
    """What the script says of `run` when it is told nothing else; its peak is that of a model of no size."""
    return average(run)


def test_what_is_not_given_comes_from_the_run(run, averaged):
    code, out, error, _ = averaged
    assert code == 0, error
    weights = np.array([1, 0.75, 0.75**2])
    weights /= weights.sum()
    for path in ("embedding_VD", "layers/query_NDHC"):
        read = [leaf(run / f"checkpoints/{step}", path).astype(np.float64) for step in (500, 400, 300)]
        expected = sum(w * x for w, x in zip(weights, read, strict=True))
        np.testing.assert_array_equal(leaf(run / "averages/ema_0.25_last3", path), expected.astype(np.float32))
    facts = checkpoint.progress(run / "averages/ema_0.25_last3")
    assert facts["steps"] == [500, 400, 300] and facts["weights"] == pytest.approx(weights) and facts["step"] == 500
    assert "step      500  weight 0.432432" in out


def test_steps_and_weights_are_taken_as_given_newest_first(run):
    code, _, error, _ = average(run, "--steps=100,400", "--weights=0.75,0.25", "--name=mine")
    assert code == 0, error
    expected = 0.75 * leaf(run / "checkpoints/400", "embedding_VD") + 0.25 * leaf(run / "checkpoints/100", "embedding_VD")
    np.testing.assert_allclose(leaf(run / "averages/mine", "embedding_VD"), expected, rtol=1e-6)


def test_a_metric_of_the_run_weighs_its_checkpoints(run):
    losses = {100: 2.0, 200: 1.5, 300: 1.25, 400: 1.0, 500: 1.125}
    lines = [{"step": step, "loss": 9.0} for step in losses] + [{"step": step, "heldout/mean": loss} for step, loss in losses.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, error, _ = average(run, "--kind=metric", "--temperature=0.125", "--last=3")
    assert code == 0, error
    weights = np.exp([-1, 0, -2])  # 500, 400, 300
    facts = checkpoint.progress(run / "averages/metric_0.125_last3")
    assert facts["steps"] == [500, 400, 300] and facts["weights"] == pytest.approx(weights / weights.sum())
    assert facts["metric"] == {"name": "heldout/mean", "temperature": 0.125, "values": [1.125, 1.0, 1.25]}
    read = [leaf(run / f"checkpoints/{step}", "embedding_VD").astype(np.float64) for step in (500, 400, 300)]
    expected = sum(w * x for w, x in zip(weights / weights.sum(), read, strict=True))
    np.testing.assert_allclose(leaf(run / "averages/metric_0.125_last3", "embedding_VD"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--kind=metric", "--metric=heldout/prose"], "metrics.jsonl has it at no step, not at 500, 400, 300; name another"),
        (["--last=9"], "reaches before the first kept checkpoint; must be 1 to 5 (kept: 100, 200, 300, 400, 500)"),
        (["--steps=100,250"], "--steps: found [250], must be among the kept checkpoints 100, 200, 300, 400, 500"),
        (["--kind=median"], "config.averaging.kind: found 'median'"),
        (["--kind=sma", "--name=../x"], "--name: found '../x', must be a plain folder name"),
        (["--kind=online"], "holds no 'average'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(run, flags, message):
    before = sorted(path.name for path in run.glob("averages/*"))
    code, _, error, _ = average(run, *flags)
    assert code == 2 and message in error and "Traceback" not in error
    assert sorted(path.name for path in run.glob("averages/*")) == before


def test_memory_does_not_grow_with_the_number_of_checkpoints(averaged, tmp_path):
    shapes = {f"layers/{name}_NDF": (8, 256, 1024) for name in ("gate", "up", "down")} | {f"embedding{i}_VD": (4096, 512) for i in range(3)}
    size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())  # 50 MB
    make_run(tmp_path, [1], shapes)
    for step in range(2, 9):
        shutil.copytree(tmp_path / "checkpoints/1", tmp_path / f"checkpoints/{step}")
    peaks = []
    for last in (2, 8):
        code, _, error, peak = average(tmp_path, "--kind=sma", f"--last={last}")
        assert code == 0, error
        peaks.append((peak - averaged[-1]) / size)
    assert 1 < peaks[0] < 2.4, f"{peaks} models for 2 and 8 checkpoints"
    assert abs(peaks[1] - peaks[0]) < 0.4, f"{peaks} models for 2 and 8 checkpoints"
