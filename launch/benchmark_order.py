"""Measures the plan and the order of a run that need not exist: `python launch/benchmark_order.py [--config=configs/x.py]`.

Time to resolve the recipe, memory that planning adds at its peak, and time to compute every row of a batch at random steps: CPU time of
the one thread that works, which neighbours on the machine disturb least, and wall time. Sizes come from `planned_tokens` (or stores,
where they are on this machine). Writes docs/results/order.md, command and machine included.
"""

import os
import pathlib
import platform
import resource
import sys
import time
import tracemalloc

import numpy as np
from absl import flags as absl_flags

from kaiyuan_jax import flags
from kaiyuan_jax.data import order, recipe

CONFIG = flags.define_config()
STEPS = absl_flags.DEFINE_integer("steps", 1000, "Random steps measured.", lower_bound=10)
OUTPUT = absl_flags.DEFINE_string("output", "docs/results/order.md", "File for the results; empty: only printed.")


def main(_):
    experiment = flags.checked(CONFIG)
    facts = recipe.facts_of(experiment.data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(20):
        begun = time.thread_time()
        plan = recipe.resolve(experiment.data, *facts)
        seconds.append(time.thread_time() - begun)
    draws = np.random.default_rng(0).integers(0, plan.steps, STEPS.value).tolist()
    order.batch(plan, draws[0])
    cpu, wall = measure(plan, draws)
    by_phase = {phase.name: measure(plan, steps_of(plan, phase, 200)) for phase in plan.phases}
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    tracemalloc.start()
    for step in draws[:100]:
        order.batch(recipe.resolve(experiment.data, *facts), step)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    used = {plan.sources[use.source] for phase in plan.phases for use in phase.uses}
    lines = [
        "# Plan and order of a run of trillions of tokens",
        "",
        f"{plan.tokens / 1e12:.3f}T tokens, {plan.steps:,} steps of {plan.batch_size} rows of {plan.sequence_length} tokens, "
        f"{len(plan.phases)} phases, {len(used)} sources, at most {max(len(phase.uses) for phase in plan.phases)} in a phase. "
        "The sizes are planned, not real stores.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        f"| resolve the recipe into a plan, CPU time, median of 20 | {np.median(seconds) * 1e3:.1f} ms | < 1 s |",
        f"| memory added at the peak (resident, this process) | {added:.1f} MiB | < 200 MB |",
        f"| memory allocated at the peak (tracemalloc) | {peak:.2f} MiB | |",
        f"| all {plan.batch_size} rows of a batch, CPU time, median / 99th of {len(draws)} random steps | {spread(cpu)} | < 5 ms |",
        f"| the same, wall time on a machine with a load of {os.getloadavg()[0]:.0f} | {spread(wall)} | < 5 ms |",
        *(
            f"| CPU time in {name} ({len(phase.uses)} uses, {phase.order}), 200 steps | {spread(found[0])} | |"
            for phase, (name, found) in zip(plan.phases, by_phase.items(), strict=True)
        ),
        "",
        f"Command: `python {' '.join(sys.argv)}`. Python {platform.python_version()}, numpy {np.__version__}, one thread, {machine()}.",
        "",
    ]
    print("\n".join(lines))
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(OUTPUT.value).write_text("\n".join(lines))


def measure(plan, steps) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU time and of wall time of each step's batch."""
    cpu, wall = [], []
    for step in steps:
        begun = time.thread_time(), time.perf_counter()
        order.batch(plan, step)
        cpu.append((time.thread_time() - begun[0]) * 1e3)
        wall.append((time.perf_counter() - begun[1]) * 1e3)
    return cpu, wall


def spread(milliseconds) -> str:
    return f"{np.median(milliseconds):.2f} / {np.percentile(milliseconds, 99):.2f} ms"


def steps_of(plan, phase, count) -> list[int]:
    """Random steps whose rows lie in one phase."""
    first = -(-max(0, phase.start - plan.skipped) // plan.batch_size)
    last = max(first + 1, (phase.start + phase.entries - plan.skipped) // plan.batch_size)
    return np.random.default_rng(1).integers(first, last, count).tolist()


def machine() -> str:
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.argv += [] if any(item.startswith("--config") for item in sys.argv) else ["--config=configs/kaiyuan_2b.py"]
    flags.run(main)
