"""A process that stands still writes where, and ends with the code that asks for another start."""

import json
import subprocess
import sys
import time

import pytest

from kaiyuan_jax.training import watchdog

CHILD = """
import sys, threading, time
from pathlib import Path
from kaiyuan_jax.training import watchdog

watchdog.FIRST = 0.5
watch = watchdog.Watchdog(Path(sys.argv[1]), 0.5, 1, 2)
def a_collective_that_never_comes_back():
    threading.Event().wait()
for step in range(1, 8):
    watch.beat("step", step)
    time.sleep(0.2)
if sys.argv[2] == "hangs":
    a_collective_that_never_comes_back()
watch.close()
"""


def run(folder, behaviour):
    (folder / "heartbeats").mkdir()
    (folder / "heartbeats" / "0.json").write_text('{"process": 0, "host": "other", "step": 3}')
    return subprocess.run([sys.executable, "-c", CHILD, str(folder), behaviour], capture_output=True, text=True, timeout=100)


def test_a_hang_ends_with_stacks_the_stage_and_what_the_others_said(tmp_path):
    ended = run(tmp_path, "hangs")
    assert ended.returncode == 75
    assert "process 1 of 2" in ended.stderr and "since it began 'step' of step 7" in ended.stderr and "Traceback" not in ended.stderr
    (stall,) = (tmp_path / "stalls").iterdir()
    text = stall.read_text()
    assert "in a_collective_that_never_comes_back" in text and '"host": "other", "step": 3' in text and text.count("Thread 0x") >= 2


def test_a_process_that_goes_on_is_left_alone(tmp_path):
    ended = run(tmp_path, "goes on")
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "stalls").exists()
    assert json.loads((tmp_path / "heartbeats" / "1.json").read_text())["process"] == 1


@pytest.mark.parametrize("timeout", [0.0, 0.2])
def test_the_first_of_a_stage_may_compile_and_no_timeout_never_ends(tmp_path, timeout):
    watch = watchdog.Watchdog(tmp_path, timeout, 0, 1)
    watch.beat("step", 1)
    time.sleep(0.6)  # were this taken for silence the test run would end here
    watch.close()
