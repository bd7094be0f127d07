"""The commands, word for word, and the rounds of them: a `gcloud` of a few lines answers from a list and writes down what it was told."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers import local, tpu_vm, tpus

ROOT = pathlib.Path(__file__).parents[2]
# `states` has a line for each time that the state is asked for; `codes` one for each training.
GCLOUD = """#!/bin/bash
cd "$(dirname "$0")"
echo "$*" >> log
case "$*" in
*describe*)
  read -r state < states; sed -i 1d states
  [ "$state" = offline ] && { echo "ERROR: no network" >&2; exit 1; }
  [ "$state" ] || { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
  echo "$state" ;;
*launch/local.py*)
  read -r code < codes; sed -i 1d codes
  [ "$code" = wait ] && { touch waits; exec sleep 100; }
  exit "$code" ;;
esac
"""
SLICE = tpus.parse("v5p:4x4x4")
POLICY = local.Policy(restarts=2, backoff=0.01)


@pytest.fixture
def work(tmp_path):
    return tpu_vm.Work(tmp_path / "abc", "0.12.0", ("--heartbeat_timeout=9",), restarts=4, grace=35)


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """gcloud(states, codes) sets what is answered; gcloud() -> what was told, shortened to its verbs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def use(states=None, codes=()):
        if states is not None:
            (folder / "states").write_text("".join(f"{state}\n" for state in states))
            (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
            return folder
        verbs = {"local.py": "train", "while kill": "stop", "uv venv": "set up", "mkdir": "folder", " scp ": "copy"}
        verbs |= {"describe": "describe", "queued-resources create": "create", "delete": "delete"}
        return [next(verb for mark, verb in verbs.items() if mark in line) for line in (folder / "log").read_text().splitlines()]

    return use


ROUND = ["folder", "copy", "set up", "train"]


def test_the_commands_are_these(work):
    resource = tpu_vm.Resource("x", SLICE, "us-east5-a", "p", spot=True, options=("--network=n",))
    end = ["--zone=us-east5-a", "--project=p"]
    assert resource.create() == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "x", "--node-id=x", "--accelerator-type=v5p-128",
        "--runtime-version=v2-alpha-tpuv5", "--spot", "--network=n", *end,
    ]  # fmt: skip
    assert resource.describe() == ["gcloud", "compute", "tpus", "queued-resources", "describe", "x", "--format=value(state.state)", *end]
    assert resource.delete() == ["gcloud", "compute", "tpus", "queued-resources", "delete", "x", "--force", "--quiet", *end]
    files = [str(work.snapshot / "code.tar.gz"), str(work.snapshot / "config.json")]
    assert resource.copy(work.files(), work.folder)[3:] == ["tpu-vm", "scp", *files, "x:kaiyuan_jax_abc", "--worker=all", *end]
    assert resource.on_all("ls")[3:] == ["tpu-vm", "ssh", "x", "--worker=all", "--command=ls", *end]


def test_a_worker_trains_the_snapshot_under_a_launcher_of_its_own(work):
    assert work.train().endswith(
        "PYTHONPATH=$PWD/code exec .venv/bin/python code/launch/local.py --restarts=4 --grace=35 --nosnapshot -- --distributed "
        "--config=code/configs/saved.py:config.json --heartbeat_timeout=9"
    )
    for command in (work.make_folder(), work.set_up(), work.train(), work.stop()):
        assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0


def test_stopping_lets_what_runs_save_and_waits_for_it(work, tmp_path, monkeypatch):
    """The shell code that workers run, here."""
    pid = tmp_path / "pid"
    monkeypatch.setattr(tpu_vm, "_PID", str(pid))
    assert subprocess.run(["bash", "-c", work.stop()]).returncode == 0  # nothing runs
    slow = "import signal, sys, time\ndef save(*_):\n    time.sleep(0.5)\n    open('saved', 'w')\n    sys.exit()\n"
    slow += "signal.signal(15, save)\nopen('ready', 'w')\ntime.sleep(100)"
    running = subprocess.Popen([sys.executable, "-c", slow], cwd=tmp_path)
    pid.write_text(str(running.pid))
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    stopping = subprocess.Popen(["bash", "-c", work.stop()])
    assert running.wait(20) == 0 and (tmp_path / "saved").exists()
    assert stopping.wait(20) == 0


