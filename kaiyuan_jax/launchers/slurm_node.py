"""A Slurm cluster of one node on this machine, for trying batch scripts: munged, slurmctld and slurmd in a folder, ended when it is left.

Debian: apt-get install slurm-wlm munge. Nothing outside the folder is written and no service is started.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers.local import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
_SBIN = "/usr/sbin:/sbin"


@contextlib.contextmanager
def cluster(folder: Path, cpus: int) -> Iterator[dict[str, str]]:
    """Gives the environment for sbatch and the rest. Raises UserError where a daemon is missing or does not start."""
    path = f"{os.environ['PATH']}:{_SBIN}"
    if missing := [name for name in DAEMONS if not shutil.which(name, path=path)]:
        raise UserError(f"{', '.join(missing)}: not found on this machine; install Slurm (Debian: slurm-wlm and munge)")
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    (folder / "munge").chmod(0o711)
    (folder / "munge/key").write_bytes(os.urandom(128))
    (folder / "munge/key").chmod(0o600)
    (folder / "slurm.conf").write_text(configuration(folder, cpus))
    environment = os.environ | {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = [f"--{name}-file={folder / 'munge' / name}" for name in ("key", "log", "pid", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder / 'munge/socket'}", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", _host()],
    )
    started = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "wb") as out:
                started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
            time.sleep(1)
        end = time.monotonic() + 60
        while b"idle" not in subprocess.run(["sinfo", "--noheader"], env=environment, capture_output=True).stdout:
            if time.monotonic() > end or any(process.poll() is not None for process in started):
                raise UserError(f"Slurm does not start; see the .out files in {folder}")
            time.sleep(0.5)
        try:
            yield environment
        finally:
            _end_jobs(environment)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_jobs(environment: dict[str, str]) -> None:
    """Jobs would outlive the daemons."""
    subprocess.run(
        ["scancel", "--full", "--signal=KILL", f"--user={pwd.getpwuid(os.getuid()).pw_name}"], env=environment, capture_output=True
    )
    end = time.monotonic() + 60
    while subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True).stdout and time.monotonic() < end:
        time.sleep(0.5)


def configuration(folder: Path, cpus: int) -> str:
    """slurm.conf, without control groups, accounting or a database."""
    user, host = pwd.getpwuid(os.getuid()).pw_name, _host()
    return f"""ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _host() -> str:
    return socket.gethostname().partition(".")[0]
