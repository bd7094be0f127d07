"""Compares runs on one page: python launch/report.py --runs=runs/a,runs/b --output=runs/report [--baseline=a] [--title=...]"""

from absl import flags

from kaiyuan_jax import config
from kaiyuan_jax.flags import run

RUNS = flags.DEFINE_list("runs", None, "Run folders; runs that differ only in their seeds count as repeats.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for report.html and the PNGs.", required=True)
TITLE = flags.DEFINE_string("title", "Runs", "Title of the page.")
BASELINE = flags.DEFINE_string("baseline", "", "Name of the run to compare with; the first of --runs by default.")
PRELIMINARY = flags.DEFINE_string("preliminary_text", "", "A notice above everything, such as what is still to come.")


def main(argv):
    from kaiyuan_jax.report import build

    if not RUNS.value:
        raise config.UserError("--runs: found none, needs at least one run folder")
    options = dict(title=TITLE.value, preliminary=PRELIMINARY.value, baseline=BASELINE.value)
    path, table = build.build(RUNS.value, OUTPUT.value, **options)
    print(table)
    print(f"written: {path}")


if __name__ == "__main__":
    run(main)
