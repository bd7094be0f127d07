"""How long saving a checkpoint holds up training: steps with and without a save in the background.

`save` returns when the state is off the device; what it takes, and by how much the next steps are slower while the files are written, is
the stall. The largest model whose state leaves room on disk and in host memory is taken; one row a step keeps the device's own work short.
"""

import os
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from kaiyuan_jax import config
from kaiyuan_jax.experiments.accelerator import shapes
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.experiments.accelerator.train_step import LENGTH, POLICIES, Program, experiment
from kaiyuan_jax.models import flops
from kaiyuan_jax.training import step

STEPS = 6
WRITING = 1.2e9  # bytes/s that a disk is taken to write: a state that would take longer than the section is not tried


def measure(job: Job) -> None:
    folder = Path(job.rows).parent / "checkpoints"  # deleted with the section, however it ends
    folder.mkdir()
    job.attempt(lambda: _measure(job, chosen(job, folder), folder), needs=0)


def chosen(job: Job, folder: Path) -> str:
    """The largest size whose float32 weights and moments fit half of the disk and a third of host memory, and can be written in time."""
    if job.tiny:
        return "tiny"
    disk = shutil.disk_usage(folder).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    room = min(disk / 2, memory / 3, max(0.0, job.left() - 25) * WRITING)
    fitting = [size for size in ("2b", "0.5b", "0.1b") if 12 * flops.parameters(shapes.model(size)) < room]
    if not fitting:
        raise MemoryError(f"no size fits: {disk / 2**30:.0f} GiB of disk and {memory / 2**30:.0f} GiB of host memory are free")
    return fitting[0]


def _measure(job: Job, size: str, folder: Path) -> dict:
    from kaiyuan_jax.training.checkpoints import Checkpoints

    shape = shapes.model(size, **POLICIES["full"])
    program = Program(experiment(shape, "bfloat16", 1 if job.tiny else 4, 64 if job.tiny else LENGTH), jax.devices()[0])
    now, batch, rates = program.state(), program.batch(), jnp.full((4,), 1e-4, jnp.float32)
    said = step.said(program.mesh)
    size_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(now))

    def steps(now, count):
        begin = time.perf_counter()
        for _ in range(count):
            now, _ = program.update(now, batch, rates, said)
        jax.block_until_ready(now)
        return now, (time.perf_counter() - begin) / count

    now, _ = steps(now, 2)
    now, alone = steps(now, STEPS)
    checkpoints = Checkpoints(folder, config.Checkpoint(keep=1))
    begin = time.perf_counter()
    checkpoints.save(1, now, {"step": 1})
    blocked = time.perf_counter() - begin
    now, beside = steps(now, STEPS)
    result = {
        "model": size,
        "state_gb": size_bytes / 1e9,
        "step_ms": alone * 1e3,
        "save_returns_after_s": blocked,
        "copied_gb_per_second": size_bytes / blocked / 1e9,
        "step_while_writing_ms": beside * 1e3,
    }
    job.record(what="before the write was over", **result)
    checkpoints.wait()
    written = time.perf_counter() - begin
    checkpoints.close()
    return result | {"written_after_s": written, "stall_s": blocked + max(0.0, beside - alone) * STEPS}
