"""Bytes that XLA and our kernels move for the norms of a layer, compiled for accelerators that are not here.

    python launch/benchmark_norms.py --target=v5e:1x1,hopper:1

The table is that of docs/results/norms.md. Times need the device: `launch/benchmark_accelerator.py --sections=norms`.
"""

from absl import flags as absl_flags

from kaiyuan_jax import flags
from kaiyuan_jax.experiments.accelerator import table
from kaiyuan_jax.sharding import topology

TARGET = absl_flags.DEFINE_list("target", ["v5e:1x1", "hopper:1"], "What to compile for; compilers come from `make targets`.")


def main(argv):
    del argv
    targets = [topology.target(name) for name in TARGET.value]
    for target in targets:
        topology.environment(target)  # refuses a compiler that is not here before anything is compiled
    rows = [row for target in targets for row in topology.call(target, "kaiyuan_jax.experiments.accelerator.norms:compiled")]
    print("\n".join(table.table(rows)))


if __name__ == "__main__":
    flags.run(main)
