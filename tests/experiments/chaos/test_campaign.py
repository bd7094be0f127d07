"""A short campaign: real processes, really hurt, and a mistake in the flags."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]
FEW = "kill_write,flipped,failing_read,clock,full_disk,terminate"


def chaos(*flags):
    return subprocess.run([sys.executable, "launch/chaos.py", *flags], cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True)


def test_a_few_faults_of_different_kinds_are_brought_about_and_nothing_is_lost(tmp_path):
    done = chaos("--faults=6", "--seed=3", "--arrangements=one", f"--kinds={FEW}", f"--output={tmp_path}/chaos")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "chaos" / "chaos.json").read_text())
    assert results["all"]["injected"] == results["all"]["survived"] >= 6
    assert {kind["kind"] for kind in results["kinds"]} <= set(FEW.split(","))
    assert "| all of them | " in (tmp_path / "chaos" / "chaos.md").read_text()


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    done = chaos("--kinds=kill_stepp", f"--output={tmp_path}/chaos")
    assert done.returncode == 2
    assert "--kinds: found 'kill_stepp', must be among kill_start, kill_step" in done.stderr
    assert not (tmp_path / "chaos").exists()
