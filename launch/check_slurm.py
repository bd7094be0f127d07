"""Tries launch/slurm.py in a real Slurm of one node: python launch/check_slurm.py --output=docs/results/slurm.md

Starts Slurm's daemons in a folder of their own (Debian: apt-get install slurm-wlm munge), and trains a run of 200 steps in two tasks five
times: undisturbed, with a task killed, with the signal by which Slurm warns of a time limit, with the job queued again as Slurm does when
a node is lost, and with the job cancelled and submitted anew. Each must end with the metrics and the weights of the first, bit for bit. A
few minutes.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments.chaos import arrangement
from kaiyuan_jax.flags import run
from kaiyuan_jax.launchers import command, slurm_node
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint, metrics, saved

OUTPUT = flags.DEFINE_string("output", "", "Markdown file of the result; empty: none.")
STEPS, EVERY, STRIKE = 200, 20, 60
PATIENCE = 900.0  # seconds for one case
CONFIG = """from kaiyuan_jax import config


def get_config():
    return config.read({path!r})
"""


def main(argv):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))  # the daemons end with it
    files.check_target("output", OUTPUT.value, ".md")
    with tempfile.TemporaryDirectory(prefix="check_slurm_") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "slurm").mkdir()
        with slurm_node.cluster(folder / "slurm", os.cpu_count() or 1) as environment:
            version = subprocess.run(["sbatch", "--version"], env=environment, capture_output=True, text=True).stdout.strip()
            rows = check(folder, environment)
    lines = [
        f"# launch/slurm.py in a real Slurm ({version}, one node, two tasks of two virtual CPU devices)",
        "",
        f"`python launch/check_slurm.py --output=docs/results/slurm.md`; {STEPS} steps, a checkpoint every {EVERY}. A case passes when its",
        "job ends as it should and the run's metrics (but for what a clock measured) and last weights are those of the first, bit for bit.",
        "",
        "| what was done to the job | starts | queued again | how it went on | seconds | same bits |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]
    print("\n".join(lines))
    if OUTPUT.value:
        files.replace(OUTPUT.value, "\n".join(lines) + "\n")
    sys.exit(0 if all(row[-1] == "yes" for row in rows) else 1)


@dataclasses.dataclass
class Case:
    """One run, its jobs, and what is done to them."""

    folder: Path
    environment: dict[str, str]

    def submit(self, *own: str) -> str:
        """The job's number."""
        line = [sys.executable, str(command.ROOT / "launch/slurm.py"), "--tasks_per_node=2", "--devices=2", "--lag=10", "--backoff=1", *own]
        done = subprocess.run([*line, "--", f"--config={self.folder}/experiment.py"], env=self.environment, capture_output=True, text=True)
        if not (number := re.search(r"Submitted batch job (\d+)", done.stdout)):
            raise UserError(f"launch/slurm.py: {done.stderr or done.stdout}")
        return number.group(1)

    def newest(self) -> int:
        return (saved.steps(f"{self.folder}/run/checkpoints") or [0])[-1]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise UserError(f"{self.folder.name}: no {what} after {PATIENCE:g} s:\n{self.output()[-3000:]}")
            time.sleep(0.2)

    def state(self, job: str) -> str:
        shown = subprocess.run(["scontrol", "show", "job", job], env=self.environment, capture_output=True, text=True).stdout
        return re.search(r"JobState=(\w+)", shown).group(1)

    def ends(self, job: str, state: str) -> None:
        self.until(lambda: self.state(job) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), "end")
        if self.state(job) != state:
            raise UserError(f"{self.folder.name}: job ended as {self.state(job)}, should be {state}:\n{self.output()[-3000:]}")

    def output(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("run/snapshots/slurm-*.log")))

    def slurm(self, *line: str) -> None:
        subprocess.run(line, env=self.environment, check=True, capture_output=True)


def undisturbed(case: Case) -> str:
    case.ends(case.submit(), "COMPLETED")
    return "to the end"


