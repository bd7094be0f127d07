"""Trains an experiment, or resumes it: python launch/train.py --config=configs/x.py [--config.schedule.peak=3e-3] [--dry_run]

The same command on an existing run folder goes on from its newest complete checkpoint. SIGTERM or Ctrl-C saves and exits with code 0.
Many processes train one experiment together when each is started with the same --coordinator=host:port --processes=N and a --process of
its own, or all with --distributed where JAX finds these itself (TPU pods, Slurm, Kubernetes).

Exit codes, which launchers act on:
    0   finished; or saved, after SIGTERM, Ctrl-C or a notice that the machine will be taken away
    1   diverged: loss, gradient or weights are not finite, or as config.health says; the same command would do the same again
    2   a mistake in config, stores or run folder, said in plain lines
    75  anything else, which the same command may get over: a peer lost, a stall, a read or a save that failed; traceback on stderr
"""

import os
import sys

from absl import flags

from kaiyuan_jax import config, storage
from kaiyuan_jax.flags import checked, complain, define_config, run
from kaiyuan_jax.training import host_memory

TRY_AGAIN = os.EX_TEMPFAIL  # 75

CONFIG = define_config()
COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, where several processes train together.")
PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes train together; with --coordinator.")
PROCESS = flags.DEFINE_integer("process", -1, "Number of this one, from 0; with --coordinator.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several processes, found by JAX: TPU pods, Slurm, Kubernetes, Open MPI.")
JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "Seconds in which all processes must have come.", lower_bound=1)
HEARTBEAT_TIMEOUT = flags.DEFINE_integer("heartbeat_timeout", 100, "Seconds of silence after which a process is given up.", lower_bound=1)

DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved experiment and its plan, and exit.")


def main(argv):
    experiment = checked(CONFIG)
    try:
        storage.check("--config.output", experiment.folder)
    except ConnectionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(TRY_AGAIN)
    if DRY_RUN.value:
        from kaiyuan_jax import plan

        print(config.to_json(experiment))
        print(plan.describe(experiment))
        return
    host_memory.begin_again_with_huge_pages()
    try:
        _train(experiment)
    except config.UserError as error:
        complain(str(error))
        _leave(TRY_AGAIN if isinstance(error, ConnectionError) else 2)
    except Exception:
        sys.excepthook(*sys.exc_info())
        _leave(TRY_AGAIN)


def _train(experiment: config.Experiment) -> None:
    _join()
    from kaiyuan_jax import plan
    from kaiyuan_jax.data import recipe
    from kaiyuan_jax.sharding import processes
    from kaiyuan_jax.training import failure, loop

    page = plan.describe(experiment)
    warnings = plan.warnings(experiment, recipe.resolve(experiment.data, *recipe.facts_of(experiment.data)))
    for line in warnings if processes.index() == 0 else ():
        print(f"warning: {line}", file=sys.stderr)
    try:
        loop.train(experiment, page=page)
    except failure.DivergedError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


def _leave(code: int):
    from kaiyuan_jax.sharding import processes

    processes.leave(code)


def _join():
    together = COORDINATOR.value or PROCESSES.value or PROCESS.value >= 0
    if together and not COORDINATOR.value:
        raise config.UserError("--coordinator: missing; --processes and --process need host:port of process 0, such as 10.0.0.1:8476")
    if together and DISTRIBUTED.value:
        raise config.UserError("--distributed: JAX finds the processes itself; leave out --coordinator, --processes and --process")
    if together or DISTRIBUTED.value:
        from kaiyuan_jax.sharding import processes

        limits = dict(timeout=JOIN_TIMEOUT.value, heartbeat=HEARTBEAT_TIMEOUT.value)
        processes.join(COORDINATOR.value, PROCESSES.value, PROCESS.value, **limits)


if __name__ == "__main__":
    run(main)
