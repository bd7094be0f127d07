"""Where the work runs: worker processes of this machine (`native`), or a Ray cluster (`ray`). The same code on both, through Daft.

Two kinds of work. Row-wise work is a function of one task (a piece of input, a part, a shard) that writes its own files and returns a
few numbers: `map` hands tasks to workers. Set-wise work (duplicates, order) is a Daft query over narrow key columns: `frame`. Texts and
tokens never pass through a query, so what a query holds is about a hundred bytes a document.

A worker that dies takes its unfinished tasks with it; they are tried again, and what was finished stays.
"""

import dataclasses
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from kaiyuan_jax.config import UserError

ATTEMPTS = 3  # of a task whose worker died
SMALL = 8 << 20  # bytes
# Read when daft and ray are imported: no bars of theirs between ours, and nothing sent to anybody.
_QUIET = {"DAFT_PROGRESS_BAR": "0", "DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true", "DAFT_ANALYTICS_ENABLED": "0",
          "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # fmt: skip


class EngineError(UserError):
    """An engine that is not installed or cannot start, or workers that keep dying."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """`workers` tasks at once, and `memory` bytes for all of them and the driver together."""

    name: str = "native"
    workers: int = 1
    memory: int = 4 << 30

    def map(self, function: Callable, tasks: list, what: str, size: int = SMALL) -> Iterator[tuple[int, object]]:
        """Yields (number of the task, `function(task)`) as tasks finish, in any order.

        Work of less than `SMALL` bytes in all (`size`) is done here and now: worker processes would take longer to start.
        `function` is importable by name and its task and result can be pickled. An error in a task ends the whole map: a `UserError`
        or `OSError` as it is, any other with the worker's traceback. Raises `EngineError` if workers die `ATTEMPTS` times and no task
        is finished in between.
        """
        if self.name == "native" and (self.workers == 1 or len(tasks) <= 1 or size < SMALL):
            yield from ((number, function(task)) for number, task in enumerate(tasks))
            return
        waiting = dict(enumerate(tasks))
        deaths = 0  # since a task was last finished
        while waiting:
            try:
                for number, result in self._attempt(function, waiting):
                    del waiting[number]
                    deaths = 0
                    yield number, result
            except _Died as error:
                deaths += 1
                if deaths == ATTEMPTS:
                    raise EngineError(
                        f"{what}: a worker died {ATTEMPTS} times in a row ({error}); {len(waiting)} of {len(tasks)} tasks are left. Out of "
                        "memory? Lower --workers; the command then goes on from the finished tasks"
                    ) from None

    def _attempt(self, function: Callable, waiting: dict[int, object]) -> Iterator[tuple[int, object]]:
        import daft

        numbers, held = list(waiting), pickle.dumps(function)
        made = daft.cls(_Worker, max_concurrency=min(self.workers, len(waiting)), use_process=self.name == "native" or None)
        worker = made(held, os.getcwd())
        frame = daft.from_pydict({"number": numbers, "task": [pickle.dumps(waiting[number]) for number in numbers]}).into_batches(1)
        rows = frame.select(frame["number"], worker.run(frame["task"]).alias("result")).iter_rows()
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # whatever the engine says when a process is gone
                raise _Died(str(error).strip().splitlines()[0][:200] or type(error).__name__) from None
            if row is None:
                return
            error, result = pickle.loads(row["result"])
            if error is not None:
                rows.close()
                raise error
            yield row["number"], result

    def frame(self, files: list[Path]):
        """The Parquet files as one Daft frame; its rows have no order."""
        import daft

        return daft.read_parquet([str(file) for file in files])


class _Died(Exception):
    """A worker process is gone."""


class _Worker:
    """Runs tasks in a worker; errors travel as values, so that the driver can tell them from a dead worker."""

    def __init__(self, function: bytes, folder: str):
        os.chdir(folder)  # paths are relative to where the command was given
        self.function = pickle.loads(function)

    def run(self, task: bytes) -> bytes:
        try:
            return pickle.dumps((None, self.function(pickle.loads(task))))
        except (UserError, OSError) as error:
            return pickle.dumps((error, None))
        except Exception as error:
            return pickle.dumps((RuntimeError(f"{error}\n{traceback.format_exc()}"), None))


_STARTS = 3  # Ray gives a node of this machine a fixed half minute to start, which a busy machine may miss


def _init_ray(ray, address: str, workers: int) -> None:
    """Joins a cluster, or starts one on this machine, again where it was too slow to start."""
    local = {} if address else {"num_cpus": workers or None, "include_dashboard": False}
    for left in reversed(range(1 if address else _STARTS)):
        try:
            ray.init(address=address or None, logging_level="ERROR", log_to_driver=False, **local)
            return
        except Exception as error:
            ray.shutdown()
            if not left or "timed out during startup" not in str(error):
                raise


def start(name: str = "native", *, workers: int = 0, memory: int = 4 << 30, address: str = "") -> Engine:
    """Starts the engine of this process; 0 workers: one a core, or what the Ray cluster has.

    Raises `EngineError` if a package is missing, the cluster is not reached, or the other engine runs in this process already.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    if name not in ("native", "ray"):
        raise EngineError(f"--engine={name}: must be native or ray")
    if workers < 0:
        raise EngineError(f"--workers={workers}: must be 0 (one a core) or more")
    if address and name != "ray":
        raise EngineError(f"--ray_address={address} with --engine={name}: give --engine=ray")
    try:
        import daft

        if name == "ray":
            import ray
    except ImportError as error:
        extra = "engine,ray" if name == "ray" else "engine"
        raise EngineError(f"--engine={name}: needs the package {error.name}; install it with pip install 'kaiyuan_jax[{extra}]'") from None
    if name == "ray":
        try:
            host, _, port = address.rpartition("://")[2].rpartition(":")
            if host and port.isdigit():  # Ray itself would knock for half a minute
                socket.create_connection((host, int(port)), timeout=5).close()
            if not ray.is_initialized():
                _init_ray(ray, address, workers)
        except Exception as error:  # a dozen kinds, from refused connections to version mismatches
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineError(f"--ray_address={address}: no Ray cluster answered ({reason[0][:200]}); start one, or leave it empty to "
                              "start one on this machine") from None  # fmt: skip
        workers = workers or int(ray.cluster_resources().get("CPU", 1))
    try:
        daft.set_runner_ray(noop_if_initialized=True) if name == "ray" else daft.set_runner_native()
    except Exception:  # set before, to this or to the other
        if daft.get_or_infer_runner_type() != name:
            raise EngineError(f"--engine={name}: this process runs the other engine already; start a new one") from None
    return Engine(name, workers or os.cpu_count() or 1, memory)
