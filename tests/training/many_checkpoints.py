"""What the processes of test_checkpoints_of_many.py do; run by tests/processes.py."""

import os
import pathlib
import resource
import shutil
import time

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kaiyuan_jax import config
from kaiyuan_jax.sharding import processes
from kaiyuan_jax.training.checkpoints import Checkpoints, SaveError
from tests.training.saved_states import abstract_of, some_state


def sharded(seed: int):
    """`some_state` cut over all devices of all processes."""
    mesh = jax.make_mesh((jax.device_count(),), ("a",), axis_types=(AxisType.Auto,))

    def place(leaf):
        sharding = NamedSharding(mesh, PartitionSpec("a") if leaf.shape == (64, 32) else PartitionSpec())
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: np.asarray(leaf)[index])

    return jax.tree.map(place, some_state(seed))


def exact(state, seed: int) -> bool:
    """Whether this process's shards are those of `sharded(seed)`."""
    return all(
        np.asarray(one.data).tobytes() == np.asarray(other.data).tobytes()
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(sharded(seed)), strict=True)
        for one, other in zip(ours.addressable_shards, theirs.addressable_shards, strict=True)
    )


def opened(folder: str, **fields) -> Checkpoints:
    return Checkpoints(folder, config.Checkpoint(**{"every": 10, "keep": 9} | fields))


def everything(folder: str, parts: list[str]) -> dict:
    """What the functions below found, each in a folder of its own."""
    save(f"{folder}/damaged", 10, 20)
    save(f"{folder}/copied", 10)
    return {
        "damage": damage(f"{folder}/damaged", parts),
        "copies": copies(f"{folder}/copied", f"{folder}/local"),
        "one_disk_full": one_disk_full(f"{folder}/full"),
        "two_disks_full": two_disks_full(f"{folder}/both_full"),
        "one_cannot_begin": one_cannot_begin(f"{folder}/not_begun"),
    }


def save(folder: str, *steps: int) -> None:
    checkpoints = opened(folder)
    for step in steps:
        checkpoints.save(step, sharded(step), {"step": step, "seconds": processes.index()})
    checkpoints.wait()
    checkpoints.close()


def damage(folder: str, parts: list[str]) -> list:
    """[step, exact] of what is restored after the files of `parts` are spoilt, one after the other, in the newest checkpoint of a copy."""
    return [_damaged(folder, part) for part in parts]


def _damaged(folder: str, part: str) -> list:
    copy = pathlib.Path(folder + part.replace("/", "_"))
    if processes.index() == 0:
        shutil.copytree(folder, copy)
        for file in (copy / "20").glob(part):
            file.unlink() if file.name == "metadata" else file.write_bytes(bytes(file.stat().st_size))
    processes.barrier()
    checkpoints = opened(str(copy))
    state, progress = checkpoints.newest(abstract_of(sharded(20)))
    checkpoints.close()
    return [progress["step"], exact(state, progress["step"])]


def copies(folder: str, local: str) -> list:
    """What is restored with copies of 12 and 14 on both processes; with that of 14 on one alone; and with one of 12 damaged."""
    fields = {"local": local, "local_every": 2}
    checkpoints = opened(folder, **fields)
    for step in (12, 14):
        checkpoints.save_local(step, sharded(step), {"step": step, "seconds": processes.index()})
    checkpoints._local.wait()
    found = []
    for spoil in (None, "14", "12/shards"):
        if spoil and processes.index() == 1:
            path = checkpoints._local.folder / spoil
            shutil.rmtree(path) if path.is_dir() else path.write_bytes(path.read_bytes()[:-1] + b"x")
        state, progress = checkpoints.newest(abstract_of(sharded(1)))
        found.append([progress["step"], progress["seconds"], exact(state, progress["step"])])
    checkpoints.close()
    return found


def one_disk_full(folder: str) -> list:
    """Process 1 cannot write files; both hear of it, wait and give up; then it can, and both go on."""
    checkpoints = opened(folder)
    checkpoints.patience = 2.0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if processes.index() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    checkpoints.save(30, sharded(30), {"step": 30})
    try:
        checkpoints.save(40, sharded(40), {"step": 40})
        said = ""
    except SaveError as error:
        said = str(error)
    if processes.index() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    processes.barrier()
    there = sorted(os.listdir(folder))
    checkpoints.save(50, sharded(50), {"step": 50})
    checkpoints.wait()
    state, progress = checkpoints.newest(abstract_of(sharded(1)))
    checkpoints.close()
    return [said, there, progress["step"], exact(state, 50)]


def two_disks_full(folder: str) -> list:
    """Neither process can write files, and process 1 knows it before process 0 has asked; both wait and give up; then both can."""
    checkpoints = opened(folder)
    checkpoints.patience = 3.0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    said = ""
    try:
        checkpoints.save(30, sharded(30), {"step": 30})
        until = time.monotonic() + 5
        while processes.index() == 1 and not checkpoints.failed and time.monotonic() < until:
            time.sleep(0.01)
        processes.barrier()
        checkpoints.save(40, sharded(40), {"step": 40})
    except SaveError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    processes.barrier()
    checkpoints.save(50, sharded(50), {"step": 50})
    checkpoints.wait()
    state, progress = checkpoints.newest(abstract_of(sharded(1)))
    checkpoints.close()
    return [said, progress["step"], exact(state, 50)]


def one_cannot_begin(folder: str) -> list:
    """Process 1 fails while it copies the state, once, as where host memory is short; both begin again."""
    checkpoints = opened(folder)
    handler = checkpoints._writer.handler
    copy, failures = handler.async_save, [MemoryError("no room for a copy")] * processes.index()

    async def once(*args, **options):
        writes = await copy(*args, **options)
        if failures:
            for write in jax.tree.leaves(writes):
                write.result()
            raise failures.pop()
        return writes

    handler.async_save = once
    begin = time.monotonic()
    checkpoints.save(30, sharded(30), {"step": 30})
    checkpoints.wait()
    state, progress = checkpoints.newest(abstract_of(sharded(1)))
    checkpoints.close()
    return [progress["step"], exact(state, 30), time.monotonic() - begin < 60]
