"""Real processes, really killed: what is resumed must be the uninterrupted run, bit for bit."""

import pathlib
import signal
import time

import jax
import numpy as np
import pytest

from kaiyuan_jax.training import checkpoint

FIELDS = dict(checkpoint__every=5, evaluation__every=20, averaging__online_decay=0.9)
LAST = 100


@pytest.fixture(scope="module")
def expected(tiny_in, launch, tmp_path_factory, lines, parameters):
    """(lines, parameters) of the run that nobody disturbs."""
    experiment = tiny_in(tmp_path_factory.mktemp("undisturbed"), **FIELDS)
    code, out, error = launch(experiment)
    assert code == 0, error
    return lines(experiment), parameters(experiment, LAST)


def kill_when(process, condition, timeout=300.0):
    """Sends SIGKILL as soon as the condition holds; False when the process ended before."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if condition():
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close(), process.stderr.close()
            return True
        time.sleep(0.002)  # the process needs the core
    process.kill()
    raise AssertionError("the process neither ended nor came so far")


@pytest.fixture
def check(launch, lines, parameters, expected):
    return lambda experiment: _check(experiment, launch, lines, parameters, expected)


def _check(experiment, launch, lines, parameters, expected):
    code, out, error = launch(experiment)
    assert code == 0, error
    assert "finished, 100 steps" in out
    assert lines(experiment) == expected[0]
    for a, b in zip(jax.tree.leaves(parameters(experiment, LAST)), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_killed_between_steps_and_inside_a_write_it_resumes_to_the_same_bits(tiny, launch, check):
    experiment = tiny(**FIELDS)
    folder = pathlib.Path(experiment.folder)
    metrics_file, torn = folder / "metrics.jsonl", 0
    for after in (7, 35):  # some moment after these steps' lines
        process = launch(experiment, wait=False)
        assert kill_when(process, lambda: metrics_file.exists() and f'"step": {after},' in metrics_file.read_text())  # noqa: B023
    for _ in range(8):  # inside a write: until one is caught half done
        process = launch(experiment, wait=False)
        begin = (checkpoint.steps(folder / "checkpoints") or [0])[-1]
        if not kill_when(process, lambda: any(int(p.name.split(".")[0]) > begin for p in (folder / "checkpoints").glob("*.orbax*"))):  # noqa: B023
            break
        torn += any((folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
        if torn:
            break
    assert torn, "no write was caught half done: the case was not tested"
    check(experiment)


def test_sigterm_saves_says_so_exits_zero_and_the_rest_is_the_same(tiny, launch, check):
    experiment = tiny(**FIELDS)
    metrics_file = pathlib.Path(experiment.folder) / "metrics.jsonl"
    process = launch(experiment, wait=False)
    while not (metrics_file.exists() and metrics_file.read_text().count("\n") >= 3) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "SIGTERM: saved step" in out and "resume with the same command" in out
    step = int(out.split("saved step ")[1].split()[0])
    assert step < LAST and checkpoint.steps(f"{experiment.folder}/checkpoints")[-1] == step
    check(experiment)


def test_an_explosion_exits_with_code_one(tiny, launch):
    code, out, error = launch(tiny(schedule__peak=1e30, schedule__warmup=30, optimizer__clip_norm=0.0, checkpoint__every=1))
    assert code == 1
    assert "not finite" in error and "last good checkpoint" in error and "Traceback" not in error
