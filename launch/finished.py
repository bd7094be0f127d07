"""Says how far a run is: python launch/finished.py --config=configs/x.py, with the flags of launch/train.py that describe the experiment

Prints the newest checkpoint's step and the last step, "400 1000". Exit code 0 when the run has its last checkpoint, 75 when it goes on with
the same command; for batch scripts and pods, which see code 0 of launch/train.py also where it saved because it was stopped.
"""

import sys

from kaiyuan_jax.flags import checked, define_config, run

CONFIG = define_config()


def main(argv):
    from kaiyuan_jax.launchers import command, local

    progress = command.progress(checked(CONFIG))
    print(progress.newest(), progress.steps)
    sys.exit(0 if progress.finished() else local.AGAIN)


if __name__ == "__main__":
    run(main)
