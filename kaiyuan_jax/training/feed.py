"""Batches on their way to the devices: read ahead, timed, read again when the store fails, cut over the mesh.

A batch is known by its step, so a read that failed is simply made again: the source that reads ahead is opened anew at that step. What
still fails after the last wait is raised as it came.
"""

import sys
import time

import jax

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data import loader
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.training import step
from kaiyuan_jax.training.job import Job

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before each further attempt to read a batch


class Feed:
    """This process's rows of one batch after another, as arrays of all processes."""

    def __init__(self, job: Job, begin: int):
        self._job, self._step = job, begin
        self._rows = rules.process_rows(job.mesh, job.plan.batch_size)
        self._reader = self._open()

    def _open(self) -> loader.Batches:
        data = self._job.experiment.data
        settings = dict(rows=self._rows, start_step=self._step, mask_documents=data.mask_documents, prefetch=data.prefetch)
        return loader.batches(self._job.plan, self._job.stores, **settings)

    def next(self) -> tuple[dict[str, jax.Array], float]:
        """(the next batch on the devices, seconds that it was waited for)."""
        begin = time.perf_counter()
        batch = self._read()
        self._step += 1
        waited = time.perf_counter() - begin
        tokens = {key: batch[key] for key in step.BATCH_KEYS}
        return rules.global_batch(tokens, self._job.mesh, self._rows, self._job.plan.batch_size), waited

    def _read(self) -> dict:
        for wait in WAITS:
            try:
                return next(self._reader)
            except UserError:
                raise
            except Exception as error:  # whatever file systems, TensorStore and Grain raise
                why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                print(f"process {jax.process_index()}: batch {self._step} cannot be read ({why}); again in {wait:g} s", file=sys.stderr)
            time.sleep(wait)
            self.close()
            self._reader = self._open()
        return next(self._reader)

    def close(self) -> None:
        """Stops reading ahead."""
        self._reader.close()
