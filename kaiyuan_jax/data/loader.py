"""From a plan and its stores to batches: a Grain MapDataset whose element k is this process's rows of batch k.

Batch k is computed from k: nothing is shuffled, buffered or remembered, so the state of a run's data is one integer, the next step,
and resuming is starting there. A process reads the rows of the *global* batch that its devices hold, so the global array is the same
bits for any number of processes. Rows are read store by store, neighbours together; threads read `prefetch` batches ahead.
"""

import dataclasses
from collections.abc import Sequence

import grain
import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.data import order
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.data.store import Store, StoreError, open_store, verify_store

_THREADS = 4  # that read ahead; more would only wait for one another, since a good part of the work holds the interpreter


def open_stores(data: config.Data) -> list[Store]:
    """Opens every source's store, in the order of `data.sources`.

    Raises `ConfigError` with every store that is missing, broken, or made with another tokenizer than the first.
    """
    stores, problems = [], []
    for source in data.sources:
        try:
            stores.append(open_store(source.path, fingerprint=stores[0].fingerprint if stores else None))
        except StoreError as error:
            problems.append(f"config.data.sources {source.name!r}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return stores


def verify(data: config.Data, stores: Sequence[Store]) -> None:
    """Reads every store of at most `data.verify_tokens` tokens whole; raises `ConfigError` with each whose content is not what it says."""
    problems = []
    for source, store in zip(data.sources, stores, strict=True):
        if store.tokens <= data.verify_tokens:
            try:
                verify_store(store)
            except StoreError as error:
                problems.append(f"config.data.sources {source.name!r}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def segments_and_positions(inputs_BL: np.ndarray, eod: int) -> tuple[np.ndarray, np.ndarray]:
    """(segments_BL, positions_BL), int32: documents of each row counted from 1, and each token's place in its document from 0.

    A document starts at the first token of a row and after every end-of-document token, which belongs to the document it ends.
    """
    rows, length = inputs_BL.shape
    starts_BL = np.ones((rows, length), bool)
    np.equal(inputs_BL[:, :-1], eod, out=starts_BL[:, 1:])
    starts = np.flatnonzero(starts_BL)  # of documents, in the flattened batch
    sizes = np.diff(starts, append=rows * length)
    first = np.searchsorted(starts, np.arange(rows) * length)  # of each row, as an index into `starts`
    number = np.arange(1, starts.size + 1) - first[starts // length]
    segments = np.repeat(number.astype(np.int32), sizes)
    positions = np.arange(rows * length, dtype=np.int32) - np.repeat(starts.astype(np.int32), sizes)
    return segments.reshape(rows, length), positions.reshape(rows, length)


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Random access by step: the rows of one process as a dict of arrays (Grain's data source protocol)."""

    plan: Plan
    stores: Sequence[Store]
    rows: np.ndarray  # int64[R], rows of the global batch, each in [0, B)
    mask_documents: bool

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        length = self.plan.sequence_length
        where = order.rows(self.plan, order.positions(self.plan, step)[self.rows])
        tokens_BL1 = self._read(where)
        inputs_BL = tokens_BL1[:, :-1]
        if self.mask_documents:
            segments_BL, positions_BL = segments_and_positions(inputs_BL, self.stores[0].eod)
        else:
            segments_BL = np.ones(inputs_BL.shape, np.int32)
            positions_BL = np.broadcast_to(np.arange(length, dtype=np.int32), inputs_BL.shape)
        return {
            "inputs_BL": inputs_BL,
            "targets_BL": tokens_BL1[:, 1:],
            "segments_BL": segments_BL,
            "positions_BL": positions_BL,
            "sources_B": where.source,
        }

    def _read(self, where: order.Rows) -> np.ndarray:
        length, present = self.plan.sequence_length, np.unique(where.source)
        if present.size == 1:
            return self.stores[present[0]].read_rows(where.sequence, length)
        tokens_BL1 = np.empty((len(where), length + 1), np.int32)
        for source in present:
            here = np.flatnonzero(where.source == source)
            tokens_BL1[here] = self.stores[source].read_rows(where.sequence[here], length)
        return tokens_BL1


def dataset(plan: Plan, stores: Sequence[Store], *, rows: np.ndarray | None = None, mask_documents: bool = False) -> grain.MapDataset:
    """Element k is batch k: inputs_BL, targets_BL, segments_BL, positions_BL (int32[R, L]) and sources_B (int32[R]).

    `rows` are this process's rows of the global batch (default: all). Without `mask_documents` segments are 1 and positions 0..L-1.
    Raises `ConfigError` if the stores are not those that the plan was made for.
    """
    rows = np.arange(plan.batch_size) if rows is None else np.asarray(rows, np.int64)
    if rows.size == 0 or rows.min() < 0 or rows.max() >= plan.batch_size:
        raise ConfigError(f"rows of this process: found {rows.tolist()}, must be some of 0 to {plan.batch_size - 1}")
    if len(stores) != len(plan.sources):
        raise ConfigError(f"stores: found {len(stores)}, the plan has {len(plan.sources)} sources: {', '.join(plan.sources)}")
    for use in (use for phase in plan.phases for use in phase.uses):
        found = stores[use.source].sequences(plan.sequence_length)
        if found != use.sequences:
            raise ConfigError(
                f"config.data.sources {plan.sources[use.source]!r}: its store has {found} sequences of {plan.sequence_length} tokens, the "
                f"plan was made for {use.sequences}; resolve the plan again from the store itself"
            )
    if len({store.eod for store in stores}) > 1:
        raise ConfigError(f"stores: end-of-document tokens differ ({[store.eod for store in stores]}); prepare them with one tokenizer")
    return grain.MapDataset.source(BatchSource(plan, tuple(stores), rows, mask_documents))


class Batches:
    """Iterates over batches from a step on; `state` is the next step."""

    def __init__(self, elements: grain.MapDataset, start_step: int, prefetch: int):
        threads = min(_THREADS, prefetch)
        self._iterator = iter(elements.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))
        self._iterator.set_state({"next_index": start_step})

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    @property
    def state(self) -> int:
        return self._iterator.get_state()["next_index"]

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self._iterator.close()


def batches(
    plan: Plan,
    stores: Sequence[Store],
    *,
    rows: np.ndarray | None = None,
    start_step: int = 0,
    mask_documents: bool = False,
    prefetch: int = 8,
) -> Batches:
    """Batches `start_step`, `start_step` + 1, ... of `dataset`, read ahead by threads (`prefetch` 0: none, in this thread)."""
    if not 0 <= start_step <= plan.steps:
        raise ConfigError(f"start_step: found {start_step}, must be 0 to {plan.steps}, the steps of this plan")
    return Batches(dataset(plan, stores, rows=rows, mask_documents=mask_documents), start_step, prefetch)
