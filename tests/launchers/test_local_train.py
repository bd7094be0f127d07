"""launch/local.py with launch/train.py: two processes, one of them killed, and the run goes on by itself to its last step."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from kaiyuan_jax import config
from kaiyuan_jax.experiments.chaos import arrangement
from kaiyuan_jax.training import saved
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]


def of_process_1(launcher: int) -> list[int]:
    """Training processes of a launcher that are number 1."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            if parent == launcher and (path / "cmdline").read_bytes().endswith(b"--process=1\0"):
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_run_whose_process_is_killed_goes_on_by_itself_to_its_end(tmp_path):
    arrangement.write_stores(tmp_path / "stores")
    experiment = arrangement.experiment(arrangement.ARRANGEMENTS["two_processes"], tmp_path / "stores", tmp_path / "run")
    experiment.health.timeout = 500.0  # a busy machine may compile for long
    experiment.averaging, experiment.mesh = config.Averaging(), config.Mesh(data=2)  # less to compile
    experiment.checkpoint = config.Checkpoint(every=2)  # so that it is killed long before its end
    for source in experiment.data.sources:
        source.heldout = ""
    (tmp_path / "config.json").write_text(config.to_json(experiment))
    reads = f"config.read({str(tmp_path / 'config.json')!r})"
    (tmp_path / "experiment.py").write_text(f"from kaiyuan_jax import config\n\n\ndef get_config():\n    return {reads}\n")
    own = ["--processes=2", "--devices=1", "--backoff=0.1", "--lag=5"]
    line = processes.bound([sys.executable, "launch/local.py", *own, "--", f"--config={tmp_path / 'experiment.py'}"])
    with open(tmp_path / "error", "w") as error:
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=error, text=True)
        try:
            end = time.monotonic() + processes.PATIENCE
            while not saved.steps(tmp_path / "run/checkpoints") and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            victims = of_process_1(process.pid)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            out, _ = process.communicate(timeout=processes.PATIENCE)
        finally:
            process.kill()
    said = (tmp_path / "error").read_text()
    assert len(victims) == 1, said
    assert process.returncode == 0, said
    assert "ended by SIGKILL; starting again in 0.1 s" in said
    assert f"finished, {arrangement.STEPS} steps" in out and ": resuming from step" in out
    assert saved.steps(tmp_path / "run/checkpoints")[-1] == arrangement.STEPS
    (taken,) = (tmp_path / "run/snapshots").iterdir()
    assert (taken / "code.tar.gz").stat().st_size and config.read(taken / "config.json") == experiment
