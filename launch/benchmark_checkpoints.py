"""What saving costs a run: the stall of a checkpoint and of a local copy, and the start from either.

    python launch/benchmark_checkpoints.py --folder=/tmp/checkpoints --local=/dev/shm --output=docs/results/checkpoints.json

One training step on random tokens, again and again: alone, while a checkpoint is written in the background, and while a copy is. The stall
is what `save` takes to return (fingerprints, and the copy off the devices) and by how much the steps beside the write are slower; its
share is of the steps between two checkpoints. On a CPU the writer takes its turns on the processors that train, so that the slow-down is
at most the CPU seconds of the write over the processors; on an accelerator only the time until `save` returns is left.
"""

import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from absl import flags

from kaiyuan_jax import config, files
from kaiyuan_jax.flags import run

SIZES = {  # model, rows, tokens a row
    "1m": (config.Model(), 4, 128),
    "54m": (config.Model(layers=12, width=512, feedforward=1536, heads=8, kv_heads=4, head_size=64, vocabulary=16_384), 2, 256),
}

SIZE = flags.DEFINE_enum("size", "54m", list(SIZES), "Model.")
STEPS = flags.DEFINE_integer("steps", 3, "Steps timed alone, and beside each write.", lower_bound=1)
EVERY = flags.DEFINE_integer("every", config.Checkpoint().every, "Steps between checkpoints, of which the stall is a share.", lower_bound=1)
FOLDER = flags.DEFINE_string("folder", tempfile.gettempdir(), "Where checkpoints are written, in a folder that is deleted after.")
LOCAL = flags.DEFINE_string("local", "/dev/shm", "Where copies are written, likewise.")
OUTPUT = flags.DEFINE_string("output", "", "Where the figures go, such as checkpoints.json; empty: printed alone.")


def main(argv):
    del argv
    files.check_target("output", OUTPUT.value, ".json")
    for name in ("folder", "local"):
        if not Path(flags.FLAGS[name].value).is_dir():
            raise config.UserError(f"--{name}={flags.FLAGS[name].value}: must be a folder that exists")
    folder, local = (tempfile.mkdtemp(prefix="benchmark_checkpoints_", dir=place) for place in (FOLDER.value, LOCAL.value))
    try:
        result = measure(Path(folder), local)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(local)
    print(json.dumps(result, indent=1))
    if OUTPUT.value:
        files.replace(OUTPUT.value, json.dumps(result, indent=1) + "\n")
        print(f"written: {OUTPUT.value}")


def measure(folder: Path, local: str) -> dict:
    import jax
    import jax.numpy as jnp

    from kaiyuan_jax.experiments.accelerator.train_step import Program, experiment
    from kaiyuan_jax.models import flops
    from kaiyuan_jax.training import checkpoint, fingerprint, step
    from kaiyuan_jax.training.checkpoints import Checkpoints

    shape, rows, length = SIZES[SIZE.value]
    program = Program(experiment(shape, "float32", rows, length), jax.devices()[0])
    now, batch, rates, said = program.state(), program.batch(), jnp.full((4,), 1e-4, jnp.float32), step.said(program.mesh)

    def steps(now, count=STEPS.value):
        spent = []
        for _ in range(count):
            begin = time.perf_counter()
            now, _ = program.update(now, batch, rates, said)
            jax.block_until_ready(now)
            spent.append(time.perf_counter() - begin)
        return now, spent

    def beside(write, wait, now) -> tuple:
        """What a write takes until it returns, until it is on disk, and of the processors apart from the steps beside it."""
        begin, processors = time.perf_counter(), cpu_seconds()
        write(now)
        returned = time.perf_counter() - begin
        now, spent = steps(now)
        wait()
        used = cpu_seconds() - processors - STEPS.value * step_cpu
        facts = {
            "returns_after_s": returned,
            "written_after_s": time.perf_counter() - begin,
            "step_beside_s": statistics.median(spent),
            "cpu_s": max(used, 0.0),
        }
        facts["stall_share"] = (returned + max(0.0, sum(spent) - STEPS.value * alone)) / (EVERY.value * alone)
        facts["stall_share_at_most"] = (returned + facts["cpu_s"] / len(os.sched_getaffinity(0))) / (EVERY.value * alone)
        return now, facts

    now, _ = steps(now, 1)
    processors = cpu_seconds()
    now, spent = steps(now)
    alone, step_cpu = statistics.median(spent), (cpu_seconds() - processors) / STEPS.value
    items = checkpoint.items_of(now)
    [fingerprint.of(tree) for tree in items.values()]  # compiled once
    begin = time.perf_counter()
    [fingerprint.of(tree) for tree in items.values()]
    printed = time.perf_counter() - begin
    checkpoints = Checkpoints(folder / "checkpoints", config.Checkpoint(every=1, local=local, local_every=1))
    now, durable = beside(lambda now: checkpoints.save(1, now, {"step": 1}), checkpoints.wait, now)
    now, copied = beside(lambda now: checkpoints.save_local(2, now, {"step": 2}), checkpoints.wait_local, now)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(now))
    del now
    begin = time.perf_counter()
    checkpoints.newest(program.abstract)
    from_copy = time.perf_counter() - begin
    checkpoints.discard(2)
    begin = time.perf_counter()
    checkpoints.newest(program.abstract)
    from_checkpoint = time.perf_counter() - begin
    on_disk = sum(file.stat().st_size for file in (folder / "checkpoints" / "1").rglob("*") if file.is_file())
    checkpoints.close()
    return {
        "device": jax.devices()[0].device_kind,
        "processors": len(os.sched_getaffinity(0)),
        "parameters": flops.parameters(shape),
        "tokens_a_step": rows * length,
        "state_mb": size / 1e6,
        "checkpoint_mb": on_disk / 1e6,
        "every": EVERY.value,
        "step_s": alone,
        "step_cpu_s": step_cpu,
        "fingerprints_s": printed,
        "checkpoint": durable,
        "local_copy": copied,
        "restore_from_checkpoint_s": from_checkpoint,
        "restore_from_copy_s": from_copy,
    }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run(main)
