"""Engines: every task once, errors as they are, and dead workers are replaced until it makes no sense."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare.engine import EngineError, start


def square(task):
    return task["x"] ** 2


def refuse(task):
    if task["x"] == 2:
        raise UserError("two is refused")
    return task["x"]


def break_down(task):
    return 1 / task["x"]


def die_once(task):
    """Kills its own worker unless somebody has done so before for this task."""
    if task["x"] == 3 and not os.path.exists(task["mark"]):
        open(task["mark"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return task["x"]


def die(task):
    if task["x"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task["x"]


def process_of(task):
    time.sleep(0.2)
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_gives_its_result_under_its_number(workers):
    assert dict(start(workers=workers).map(square, [{"x": x} for x in range(7)], "squares")) == {x: x * x for x in range(7)}


def test_workers_are_other_processes():
    pids = {pid for _, pid in start(workers=2).map(process_of, [{}] * 6, "sleep")}
    assert len(pids) == 2 and os.getpid() not in pids


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_for_the_user_arrives_as_it_is_and_any_other_with_its_place(workers):
    with pytest.raises(UserError, match="^two is refused$"):
        list(start(workers=workers).map(refuse, [{"x": x} for x in range(4)], "numbers"))
    with pytest.raises((RuntimeError, ZeroDivisionError), match="division by zero"):
        list(start(workers=workers).map(break_down, [{"x": x} for x in range(4)], "numbers"))


def test_a_dead_worker_costs_nothing_but_its_own_task(tmp_path):
    tasks = [{"x": x, "mark": str(tmp_path / "died")} for x in range(8)]
    assert dict(start(workers=2).map(die_once, tasks, "numbers")) == {x: x for x in range(8)}
    assert (tmp_path / "died").exists()


def test_a_task_that_always_kills_its_worker_ends_the_job_with_one_line():
    done = set()
    with pytest.raises(EngineError, match="numbers: a worker died 3 times in a row .*Lower --workers") as error:
        for number, _ in start(workers=2).map(die, [{"x": x} for x in range(8)], "numbers"):
            done.add(number)
    assert "\n" not in str(error.value) and 3 not in done


def test_workers_may_die_often_as_long_as_tasks_are_finished(tmp_path):
    tasks = [{"x": 3, "mark": str(tmp_path / f"died{x}")} for x in range(6)]  # each kills its worker once
    assert len(dict(start(workers=2).map(die_once, tasks, "numbers"))) == 6


def test_wrong_engines_and_addresses_are_refused():
    with pytest.raises(EngineError, match="--engine=spark: must be native or ray"):
        start("spark")
    with pytest.raises(EngineError, match="--workers=-1: must be 0"):
        start(workers=-1)
    with pytest.raises(EngineError, match="--ray_address=x with --engine=native"):
        start("native", address="x")


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path):
    code = "from kaiyuan_jax.data.prepare.engine import start; start('ray', address='127.0.0.1:1')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ended.returncode and "--ray_address=127.0.0.1:1: no Ray cluster answered" in ended.stderr.splitlines()[-1]
