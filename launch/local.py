"""Trains on this machine, in several processes if asked, and begins again after failures: python launch/local.py --processes=2 --
--config=configs/x.py [flags of launch/train.py]

Exit code: 0 once the run has its last checkpoint, 1 diverged, 2 a mistake, 75 stopped before (the same command goes on). --print shows
what would be run.
"""

import shlex
import sys

from absl import flags

from kaiyuan_jax.flags import run
from kaiyuan_jax.launchers import command, local, snapshot

OWN, PASSED = command.split(sys.argv)
PROCESSES = flags.DEFINE_integer("processes", 1, "Processes that train together.", lower_bound=1)
DEVICES = flags.DEFINE_integer("devices", 0, "Virtual CPU devices of each process; 0: what JAX finds.", lower_bound=0)
RESTARTS = flags.DEFINE_integer("restarts", 10, "Starts in a row without a newer checkpoint, after which it gives up.", lower_bound=0)
BACKOFF = flags.DEFINE_float("backoff", 1.0, "Seconds before the first of them; doubled each time, at most 300.", lower_bound=0.0)
GRACE = flags.DEFINE_float("grace", 0.0, "Seconds to save and end after a signal; 0: config.checkpoint.grace and 5.", lower_bound=0.0)
LAG = flags.DEFINE_float("lag", 10.0, "Seconds the other processes get when one ended badly.", lower_bound=0.0)
STOPPED = flags.DEFINE_float("stopped", 60.0, "Seconds under SIGSTOP after which a process counts as lost.", lower_bound=0.0)
SNAPSHOT = flags.DEFINE_bool("snapshot", True, "Keep code and config with the run.")
PRINT = flags.DEFINE_bool("print", False, "Print the commands and exit.")


def main(argv):
    experiment = command.experiment(PASSED)
    line = [sys.executable, str(command.ROOT / command.TRAIN), *PASSED]
    if PRINT.value:
        before = ["env", f"XLA_FLAGS={local.environment(DEVICES.value)['XLA_FLAGS']}"] if DEVICES.value else []
        for index in range(PROCESSES.value):
            print(shlex.join([*before, *line, *local.place("127.0.0.1:PORT", PROCESSES.value, index)]))
        return
    progress = command.progress(experiment)
    if SNAPSHOT.value:
        snapshot.take(command.ROOT, experiment, PASSED)
    grace = GRACE.value or experiment.checkpoint.grace + 5
    policy = local.Policy(restarts=RESTARTS.value, backoff=BACKOFF.value, grace=grace, lag=LAG.value, stopped=STOPPED.value)
    sys.exit(local.run(line, PROCESSES.value, DEVICES.value, policy, progress.newest, progress.finished))


if __name__ == "__main__":
    sys.argv = OWN
    run(main)
