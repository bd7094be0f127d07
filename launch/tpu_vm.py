"""Trains on a slice of TPU VMs: python launch/tpu_vm.py --name=x --zone=us-east5-a --target=v5p:4x4x4 --spot -- --config=configs/x.py
[flags of launch/train.py]

Asks for a queued resource, copies a snapshot of code and config to the workers, trains, and begins again when the slice is taken away.
Needs gcloud, logged in. --print shows the commands. The slice stays when the run has ended: the last command printed deletes it.
"""

import functools
import importlib.metadata
import shlex
import shutil
import sys
from pathlib import Path

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run
from kaiyuan_jax.launchers import command, local, snapshot, tpu_vm, tpus

OWN, PASSED = command.split(sys.argv)
NAME = flags.DEFINE_string("name", "", "Name of the queued resource and its slice; empty: that of the experiment.")
ZONE = flags.DEFINE_string("zone", None, "Zone of the slice.", required=True)
PROJECT = flags.DEFINE_string("project", "", "Google Cloud project; empty: gcloud's own.")
TARGET = flags.DEFINE_string("target", None, "Generation and topology, such as v5p:4x4x4.", required=True)
SPOT = flags.DEFINE_bool("spot", False, "Cheaper, and taken away when others need it.")
RUNTIME = flags.DEFINE_string("runtime", "", "Image of the TPU VMs; empty: the generation's.")
CREATE = flags.DEFINE_multi_string(
    "create", [], "One more option of queued-resources create, such as --create=--network=x; may be repeated."
)
RESTARTS = flags.DEFINE_integer(
    "restarts", 10, "Starts without a newer checkpoint, here and on each worker, after which it gives up.", lower_bound=0
)
BACKOFF = flags.DEFINE_float("backoff", 10.0, "Seconds before the first of them; doubled each time, at most 300.", lower_bound=0.0)
PRINT = flags.DEFINE_bool("print", False, "Print the commands and exit.")


def main(argv):
    experiment = command.experiment(PASSED)
    tpus.check_shared(experiment)
    name = NAME.value or experiment.name.lower().replace("_", "-")
    resource = tpu_vm.Resource(name, tpus.parse(TARGET.value), ZONE.value, PROJECT.value, SPOT.value, RUNTIME.value, tuple(CREATE.value))
    resource.check()

    def work(folder: Path) -> tpu_vm.Work:
        passed, grace = tuple(command.others(PASSED)), experiment.checkpoint.grace + 5
        return tpu_vm.Work(folder, importlib.metadata.version("jax"), passed, RESTARTS.value, grace)

    if PRINT.value:
        print(tpu_vm.script(resource, work(Path("build/snapshots/SNAPSHOT"))))
        return
    if not shutil.which("gcloud"):
        raise UserError("gcloud: not found on this machine; install the Google Cloud CLI, or give --print")
    taken = snapshot.take(command.ROOT, experiment, PASSED)
    policy = local.Policy(restarts=RESTARTS.value, backoff=BACKOFF.value)
    do = work(taken.copy(command.ROOT / "build/snapshots"))
    code = tpu_vm.run(resource, do, policy, functools.partial(command.newest, experiment.folder))
    print(f"launcher: the slice is kept; to delete it: {shlex.join(resource.delete())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    sys.argv = OWN
    run(main)
