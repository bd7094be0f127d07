"""Trains on TPU slices of a Kubernetes cluster: python launch/gke.py --target=v5p:4x4x4 --image=europe-docker.pkg.dev/project/folder/x --
--config=configs/x.py [flags of launch/train.py]

Builds and pushes an image with a snapshot of code and config, and applies a JobSet. Needs docker and kubectl, both logged in, and the
JobSet controller in the cluster. --print shows the Dockerfile, the JobSet and the commands; with --cluster also the command of XPK.
"""

import importlib.metadata
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax import files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run
from kaiyuan_jax.launchers import command, gke, snapshot, tpus

OWN, PASSED = command.split(sys.argv)
NAME = flags.DEFINE_string("name", "", "Name of the JobSet; empty: that of the experiment.")
TARGET = flags.DEFINE_string("target", None, "Generation and topology of a slice, such as v5p:4x4x4.", required=True)
SLICES = flags.DEFINE_integer("slices", 1, "Slices.", lower_bound=1)
HOST_CHIPS = flags.DEFINE_integer("host_chips", 0, "Chips of a host; 0: 4, or all of a smaller slice.", lower_bound=0)
IMAGE = flags.DEFINE_string("image", None, "Where the image is pushed to, without tag.", required=True)
SPOT = flags.DEFINE_bool("spot", False, "Cheaper nodes, taken away when others need them.")
RESTARTS = flags.DEFINE_integer("restarts", 100, "Restarts of the JobSet, over the whole run.", lower_bound=0)
NAMESPACE = flags.DEFINE_string("namespace", "", "Namespace; empty: kubectl's own.")
ACCOUNT = flags.DEFINE_string("service_account", "", "Kubernetes service account that may use the bucket.")
QUEUE = flags.DEFINE_string("queue", "", "Local queue of Kueue; empty: none.")
CLUSTER = flags.DEFINE_string("cluster", "", "Cluster, for the command of XPK.")
PRINT = flags.DEFINE_bool("print", False, "Print what would be built and applied, and exit.")


def main(argv):
    experiment = command.experiment(PASSED)
    tpus.check_shared(experiment)
    job = gke.Job(
        name=NAME.value or experiment.name.lower().replace("_", "-"),
        slice=tpus.parse(TARGET.value),
        image=IMAGE.value,
        slices=SLICES.value,
        host_chips=HOST_CHIPS.value,
        spot=SPOT.value,
        restarts=RESTARTS.value,
        grace=experiment.checkpoint.grace + 5,
        namespace=NAMESPACE.value,
        service_account=ACCOUNT.value,
        queue=QUEUE.value,
    )
    passed, jax = tuple(command.others(PASSED)), importlib.metadata.version("jax")
    job.check()
    if CLUSTER.value and not job.slice.generation.api:
        raise UserError(
            f"--cluster={CLUSTER.value}: what XPK calls slices of --target={TARGET.value} is not known; leave it out, and kubectl is used"
        )
    if PRINT.value:
        folder = Path("build/snapshots/SNAPSHOT")
        lines = [shlex.join(line) for line in gke.commands(job, folder)]
        if CLUSTER.value:
            lines.append("# or, in place of kubectl: " + shlex.join(gke.xpk(job, folder.name, CLUSTER.value, passed)))
        print(f"# {folder}/Dockerfile\n{gke.dockerfile(jax)}")
        print(f"# {folder}/jobset.yaml\n{gke.to_yaml(gke.jobset(job, folder.name, passed))}")
        print("\n".join(lines))
        return
    for tool in ("docker", "kubectl"):
        if not shutil.which(tool):
            raise UserError(f"{tool}: not found on this machine; install it, or give --print")
    folder = snapshot.take(command.ROOT, experiment, PASSED).unpack(command.ROOT / "build/snapshots")
    files.replace(folder / "Dockerfile", gke.dockerfile(jax))
    files.replace(folder / "jobset.yaml", gke.to_yaml(gke.jobset(job, folder.name, passed)))
    for line in gke.commands(job, folder):
        print(f"launcher: {shlex.join(line)}", file=sys.stderr, flush=True)
        if code := subprocess.run(line, stdin=subprocess.DEVNULL).returncode:
            sys.exit(code)


if __name__ == "__main__":
    sys.argv = OWN
    run(main)
