"""TPU slices as they are asked for: `--target=v5p:4x4x4`, as launch/plan.py has it, and what Google calls each generation.

A slice of 4x4x4 is 64 chips; a host of it drives 4 (v5e and v6e have hosts of 1, 4 or 8, for slices of one host). The TPU API counts
cores in the names of v4 and v5p, two to a chip, and chips in those of v5e and v6e.
"""

import dataclasses
import math
import re

from kaiyuan_jax import storage
from kaiyuan_jax.config import Experiment, UserError


@dataclasses.dataclass(frozen=True)
class Generation:
    api: str  # begin of --accelerator-type; empty: on GKE only
    counts: int  # what the name counts, per chip
    runtime: str  # image of the TPU VM
    gke: str  # value of the node label gke-tpu-accelerator
    axes: int  # of its topologies


GENERATIONS = {
    "v4": Generation("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", 3),
    "v5e": Generation("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 2),
    "v5p": Generation("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", 3),
    "v6e": Generation("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", 2),
    "tpu7x": Generation("", 1, "", "tpu7x", 3),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    generation: Generation
    topology: str  # 4x4x4

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.topology.split("x")))

    @property
    def accelerator_type(self) -> str:
        return f"{self.generation.api}-{self.chips * self.generation.counts}"


def parse(target: str) -> Slice:
    """Raises UserError where the generation is not known or the topology has another form."""
    name, _, topology = target.partition(":")
    if name not in GENERATIONS or not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (GENERATIONS[name].axes - 1), topology):
        allowed = ", ".join(f"{name}:{'x'.join(['4'] * generation.axes)}" for name, generation in GENERATIONS.items())
        raise UserError(f"--target={target}: must be a generation and a topology, such as {allowed}")
    return Slice(GENERATIONS[name], topology)


def check_shared(experiment: Experiment) -> None:
    """Raises UserError unless the run folder and the stores outlive the machines and can be seen by all of them."""
    problems = []
    if not storage.is_remote(experiment.folder) and not experiment.folder.startswith("/"):
        problems.append(f"config.output: found {experiment.folder!r}, must be gs://bucket/folder or an absolute path")
    for number, source in enumerate(experiment.data.sources):
        for field in ("path", "heldout"):
            if (place := getattr(source, field)) and not place.startswith("/"):
                problems.append(f"config.data.sources[{number}].{field}: found {place!r}, must be an absolute path")
    if problems:
        raise UserError(
            "\n".join(f"{line} on a file system that all machines mount; they and their disks come and go" for line in problems)
        )
