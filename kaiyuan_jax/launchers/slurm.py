"""A batch script for Slurm that starts a run's tasks, begins again after failures and queues itself again when its time is up.

    a task fails            all tasks are ended; after a pause the next start in the same allocation, from the newest checkpoint
    a node fails            Slurm queues the job again (--requeue)
    the time limit nears    Slurm sends SIGTERM to the tasks, which save and end with 0; the script queues the job again
    scancel, preemption     the tasks and the script get SIGTERM; the tasks save, the script ends (preempted jobs Slurm queues again)

Every start has a port of its own, made of the job's number, so that what is left of the one before cannot be met. Code and config are a
snapshot's: edits made while the job waits do not reach it.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers.local import AGAIN, DIVERGED, LONGEST_PAUSE, MISTAKE, Policy


@dataclasses.dataclass(frozen=True)
class Job:
    """What is asked of Slurm. A task is one process of the run and uses every accelerator that Slurm lets it see."""

    name: str
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 0  # 0: the cluster's default
    gpus_per_node: int = 0
    devices: int = 0  # virtual CPU devices of each task, where there are no accelerators
    time: str = "24:00:00"
    log: str = "slurm-%j.log"
    options: tuple[str, ...] = ()  # more of sbatch's, such as --partition=x

    def check(self) -> None:
        """Raises UserError for what would break the script's lines."""
        if re.search(r"[\s'\"\\#]", self.name + self.log):
            raise UserError(f"config.name and config.output: found {self.name!r}, {self.log!r}; sbatch takes no spaces, quotes or # there")
        if not re.fullmatch(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}|UNLIMITED", self.time):
            raise UserError(f"--time={self.time}: must be minutes, hours:minutes:seconds or days-hours, such as 24:00:00")
        for option in self.options:
            if not re.fullmatch(r"--[a-z][a-z-]*(=[^\n]+)?", option):
                raise UserError(f"--sbatch={option}: must be a long option of sbatch, such as --sbatch=--partition=gpu")


def script(job: Job, python: str, code: str, config: str, passed: Sequence[str], policy: Policy) -> str:
    """The batch script. code: folder of the unpacked snapshot; config: its config.json; passed: further flags of launch/train.py."""
    job.check()
    described = f"--config={code}/configs/saved.py:{config}"
    train = shlex.join([python, f"{code}/launch/train.py", described, *passed])
    warning = round(policy.grace) + 60  # Slurm looks at time limits once a minute
    header = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "cpus-per-task": job.cpus_per_task or None,
        "gpus-per-node": job.gpus_per_node or None,
        "time": job.time,
        "signal": f"TERM@{warning}",
        "output": job.log,
    }
    asked = [f"--{name}={value}" for name, value in header.items() if value is not None]
    asked += ["--requeue", "--open-mode=append", *job.options]
    cpus = f" --cpus-per-task={job.cpus_per_task}" if job.cpus_per_task else ""  # srun no longer takes it from sbatch
    flags = f'export XLA_FLAGS="${{XLA_FLAGS:-}} --xla_force_host_platform_device_count={job.devices}"\n' if job.devices else ""
    sbatch = "\n".join(f"#SBATCH {option}" for option in asked)
    return f"""#!/bin/bash
{sbatch}

export PYTHONPATH={shlex.quote(code)}
{flags}newest() {{ {shlex.join([python, f"{code}/launch/finished.py", described])}; }}  # prints "step last"; 0 when finished
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
failures=0 start=0 cancelled=
trap cancelled=1 TERM  # bash waits for srun first, and the tasks for their checkpoint

while true; do
  before=$(newest)
  start=$((start + 1))
  address=$host:$((20000 + (SLURM_JOB_ID * 31 + ${{SLURM_RESTART_COUNT:-0}} * 7 + start) % 12000))
  # Once one task has ended the others have {policy.lag:g} s. The number of a task is known in the task alone.
  srun --kill-on-bad-exit=0 --wait={max(1, round(policy.lag))}{cpus} bash -c 'exec "$@" --process="$SLURM_PROCID"' task \\
    {train} --coordinator="$address" --processes="$SLURM_NTASKS"
  code=$?
  after=$(newest) && [ $code = 0 ] && exit 0
  echo "launcher: start $start ended with code $code at step ${{after/ / of }}" >&2
  [ $code = {DIVERGED} ] || [ $code = {MISTAKE} ] && exit $code
  [ "$cancelled" ] && exit {AGAIN}
  [ $code = 0 ] && exec scontrol requeue "$SLURM_JOB_ID"  # saved because time was up
  if [ "$after" = "$before" ]; then failures=$((failures + 1)); else failures=1; fi
  [ $failures -gt {policy.restarts} ] && exit $code
  pause=$(({max(1, round(policy.backoff))} << (failures - 1 < 9 ? failures - 1 : 9)))
  sleep $((pause < {LONGEST_PAUSE:.0f} ? pause : {LONGEST_PAUSE:.0f}))
done
"""
