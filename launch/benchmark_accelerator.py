"""Everything that decides the speed of training, measured on one accelerator in under nine minutes.

    python3 launch/benchmark_accelerator.py --output=docs/results/accelerator_h200.json
    python3 launch/benchmark_accelerator.py --output=/tmp/a.json --sections=step,torch_step      # see kaiyuan_jax/experiments/accelerator
    JAX_PLATFORMS=cpu python3 launch/benchmark_accelerator.py --output=/tmp/a.json --tiny        # the same code on a CPU, no figures

Ceilings of the device, the 2.03B training step and the same step in PyTorch, every kernel beside its rivals, decoding, and what a
checkpoint costs; each in a process of its own, the most valuable first. The JSON is written after every section, a Markdown page beside
it at the end of each. On a TPU, or where PyTorch is missing, its sections say so and the rest runs. The package need not be installed.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))

from absl import flags  # noqa: E402

from kaiyuan_jax import files  # noqa: E402
from kaiyuan_jax.config import UserError  # noqa: E402
from kaiyuan_jax.experiments.accelerator import goals, runner, table  # noqa: E402
from kaiyuan_jax.experiments.accelerator.sections import SECTIONS  # noqa: E402
from kaiyuan_jax.flags import run  # noqa: E402

NAMES = [section.name for section in SECTIONS]
OUTPUT = flags.DEFINE_string("output", None, "JSON file of the results; a page of the same name ends in .md.", required=True)
CHOSEN = flags.DEFINE_list("sections", NAMES, f"What to measure, in the order of: {', '.join(NAMES)}.")
MINUTES = flags.DEFINE_float("minutes", 9.0, "Wall time for everything; what does not fit is recorded as not run.", lower_bound=0.1)
TINY = flags.DEFINE_bool("tiny", False, "Shapes that a CPU can run: tries the code, measures nothing.")
TORCH = flags.DEFINE_string("torch_python", sys.executable, "Python that has torch and transformers; empty: leave PyTorch out.")
CACHE = flags.DEFINE_string("cache", "build/accelerator_cache", "Folder of compiled programs, kept between sections and runs.")


def main(argv):
    del argv
    files.check_target("output", OUTPUT.value, ".json")
    unknown = [name for name in CHOSEN.value if name not in NAMES]
    if unknown:
        raise UserError(f"--sections: found {unknown[0]!r}, must be among {', '.join(NAMES)}")
    if TORCH.value and not os.access(TORCH.value, os.X_OK):
        raise UserError(f"--torch_python={TORCH.value}: no program; give a Python that has torch and transformers, or nothing")
    chosen = [section for section in SECTIONS if section.name in CHOSEN.value]
    options = dict(minutes=MINUTES.value, tiny=TINY.value, torch_python=TORCH.value, cache=CACHE.value)
    results = runner.run(chosen, OUTPUT.value, **options, report=lambda result: print(table.section(result), flush=True))
    reached = goals.rows(results)
    print("\n".join(table.table(reached)))
    files.replace(Path(OUTPUT.value).with_suffix(".md"), table.page(results, reached))


if __name__ == "__main__":
    run(main)
