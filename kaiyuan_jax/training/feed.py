"""Batches on their way to the devices: read ahead by threads, timed, cut over the mesh."""

import time

import jax

from kaiyuan_jax.data import loader
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.training import step
from kaiyuan_jax.training.job import Job


class Feed:
    """This process's rows of one batch after another, as arrays of all processes."""

    def __init__(self, job: Job, begin: int):
        self._job, data = job, job.experiment.data
        self._rows = rules.process_rows(job.mesh, job.plan.batch_size)
        settings = dict(rows=self._rows, start_step=begin, mask_documents=data.mask_documents, prefetch=data.prefetch)
        self._reader = loader.batches(job.plan, job.stores, **settings)

    def next(self) -> tuple[dict[str, jax.Array], float]:
        """(the next batch on the devices, seconds that it was waited for)."""
        begin = time.perf_counter()
        batch = next(self._reader)
        waited = time.perf_counter() - begin
        tokens = {key: batch[key] for key in step.BATCH_KEYS}
        return rules.global_batch(tokens, self._job.mesh, self._rows, self._job.plan.batch_size), waited

    def close(self) -> None:
        """Stops reading ahead."""
        self._reader.close()
