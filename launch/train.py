"""Trains an experiment, or resumes it: python launch/train.py --config=configs/x.py [--config.schedule.peak=3e-3] [--dry_run]

The same command on an existing run folder goes on from its newest complete checkpoint. SIGTERM or Ctrl-C saves and exits with code 0.
Exit codes: 0 finished or saved, 1 loss or gradient not finite, 2 a mistake in config, stores or run folder.
"""

import sys

from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.flags import checked, define_config, run
from kaiyuan_jax.training import host_memory

CONFIG = define_config()
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved experiment and its plan, and exit.")


def main(argv):
    experiment = checked(CONFIG)
    if not DRY_RUN.value:
        host_memory.begin_again_with_huge_pages()
    from kaiyuan_jax import plan
    from kaiyuan_jax.data import recipe

    page = plan.describe(experiment)
    if DRY_RUN.value:
        print(config.to_json(experiment))
        print(page)
        return

    from kaiyuan_jax.training import failure, loop

    for line in plan.warnings(experiment, recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))):
        print(f"warning: {line}", file=sys.stderr)
    try:
        loop.train(experiment, page=page)
    except failure.NonFiniteError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
