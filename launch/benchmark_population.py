"""Speed of a population beside the same members one after the other, on this machine.

    python launch/benchmark_population.py [--members=8] [--devices=2] [--rounds=7]

On a CPU `--devices` cuts it into so many devices of one thread each. The members one after the other have one device; with --devices=1 that
is all of the machine's threads. On an accelerator also `launch/benchmark_accelerator.py --sections=population`.
"""

import json
import os

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.experiments.accelerator import table
from kaiyuan_jax.flags import run

# of 0.4, 1.3 and 5.0M parameters; the second is the quickstart's
MODELS = {
    "small": dict(layers=2, width=64, feedforward=192, heads=2, kv_heads=1, head_size=32, vocabulary=2048),
    "quickstart": dict(layers=4, width=128, feedforward=384, heads=4, kv_heads=2, head_size=32, vocabulary=2048),
    "5m": dict(layers=5, width=256, feedforward=768, heads=4, kv_heads=2, head_size=64, vocabulary=2048),
}
MODEL = flags.DEFINE_list("model", ["small", "quickstart"], f"Which of {', '.join(MODELS)}.")
MEMBERS = flags.DEFINE_integer("members", 8, "How many.", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 16, "Rows a step and member.", lower_bound=1)
LENGTH = flags.DEFINE_integer("length", 64, "Tokens a row.", lower_bound=1)
COMPUTE = flags.DEFINE_enum("compute", "float32", ["float32", "bfloat16", "float16"], "Of the matrix products.")
DEVICES = flags.DEFINE_integer("devices", 0, "CPU devices of one thread each; 0: the devices that there are.", lower_bound=0)
AT_ONCE = flags.DEFINE_integer("at_once", 0, "Members of a device vectorised; 0: one on a CPU, else all.", lower_bound=0)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed, alternating between the two.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", "", "JSON file for the rows; empty: none.")


def main(argv):
    del argv
    files.check_target("output", OUTPUT.value, ".json")
    if not MODEL.value:
        raise UserError(f"--model: found none, must be one or more of {', '.join(MODELS)}")
    if unknown := [name for name in MODEL.value if name not in MODELS]:
        raise UserError(f"--model: found {unknown[0]!r}, must be among {', '.join(MODELS)}")
    if DEVICES.value:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(DEVICES.value)
        if DEVICES.value > 1:
            os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}".strip()
    from kaiyuan_jax.experiments.population import speed  # jax reads the above when it is imported

    rows = []
    for name in MODEL.value:
        experiment = config.Experiment(
            model=config.Model(**MODELS[name]),
            data=config.Data(batch_size=ROWS.value, sequence_length=LENGTH.value),
            precision=config.Precision(compute=COMPUTE.value),
        )
        rows.append({"model": name} | speed.compare(experiment, MEMBERS.value, at_once=AT_ONCE.value, rounds=ROUNDS.value))
        print("\n".join(table.table(rows[-1:])), flush=True)
    if OUTPUT.value:
        files.replace(OUTPUT.value, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