def test_a_slice_is_asked_for_waited_for_and_trained_on(gcloud, work):
    gcloud(["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], [0])
    assert tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, poll=0.01) == 0
    assert gcloud() == ["describe", "create", "describe", "describe", "describe", *ROUND]


def test_a_slice_that_is_taken_away_is_asked_for_again(gcloud, work):
    gcloud(["ACTIVE", "SUSPENDED", "", "ACTIVE"], [255, 0])
    assert tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, poll=0.01) == 0
    assert gcloud() == ["describe", *ROUND, "describe", "delete", "describe", "create", "describe", *ROUND]


@pytest.mark.parametrize("code", [1, 2])
def test_divergence_and_mistakes_are_final(gcloud, work, code):
    gcloud(["ACTIVE"], [code])
    assert tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, poll=0.01) == code


def test_it_gives_up_after_so_many_failures(gcloud, work):
    gcloud(["ACTIVE"] * 3, [75] * 3)
    assert tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, poll=0.01) == local.AGAIN
    assert gcloud().count("train") == 3


def test_failures_after_a_newer_checkpoint_count_anew(gcloud, work):
    """A spot slice may be taken away any number of times."""
    gcloud(["ACTIVE"] * 6, [255] * 5 + [0])
    steps = iter(range(100))
    assert tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, lambda: next(steps), poll=0.01) == 0


def test_a_resource_that_cannot_be_asked_about_is_an_error_and_not_created(gcloud, work):
    folder = gcloud([], [])
    (folder / "gcloud").write_text("#!/bin/bash\necho 'ERROR: you are not logged in' >&2; exit 1\n")
    with pytest.raises(UserError, match="queued-resources describe x.*you are not logged in"):
        tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, poll=0.01)


def test_a_state_that_cannot_be_asked_for_later_on_is_asked_for_again(gcloud, work, capfd):
    gcloud(["WAITING_FOR_RESOURCES", "offline", "ACTIVE"], [0])
    assert tpu_vm.run(tpu_vm.Resource("x", SLICE, "z"), work, POLICY, poll=0.01) == 0
    assert gcloud() == ["describe"] * 3 + ROUND
    assert "queued-resources describe x" in (said := capfd.readouterr().err) and "no network" in said


def test_a_signal_tells_the_workers_to_save(gcloud, work, tmp_path):
    folder = gcloud(["ACTIVE"], ["wait"])
    code = (
        "import sys\nfrom pathlib import Path\nfrom kaiyuan_jax.launchers import local, tpu_vm, tpus\n"
        f"work = tpu_vm.Work(Path({str(work.snapshot)!r}), '1')\n"
        "sys.exit(tpu_vm.run(tpu_vm.Resource('x', tpus.parse('v5p:4x4x4'), 'z'), work, local.Policy()))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    end = time.monotonic() + 30
    while not (folder / "waits").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == local.AGAIN
    assert gcloud() == ["describe", *ROUND, "stop"]


@pytest.mark.parametrize(("name", "target", "flag"), [("My_Run", "v5p:4x4x4", "--name"), ("x", "tpu7x:4x4x4", "--target")])
def test_what_the_api_does_not_have_is_refused(name, target, flag):
    with pytest.raises(UserError, match=flag):
        tpu_vm.Resource(name, tpus.parse(target), "z").check()


def test_the_round_is_printed(launch, config_file):
    own = ["--print", "--zone=us-east5-a", "--target=v5e:4x4", "--spot"]
    code, out, error = launch("tpu_vm", *own, "--", f"--config={config_file('gs://bucket/run')}", "--config.seed=3")
    assert code == 0, error
    lines = out.splitlines()
    assert len(lines) == 7 and all(line.startswith("gcloud compute tpus ") and "--zone=us-east5-a" in line for line in lines)
    assert "create my-run --node-id=my-run --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot" in lines[0]
    assert "--config.seed" not in out  # it is in the snapshot's config.json
    code, _, error = launch("tpu_vm", *own, "--", f"--config={config_file('runs/x')}")
    assert code == 2 and error.startswith("error: config.output: found 'runs/x'")
