"""Queues a training run with Slurm: python launch/slurm.py --nodes=4 --gpus_per_node=8 --time=24:00:00 --sbatch=--partition=x --
--config=configs/x.py [flags of launch/train.py]

Keeps code and config with the run, writes the batch script beside them and submits it; --print prints the script and does neither.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax import files, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run
from kaiyuan_jax.launchers import command, local, slurm, snapshot

OWN, PASSED = command.split(sys.argv)
NODES = flags.DEFINE_integer("nodes", 1, "Nodes.", lower_bound=1)
TASKS = flags.DEFINE_integer("tasks_per_node", 1, "Processes on each node; one drives all accelerators it sees.", lower_bound=1)
CPUS = flags.DEFINE_integer("cpus_per_task", 0, "Cores of each process; 0: the cluster's default.", lower_bound=0)
GPUS = flags.DEFINE_integer("gpus_per_node", 0, "GPUs of each node.", lower_bound=0)
DEVICES = flags.DEFINE_integer("devices", 0, "Virtual CPU devices of each process; 0: what JAX finds.", lower_bound=0)
TIME = flags.DEFINE_string(
    "time", "24:00:00", "Time limit of one stay on the nodes; the job queues itself again until the run is finished."
)
SBATCH = flags.DEFINE_multi_string("sbatch", [], "One more option of sbatch, such as --sbatch=--partition=x; may be repeated.")
RESTARTS = flags.DEFINE_integer("restarts", 10, "Starts in a row without a newer checkpoint, after which the job fails.", lower_bound=0)
BACKOFF = flags.DEFINE_integer("backoff", 10, "Seconds before the first of them; doubled each time, at most 300.", lower_bound=1)
LAG = flags.DEFINE_integer("lag", 60, "Seconds the other tasks get when one ended.", lower_bound=1)
SHARED = flags.DEFINE_string("shared", "", "Folder that all nodes see, for the code; empty: <run>/snapshots.")
PYTHON = flags.DEFINE_string("python", sys.executable, "Python of the environment on the nodes.")
PRINT = flags.DEFINE_bool("print", False, "Print the batch script and the command, and exit.")


def main(argv):
    experiment = command.experiment(PASSED)
    command.progress(experiment)  # a plan that cannot be, said before the queue
    if storage.is_remote(experiment.folder) and not SHARED.value:
        raise UserError(
            f"--shared: missing; the run folder {experiment.folder} is remote, so name a folder that all nodes see for the code"
        )
    under = Path(SHARED.value or f"{experiment.folder}/snapshots").absolute()
    log, options = f"{under}/slurm-%j.log", tuple(SBATCH.value)
    shape = NODES.value, TASKS.value, CPUS.value, GPUS.value, DEVICES.value
    job = slurm.Job(experiment.name, *shape, TIME.value, log, options)
    policy = local.Policy(restarts=RESTARTS.value, backoff=BACKOFF.value, grace=experiment.checkpoint.grace, lag=LAG.value)

    def script(folder) -> str:
        return slurm.script(job, PYTHON.value, f"{folder}/code", f"{folder}/config.json", command.others(PASSED), policy)

    if PRINT.value:
        print(script(under / "SNAPSHOT") + f"\n# sbatch {under}/SNAPSHOT/job.sh")
        return
    job.check()
    if not shutil.which("sbatch"):
        raise UserError("sbatch: not found on this machine; run this where jobs are submitted, or give --print")
    folder = snapshot.take(command.ROOT, experiment, PASSED).unpack(under)
    files.replace(folder / "job.sh", script(folder))
    sys.exit(subprocess.run(["sbatch", str(folder / "job.sh")], stdin=subprocess.DEVNULL).returncode)


if __name__ == "__main__":
    sys.argv = OWN
    run(main)
