"""The batch script, by its text and by running its shell code where Slurm's commands are a few lines each; launch/check_slurm.py runs it
in a real Slurm (docs/results/slurm.md)."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers import local, slurm

POLICY = local.Policy(restarts=2, backoff=1, grace=20, lag=7)
# Commands that the script finds first. `python` stands for launch/train.py and launch/finished.py; the file `codes` has a line for each
# start: exit code, then the newest checkpoint's step after it.
COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else echo "scontrol $*" >> log; fi',
    "srun": """while [ "$1" != task ]; do shift; done; shift
SLURM_PROCID=3 bash -c 'exec "$@" --process="$SLURM_PROCID"' task "$@"
""",
    "sleep": 'echo "sleep $*" >> log',
    "python": """case $1 in
*/finished.py) cat step; grep -q "^40 " step || exit 75 ;;
*/train.py) echo "train $*" >> log; read -r code step < codes; sed -i 1d codes; echo "$step 40" > step
  [ "$code" = term ] && { kill -TERM $PPID_OF_SCRIPT; exit 0; }; exit $code ;;
esac""",
}


@pytest.fixture
def run(tmp_path):
    """run(starts) -> (exit code, lines of the log): the script, whose starts end with these (code, step)."""
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    python = str(tmp_path / "bin/python")

    def start(*starts):
        text = slurm.script(slurm.Job("x"), python, "/code", "/config.json", ["--heartbeat_timeout=9"], POLICY)
        (tmp_path / "job.sh").write_text(text.replace("failures=0", "export PPID_OF_SCRIPT=$$ failures=0"))
        (tmp_path / "step").write_text("0 40\n")
        (tmp_path / "codes").write_text("".join(f"{code} {step}\n" for code, step in starts))
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "100",
            "SLURM_NTASKS": "8",
            "SLURM_JOB_NODELIST": "n",
        }
        done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert not (tmp_path / "codes").read_text(), "fewer starts than expected"
        return done.returncode, (tmp_path / "log").read_text().splitlines(), done.stderr

    return start


def test_what_is_asked_of_slurm():
    job = slurm.Job("a", nodes=4, tasks_per_node=2, cpus_per_task=6, gpus_per_node=8, time="1-12", log="/l/%j", options=("--partition=x",))
    text = slurm.script(job, "/p/python", "/c", "/s/config.json", [], POLICY)
    asked = set(re.findall(r"^#SBATCH (.*)", text, re.M))
    assert asked == {
        "--job-name=a", "--nodes=4", "--ntasks-per-node=2", "--cpus-per-task=6", "--gpus-per-node=8", "--time=1-12", "--signal=TERM@80",
        "--output=/l/%j", "--requeue", "--open-mode=append", "--partition=x",
    }  # fmt: skip
    assert text.index("#SBATCH") < text.index("\nexport")  # Slurm reads no further than the first command
    assert "srun --kill-on-bad-exit=0 --wait=7 --cpus-per-task=6 " in text
    assert "/p/python /c/launch/train.py --config=/c/configs/saved.py:/s/config.json" in text
    assert "XLA_FLAGS" not in text
    virtual = slurm.script(slurm.Job("a", devices=3), "p", "/c", "/s", [], POLICY)
    assert 'export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=3"' in virtual


@pytest.mark.parametrize("text", ["2 hours", "1:2", "1;rm"])
def test_a_time_that_slurm_does_not_know_is_refused(text):
    with pytest.raises(UserError, match="--time="):
        slurm.Job("a", time=text).check()


@pytest.mark.parametrize("text", ["-p x", "--x\nrm", "partition=x"])
def test_an_option_that_would_break_the_script_is_refused(text):
    with pytest.raises(UserError, match="--sbatch="):
        slurm.Job("a", options=(text,)).check()


@pytest.mark.parametrize("fields", [dict(name="a b"), dict(name="a", log="/it's/%j"), dict(name="#1")])
def test_a_name_or_folder_that_would_break_the_script_is_refused(fields):
    with pytest.raises(UserError, match="config.name and config.output: found"):
        slurm.Job(**fields).check()


def test_each_task_learns_its_place_and_the_others_address(run):
    code, log, _ = run((0, 40))
    assert code == 0
    (line,) = [line for line in log if line.startswith("train")]
    words = line.split()
    assert words[1:4] == ["/code/launch/train.py", "--config=/code/configs/saved.py:/config.json", "--heartbeat_timeout=9"]
    assert re.fullmatch(r"--coordinator=node7:\d{5}", words[4]) and words[5:] == ["--processes=8", "--process=3"]


def test_a_failure_begins_again_at_another_port_until_it_is_finished(run):
    code, log, error = run((137, 10), (75, 20), (0, 40))
    assert code == 0
    ports = re.findall(r"node7:(\d+)", " ".join(line for line in log if line.startswith("train")))
    assert len(set(ports)) == 3
    assert "start 1 ended with code 137 at step 10 of 40" in error


@pytest.mark.parametrize("final", [1, 2])
def test_divergence_and_mistakes_are_final(run, final):
    assert run((final, 10))[0] == final


def test_failures_without_progress_wait_longer_and_end_the_job(run):
    code, log, _ = run((75, 10), (75, 10), (75, 20), (75, 20), (137, 20))
    assert code == 137
    assert [line for line in log if line.startswith("sleep")] == ["sleep 1", "sleep 2", "sleep 1", "sleep 2"]


def test_saved_because_time_was_up_queues_the_job_again(run):
    code, log, _ = run((0, 10))
    assert code == 0 and log[-1] == "scontrol requeue 100"


def test_a_cancelled_job_is_not_queued_again(run):
    code, log, _ = run(("term", 10))
    assert code == 75 and not [line for line in log if line.startswith("scontrol")]


def test_the_script_is_printed_and_nothing_is_written(launch, config_file, tmp_path):
    code, out, _ = launch("slurm", "--print", "--nodes=2", "--", f"--config={config_file(tmp_path / 'run')}", "--heartbeat_timeout=9")
    assert code == 0 and out.startswith("#!/bin/bash\n#SBATCH --job-name=my_run\n#SBATCH --nodes=2\n")
    assert out.endswith(f"# sbatch {tmp_path}/run/snapshots/SNAPSHOT/job.sh\n")
    assert not (tmp_path / "run").exists()
    assert subprocess.run(["bash", "-n"], input=out, text=True).returncode == 0


def test_mistakes_end_before_anything_is_written(launch, config_file, tmp_path):
    arguments = ["--", f"--config={config_file(tmp_path / 'run')}"]
    for own, passed, message in (
        ([], ["--config.schedule.pek=1"], "error: --config.schedule.pek: unknown field"),
        (["--time=soon"], [], "error: --time=soon: must be"),
        ([], ["--config.output=s3://bucket/run"], "error: --shared: missing"),
        ([], ["--config.data.phases[0].tokens=999999"], "error: config.data.phases[0].tokens"),
    ):
        code, _, error = launch("slurm", *own, *arguments, *passed)
        assert code == 2 and error.startswith(message), error
    if not shutil.which("sbatch"):
        code, _, error = launch("slurm", *arguments)
        assert code == 2 and error.startswith("error: sbatch: not found on this machine")
    assert not pathlib.Path(tmp_path / "run").exists()
