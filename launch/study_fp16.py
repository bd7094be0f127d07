"""Does the recipe keep a model inside float16? python launch/study_fp16.py --output=runs/fp16 [--store=stores/quickstart] [--rates=0.1]

Trains a deep narrow decoder at a high rate in float16, with QK-norm, sandwich norm and soft-cap, without each of them and without all
(experiments/fp16.py), then writes results.json and the figures and the table of report/fp16_study.py. What is finished is not done
again, so the same command resumes, and more --seeds and --rates add runs. --quick shows that everything runs, and means nothing.
"""

import math
import os
import pathlib

from absl import flags

from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import one_thread, run

OUTPUT = flags.DEFINE_string("output", "runs/fp16", "Folder for the runs, results.json, the figures and the table.")
STORE = flags.DEFINE_string("store", "stores/quickstart", "Folder that launch/prepare_quickstart.py wrote, or one training store.")
SEEDS = flags.DEFINE_integer("seeds", 2, "Repeats of every run, each with other weights and another data order.", lower_bound=1)
RATES = flags.DEFINE_list("rates", ["0.1"], "Learning rates, each a set of runs, such as 0.1,0.03.")
VARIANTS = flags.DEFINE_list("variants", [], "Only these, such as recipe,none; empty: all of them.")
QUICK = flags.DEFINE_bool("quick", False, "A tiny model and few steps: shows that everything runs, and means nothing.")

# Left to itself XLA may keep a float16 value that it computed in float32, if that saves a conversion: then nothing overflows on a CPU that
# would elsewhere. One thread each, since the matrices are small.
XLA_FLAGS = "--xla_allow_excess_precision=false --xla_cpu_multi_thread_eigen=false"


def main(argv):
    from kaiyuan_jax.experiments import fp16

    study = fp16.Study(fp16.QUICK if QUICK.value else fp16.Size(), SEEDS.value, STORE.value, OUTPUT.value, _rates())
    fp16.sources(study.store)  # what is missing is said before any work
    if unknown := [name for name in VARIANTS.value if name not in fp16.VARIANTS]:
        raise UserError(f"--variants: found {unknown[0]!r}, must be among {', '.join(fp16.VARIANTS)}")
    runs = [one for one in study.runs() if not VARIANTS.value or one.variant in VARIANTS.value]
    one_thread()
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path("build/jax_cache").absolute()))  # seeds share their programs
    from tqdm import tqdm

    for one in tqdm(runs, desc="train", unit="run", disable=None):
        tqdm.write(f"{one.folder.name}: {fp16.train(one)}")
    results = fp16.collect(study)
    from kaiyuan_jax.report import fp16_study

    print(fp16_study.build(results))


def _rates() -> tuple[float, ...]:
    try:
        rates = tuple(dict.fromkeys(float(rate) for rate in RATES.value))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"--rates: found {','.join(RATES.value)!r}, must be numbers above 0 with commas between, such as 0.1,0.03")
    return rates


if __name__ == "__main__":
    run(main)