def killed(case: Case) -> str:
    job = case.submit()
    case.until(lambda: case.newest() >= STRIKE, f"step {STRIKE}")
    tasks = subprocess.run(
        ["pgrep", "-f", f"launch/train.py .*{case.folder}/.*--process=1$"], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(tasks[-1]), signal.SIGKILL)
    case.ends(job, "COMPLETED")
    return "in the same allocation"


def out_of_time(case: Case) -> str:
    job = case.submit()
    case.until(lambda: case.newest() >= STRIKE, f"step {STRIKE}")
    case.slurm("scancel", "--signal=TERM", job)  # to the tasks and not to the script, as --signal=TERM@N has it sent
    case.ends(job, "COMPLETED")
    if "SIGTERM: saved step" not in case.output():
        raise UserError(f"{case.folder.name}: the job did not save")
    return "saved, queued itself again"


def queued_again(case: Case) -> str:
    job = case.submit()
    case.until(lambda: case.newest() >= STRIKE, f"step {STRIKE}")
    case.slurm("scontrol", "requeue", job)
    case.ends(job, "COMPLETED")
    return "on its next turn"


def cancelled(case: Case) -> str:
    job = case.submit()
    case.until(lambda: case.newest() >= STRIKE, f"step {STRIKE}")
    case.slurm("scancel", job)
    case.ends(job, "CANCELLED")
    if "SIGTERM: saved step" not in case.output():
        raise UserError(f"{case.folder.name}: the cancelled job did not save")
    case.ends(case.submit(), "COMPLETED")
    return "saved, stayed cancelled; went on when submitted anew"


CASES = {
    "nothing": undisturbed,
    "SIGKILL of one task": killed,
    "SIGTERM to the tasks, as before a time limit": out_of_time,
    "`scontrol requeue`, as after a lost node": queued_again,
    "`scancel`": cancelled,
}


def check(folder: Path, environment: dict[str, str]) -> list[tuple]:
    """A row of the table for each case."""
    arrangement.write_stores(folder / "stores")
    rows, whole = [], None
    hurry = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # a program so small compiles longer than it runs
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    environment = environment | cache | {"XLA_FLAGS": hurry, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    for number, (what, do) in enumerate(CASES.items()):
        case = Case(folder / f"case{number}", environment)
        case.folder.mkdir()
        experiment = arrangement.experiment(arrangement.ARRANGEMENTS["two_processes"], folder / "stores", case.folder / "run")
        for use in experiment.data.phases[0].uses:
            use.passes = 4.0
        experiment.data.phases[0].tokens = STEPS * experiment.data.sequence_length * experiment.data.batch_size
        experiment.checkpoint.every, experiment.checkpoint.grace = EVERY, 10.0
        experiment.evaluation.every = 0
        experiment.health.timeout = 600.0  # a busy machine may compile for long
        (case.folder / "config.json").write_text(config.to_json(experiment))
        (case.folder / "experiment.py").write_text(CONFIG.format(path=str(case.folder / "config.json")))
        begin = time.monotonic()
        how = do(case)
        found = outcome(case.folder / "run")
        whole = whole or found
        starts = 1 + case.output().count(": resuming from step")
        rows.append((what, starts, _restarts(case), how, round(time.monotonic() - begin), "yes" if found == whole else "no"))
        print("; ".join(map(str, rows[-1])), file=sys.stderr, flush=True)
    return rows


def _restarts(case: Case) -> int:
    shown = subprocess.run(["scontrol", "show", "job"], env=case.environment, capture_output=True, text=True).stdout
    jobs = [block for block in shown.split("\n\n") if str(case.folder) in block]
    return sum(int(count) for block in jobs for count in re.findall(r"Restarts=(\d+)", block))


def outcome(run_folder: Path) -> tuple:
    """What must be equal: metrics without what a clock measured, and the bytes of the last weights."""
    lines = [{k: v for k, v in line.items() if k not in metrics.CLOCKED} for line in metrics.read(run_folder / "metrics.jsonl")]
    experiment = config.read(run_folder / "config.json")
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    weights = jax.device_get(checkpoint.load_parameters(run_folder / "checkpoints" / str(STEPS), abstract))
    return lines, [leaf.tobytes() for leaf in jax.tree.leaves(weights)]


if __name__ == "__main__":
    run(main)
