"""Many processes that train together, each with its own devices, and the few words they exchange on the host.

Every process runs the same program over one global mesh. `join` makes them one (jax.distributed): process 0 holds the coordinator, the
others connect to it and send it heartbeats; a process whose heartbeat stays away for `heartbeat` seconds is given up, and the others end.
Device collectives use the interconnect of TPUs and NCCL on GPUs; between CPUs they use gloo over TCP.

What is exchanged here goes byte by byte through one small device program, so that a float64 or int64 arrives as it left. All processes
must make these calls in the same order.
"""

import itertools
import json
import os
import re
import sys
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kaiyuan_jax.config import UserError

JOIN, HEARTBEAT = 300, 100  # seconds
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def join(coordinator: str = "", processes: int = 0, process: int = -1, *, timeout: int = JOIN, heartbeat: int = HEARTBEAT) -> None:
    """Makes this process number `process` of `processes`; call once, before anything asks JAX for its devices.

    coordinator: host:port that process 0 listens on and all can reach; empty: JAX finds all three in its environment (TPU pods, Slurm,
    Kubernetes job sets, Open MPI). timeout: seconds in which all must come. Raises UserError where the three do not fit together or
    nothing is found; where the others do not come in time JAX ends the process (SIGABRT) and says so.
    """
    options = dict(initialization_timeout=timeout, heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=heartbeat)
    if not coordinator:
        try:
            jax.distributed.initialize(**options)
        except ValueError as error:
            raise UserError(f"--distributed: JAX finds no cluster here ({error}); give --coordinator, --processes and --process") from None
        barrier()
        return
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:]+):\d{1,5}", coordinator):
        raise UserError(f"--coordinator: found {coordinator!r}, must be host:port of process 0, such as 10.0.0.1:8476")
    if processes < 1:
        raise UserError(f"--processes: found {processes}, must be the number of processes that train together, 1 or more")
    if not 0 <= process < processes:
        raise UserError(f"--process: found {process}, must be this process's number, from 0 to {processes - 1}")
    if coordinator.rpartition(":")[0] in _LOOPBACK:  # nobody outside this machine is expected, so nobody is let in
        options["coordinator_bind_address"] = coordinator
    jax.distributed.initialize(coordinator, processes, process, cluster_detection_method="deactivate", **options)
    barrier()  # opens the connection of all processes, see `connect`


def connect(mesh: Mesh) -> None:
    """Opens the connections between processes that programs on this mesh will use; all processes call it before their first one.

    A connection is opened when it is first used, and gloo waits 30 s for the other side to come: not while one process still compiles a
    program that the other has from its cache. Once open it waits for as long as the other is alive.
    """
    if count() == 1:
        return
    barrier()
    axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    groups = [group for size in range(1, len(axes) + 1) for group in itertools.combinations(axes, size)]
    spec = PartitionSpec(mesh.axis_names)
    once = jax.shard_map(lambda x: sum(jax.lax.psum(x, group) for group in groups), mesh=mesh, in_specs=spec, out_specs=spec)
    ones = jax.make_array_from_callback((mesh.size,), NamedSharding(mesh, spec), lambda index: np.ones(1, np.float32))
    jax.block_until_ready(jax.jit(once)(ones))


def count() -> int:
    return jax.process_count()


def index() -> int:
    """This process's number, from 0."""
    return jax.process_index()


def gather(numbers) -> np.ndarray:
    """[P, ...]: the array (of one shape and dtype everywhere) that each of the P processes gives, in their order."""
    numbers = np.asarray(numbers)
    if count() == 1:
        return numbers[None]
    flat = np.frombuffer(np.ascontiguousarray(numbers).tobytes(), np.uint8)
    return np.ascontiguousarray(multihost_utils.process_allgather(flat)).view(numbers.dtype).reshape(count(), *numbers.shape)


def gather_values(value) -> list:
    """What each process gives, in their order; JSON-able values of any size."""
    if count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = gather(np.int64(text.size))
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)  # few shapes, each compiled once
    padded[: text.size] = text
    return [json.loads(row[:size].tobytes()) for row, size in zip(gather(padded), sizes, strict=True)]


def agree(value):
    """The value of process 0, on every process; JSON-able."""
    return gather_values(value)[0]


def barrier() -> None:
    """Returns when every process has come here."""
    gather(np.uint8(0))


def leave(code: int) -> NoReturn:
    """Ends this process at once with an exit code.

    The usual way out would first wait for the other processes, who wait for this one, and then abort with a code of its own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
