"""Trains and evaluates many small runs, a few at a time, each worker process on its own core.

A worker trains one run after another with `training.loop.train`, as `launch/train.py` would, so a finished run costs nothing to ask for
again and a killed one goes on from its newest checkpoint. A run whose schedule equals that of a trunk for its first k updates branches off
the trunk's newest checkpoint at or before update k (training/branch.py), which gives the same weights as training from scratch.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError

# Threads that share one core only wait for one another, and a worker has one core. The flags of the caller come last and win.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study."""

    name: str  # of the schedule
    seed: int
    experiment: config.Experiment
    trunk: str = ""  # folder of the run whose checkpoints it may begin with

    @property
    def folder(self) -> Path:
        return Path(self.experiment.folder)


def train(runs: Sequence[Run], processes: int) -> None:
    """Trains every run to its end, in the order given, except that a branch waits for its trunk.

    Raises UserError where one of them cannot be trained.
    """
    _each(_train, runs, processes, "train")


def evaluate(runs: Sequence[Run], rows: int, processes: int) -> None:
    """Reads every finished run on `rows` held-out sequences of each source; see `held_out`."""
    _each(functools.partial(_evaluate, rows=rows), runs, processes, "evaluate")


def held_out(run: Run, rows: int) -> dict[str, dict[str, np.ndarray]]:
    """What a run loses on each held-out document: source -> {document, nats, tokens, ...}, as `evaluate` wrote it."""
    with np.load(_evaluation(run, rows), allow_pickle=False) as arrays:
        found: dict[str, dict[str, np.ndarray]] = {}
        for key in arrays.files:
            source, field = key.split("/")
            found.setdefault(source, {})[field] = arrays[key]
    return found


def taken_over(run: Run) -> int:
    """How many updates a run has from its trunk, as its config.json says."""
    branch = config.read(run.folder / "config.json").branch
    return int(Path(branch).name) if branch else 0


def shared_updates(first: np.ndarray, second: np.ndarray) -> int:
    """How many updates two schedules float[T] have in common before the first that differs."""
    from kaiyuan_jax.schedules import build

    different = build.first_difference(first, second)
    return len(first) if different is None else different


def rates(experiment: config.Experiment) -> np.ndarray:
    """float64[T]: the learning rate of every update."""
    from kaiyuan_jax.data import recipe
    from kaiyuan_jax.schedules import build

    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    return build.rates(experiment.schedule, plan.steps, batch_size=plan.batch_size, sequence_length=plan.sequence_length)


# What a worker does


def _each(task: Callable[[Run], str], runs: Sequence[Run], processes: int, title: str) -> None:
    """Does a task for every run, as many at a time as there are processes; prints what it returns."""
    waiting, jobs = list(runs), {}
    with _workers(processes) as free, tqdm(total=len(runs), desc=title, unit="run", disable=None) as bar:
        while waiting or jobs:
            missing = {run.experiment.folder for run in (*waiting, *(run for run, _ in jobs.values()))}
            for run in [run for run in waiting if run.trunk not in missing][: len(free)]:
                waiting.remove(run)
                worker = free.pop()
                jobs[worker.submit(task, run)] = run, worker
            done, _ = concurrent.futures.wait(jobs, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
            bar.set_postfix_str(", ".join(f"{run.folder.name} {_step(run)}" for run, _ in jobs.values()))
            for job in done:
                run, worker = jobs.pop(job)
                free.append(worker)
                tqdm.write(f"{run.folder.name}: {job.result()}")
                bar.update()


@contextlib.contextmanager
def _workers(processes: int) -> Iterator[list[concurrent.futures.Executor]]:
    """Executors of one process each, on a core each where there are enough."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has jax may hang
    places = [[core] for core in cores[:processes]] if len(cores) >= processes else [None] * processes
    found = [concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(place,)) for place in places]
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield list(found)
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()  # a run that is under way saves where it stands
        raise
    finally:
        for worker in found:
            worker.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, before)


def _begin(cores: list[int] | None) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
        os.environ["XLA_FLAGS"] = f"{ONE_THREAD} {os.environ.get('XLA_FLAGS', '')}".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("build/jax_cache").absolute()))  # repeats share their programs
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _train(run: Run) -> str:
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "train.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        import jax

        from kaiyuan_jax.training import checkpoint, failure, loop

        try:
            before = (checkpoint.steps(run.folder / "checkpoints") or [0])[-1]
            begin = branching_point(run) if run.trunk else 0
            start = f"{run.trunk}/checkpoints/{begin}" if begin else ""
            result = loop.train(dataclasses.replace(run.experiment, branch=start), devices=jax.devices()[:1])
        except (UserError, failure.DivergedError) as error:
            raise UserError(str(error) if str(run.folder) in str(error) else f"{run.folder}: {error}") from None
    if not result.finished:
        raise UserError(f"{run.folder}: stopped at step {result.step} of {result.steps}; the same command goes on from there")
    if before == result.steps:
        return "was there"
    return f"{result.steps} updates" + (f", the first {begin} those of {Path(run.trunk).name}" if begin else "")


def branching_point(run: Run) -> int:
    """The newest checkpoint of a run's trunk that its own schedule would have led to; 0 for none."""
    from kaiyuan_jax.training import checkpoint

    trunk = Path(run.trunk)
    mine = rates(run.experiment)
    last = min(shared_updates(rates(config.read(trunk / "config.json")), mine), len(mine) - 1)  # something is left to do
    return max((step for step in checkpoint.steps(trunk / "checkpoints") if step <= last), default=0)


def _evaluation(run: Run, rows: int) -> Path:
    return run.folder / "evaluation" / f"heldout_{rows}_rows.npz"


def _evaluate(run: Run, rows: int) -> str:
    path = _evaluation(run, rows)
    if path.exists() and zipfile.is_zipfile(path):
        return "was there"
    from kaiyuan_jax.evaluation import heldout
    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import checkpoint

    experiment = dataclasses.replace(run.experiment, evaluation=dataclasses.replace(run.experiment.evaluation, rows=rows))
    stores = heldout.open_stores(experiment)
    graphdef, abstract = decoder.abstract(experiment.model, experiment.precision)
    params = checkpoint.load_parameters(run.folder / "checkpoints" / str(checkpoint.steps(run.folder / "checkpoints")[-1]), abstract)
    compute = heldout.token_losses(graphdef)
    bytes_V = np.zeros(experiment.model.vocabulary, np.int64)  # a study of losses counts in nats per token, like its curves
    arrays = {
        f"{source}/{field}": values
        for source, store in stores.items()
        for field, values in vars(heldout.losses_by_document(compute, params, store, experiment, bytes_V)).items()
    }
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)
    return f"{rows} sequences a source"


def _step(run: Run) -> str:
    """The step that a run's metrics have reached."""
    from kaiyuan_jax.experiments import curves

    lines = curves.lines(run.folder)
    return f"step {lines[-1]['step']}" if lines else "starting"
