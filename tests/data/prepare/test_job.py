"""Jobs go on where they were, belong to one fingerprint, and hold their output alone."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from kaiyuan_jax.data.prepare.engine import start
from kaiyuan_jax.data.prepare.job import Job, JobError, locked


def count(task):
    """Leaves a trace of every call; fails for the task that it is told to fail for."""
    with open(task["log"], "a") as log:
        log.write(f"{task['x']}\n")
    if task["x"] == task["fail"]:
        raise OSError(errno.EIO, "broken disk")
    return {"x": task["x"], "name": task["name"]}


def tasks(folder, fail=None):
    return [{"x": x, "log": str(folder / "log"), "fail": fail} for x in range(5)]


def test_finished_parts_are_not_made_again(tmp_path):
    job = Job(tmp_path / "out", "f")
    with pytest.raises(OSError, match="broken disk"):
        job.parts(start(workers=1), "numbers", count, tasks(tmp_path, fail=3), sizes=[1] * 5, unit="n")
    job = Job(tmp_path / "out", "f")
    found = job.parts(start(workers=1), "numbers", count, tasks(tmp_path), sizes=[1] * 5, unit="n")
    assert [facts["x"] for facts in found] == [0, 1, 2, 3, 4]
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3", "3", "4"]
    assert [facts["name"] for facts in found][3] == str(tmp_path / "out.work" / "numbers" / "000003")
    (manifest,) = job.manifests()
    assert manifest["step"] == "numbers" and manifest["tasks"] == 5 and manifest["resumed"] == 3


def test_a_step_is_made_once(tmp_path):
    calls = []
    for _ in range(2):
        facts = Job(tmp_path / "out", "f").step("sum", lambda folder: calls.append(folder) or {"total": 3})
    assert len(calls) == 1 and facts["total"] == 3 and facts["step"] == "sum" and facts["seconds"] >= 0


def test_the_work_of_another_input_or_setting_is_thrown_away(tmp_path):
    Job(tmp_path / "out", "f").step("sum", lambda folder: {"total": 3})
    other = Job(tmp_path / "out", "g")
    assert not (other.work / "sum").exists() and Job.begun(tmp_path / "out")["fingerprint"] == "g"


HOLD = """import pathlib, sys, time
from kaiyuan_jax.data.prepare.job import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_jobs_cannot_write_one_output_and_a_killed_one_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(JobError, match=r"--output=.*out: another process is preparing it"), locked(tmp_path / "out"):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "out"):
        assert os.listdir(tmp_path) == ["out.lock"]
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_that_says_what_stays(tmp_path):
    message = r"no space left on the disk \([\d,]+ MB free\); finished parts stay in .*out.work"
    with pytest.raises(JobError, match=message), locked(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), locked(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "no")


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(JobError, match="s3:/.*must be a path of this machine"), locked(pathlib.Path("s3://bucket/out")):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot be written"), locked(tmp_path / "file" / "out"):
        pass
