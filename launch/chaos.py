"""Hurts training at random and exits 0 only if nothing was lost: python launch/chaos.py --faults=200 [--seed=1]

Small runs, of one process and of several, are killed, stopped, starved of disk and data, and their checkpoints damaged, at drawn moments;
each goes on by the same command until it is finished and is then compared with the same run undisturbed: weights, moments, metrics and the
sequences that every step read (experiments/chaos/campaign.py). What is done is kept in --output, and the same command goes on; a larger
--faults adds to it. Writes chaos.json and chaos.md there. A fault costs 5 to 15 seconds of two cores.
"""

import pathlib
import sys

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import one_thread, run

FAULTS = flags.DEFINE_integer("faults", 50, "Faults to bring about.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the kinds and moments that are drawn.")
OUTPUT = flags.DEFINE_string("output", "runs/chaos", "Folder for the runs, journals and results; one for each seed and choice of kinds.")
KINDS = flags.DEFINE_list("kinds", [], "Only these kinds, such as kill_step,truncated; empty: all. A wrong name lists them.")
ARRANGEMENTS = flags.DEFINE_list("arrangements", [], "Only these, such as one,two_processes; empty: all. A wrong name lists them.")


def main(argv):
    one_thread()
    from kaiyuan_jax.experiments.chaos import arrangement, campaign, disk, faults, table

    kinds = _among("kinds", KINDS.value, tuple(faults.KINDS))
    names = _among("arrangements", ARRANGEMENTS.value, tuple(arrangement.ARRANGEMENTS))
    output = pathlib.Path(OUTPUT.value).absolute()
    (output / "disk").mkdir(parents=True, exist_ok=True)
    place = campaign.Place(output, output / "disk", disk.mount(output / "disk"))
    results = campaign.campaign(place, FAULTS.value, SEED.value, kinds, names)
    print(table.write(results, output, place.mounted))
    sys.exit(0 if all(result["survived"] for result in results) else 1)


def _among(flag: str, given: list[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in given if name not in allowed]:
        raise UserError(f"--{flag}: found {unknown[0]!r}, must be among {', '.join(allowed)}")
    return tuple(given) or allowed


if __name__ == "__main__":
    run(main)
