"""Held-out loss by source and by quality, with intervals over documents.

From every held-out store `rows` sequences are read, spread evenly over its token mass, that is evenly over quality. A row of L+1
tokens gives L targets, so with every sequence of the store each token but the first is a target once. Losses are summed over the
document that the target belongs to:

    nats per token = sum of all losses / number of targets
    bits per byte  = sum of losses of text tokens / ln 2 / bytes of those tokens     (end-of-document tokens have no bytes and are left out)

Documents enter a quality bin by the quantile of their middle, in token mass of the held-out store: 0 the worst text, 1 the best.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from kaiyuan_jax import config
from kaiyuan_jax.data.loader import segments_and_positions
from kaiyuan_jax.data.store import Store, open_store
from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models import decoder as decoders
from kaiyuan_jax.models import loss as losses
from kaiyuan_jax.sharding import rules

SEED = 0  # of resampling and questions; not the experiment's, so that runs with other seeds meet the same documents and questions


@dataclasses.dataclass(frozen=True)
class DocumentSums:
    """What one model loses on one source, summed per document; all arrays have one entry a document that was met."""

    document: np.ndarray  # int64, index in the held-out store
    quantile: np.ndarray  # float64, token mass at the document's middle
    nats: np.ndarray  # float64, over all its targets
    tokens: np.ndarray  # int64, targets
    bits: np.ndarray  # float64, over its targets that are text
    bytes: np.ndarray  # int64, of those


def open_stores(experiment: config.Experiment, fingerprint: str | None = None) -> dict[str, Store]:
    """The held-out stores of all sources that name one; `fingerprint` is that of the tokenizer the model was trained with.

    Raises StoreError for a bad store, a larger vocabulary or another tokenizer, ConfigError for a store shorter than one sequence.
    """
    stores, length = {}, experiment.data.sequence_length
    for source in experiment.data.sources:
        if source.heldout:
            store = open_store(source.heldout, vocabulary=experiment.model.vocabulary, fingerprint=fingerprint)
            fingerprint = store.fingerprint
            if not store.sequences(length):
                raise config.ConfigError(
                    f"config.data.sources {source.name!r}.heldout: {source.heldout} holds {store.tokens} tokens, fewer than one sequence "
                    f"of {length} and its target; prepare the source with a larger --heldout, or leave heldout empty"
                )
            stores[source.name] = store
    return stores


def spread(sequences: int, rows: int) -> np.ndarray:
    """int64[min(rows, sequences)]: sequence numbers in equal steps of token mass, the same for every model."""
    rows = min(rows, sequences)
    return ((2 * np.arange(rows, dtype=np.int64) + 1) * sequences) // (2 * max(rows, 1))


def make_batch(tokens_BL1: np.ndarray, *, eod: int, mask_documents: bool) -> dict[str, np.ndarray]:
    """Rows int32[B, L+1] -> the model's batch (inputs, targets, segments, positions: int32[B, L]), laid out as in training."""
    inputs_BL, targets_BL = tokens_BL1[:, :-1].astype(np.int32), tokens_BL1[:, 1:].astype(np.int32)
    if mask_documents:
        segments_BL, positions_BL = segments_and_positions(inputs_BL, eod)
    else:
        segments_BL = np.ones_like(inputs_BL)
        positions_BL = np.broadcast_to(np.arange(inputs_BL.shape[1], dtype=np.int32), inputs_BL.shape)
    return dict(inputs_BL=inputs_BL, targets_BL=targets_BL, segments_BL=segments_BL, positions_BL=positions_BL)


def token_losses(graphdef, place: Placement = ANYWHERE) -> Callable:
    """A (params, batch) -> float32[B, L], nats; compiled once in a process for each model and batch shape.

    On a mesh of several processes each gives the whole batch, and gets all losses.
    """
    if place.mesh is None:
        return functools.partial(_token_losses, graphdef, place)

    def compute(params, batch):
        rows = len(batch["inputs_BL"])
        size = rows + -rows % place.ways("B")
        filled = {key: np.concatenate([x, np.repeat(x[-1:], size - rows, axis=0)]) for key, x in batch.items()}
        return _token_losses(graphdef, place, params, rules.global_batch(filled, place.mesh, np.arange(size), size))[:rows]

    return compute


@functools.partial(jax.jit, static_argnums=(0, 1))
def _token_losses(graphdef, place, params, batch):
    loss_BL = losses.token_losses(decoders.merge(graphdef, params), batch, place)[0]
    if place.mesh is None:
        return loss_BL
    return jax.lax.with_sharding_constraint(loss_BL, NamedSharding(place.mesh, PartitionSpec()))  # so that every process can read it


def row_losses(compute, params, rows_RL1: np.ndarray, *, batch_size: int, eod: int, mask_documents: bool) -> np.ndarray:
    """float64[R, L] nats of rows int32[R, L+1]; always the same batch shape, the last one filled up with rows that are thrown away."""
    results = []
    for start in range(0, len(rows_RL1), batch_size):
        block = rows_RL1[start : start + batch_size]
        filled = np.concatenate([block, np.repeat(block[-1:], batch_size - len(block), axis=0)])
        loss_BL = compute(params, make_batch(filled, eod=eod, mask_documents=mask_documents))
        results.append(np.asarray(loss_BL, np.float64)[: len(block)])
    return np.concatenate(results)


def document_sums(store: Store, sequences: np.ndarray, targets_RL, losses_RL, byte_lengths_V: np.ndarray) -> DocumentSums:
    """Sums token losses (nats) of rows int64[R] over the documents of their targets."""
    length = losses_RL.shape[1]
    places_RL = sequences[:, None] * length + 1 + np.arange(length)
    documents, index = np.unique(store.document_at(places_RL.ravel()), return_inverse=True)
    bytes_RL = byte_lengths_V[targets_RL]

    def total(values):
        return np.bincount(index, weights=np.asarray(values, np.float64).ravel(), minlength=len(documents))

    return DocumentSums(
        document=documents.astype(np.int64),
        quantile=store.quality_quantile(documents),
        nats=total(losses_RL),
        tokens=total(np.ones_like(losses_RL)).astype(np.int64),
        bits=total(np.where(bytes_RL > 0, losses_RL, 0.0)) / np.log(2),
        bytes=total(bytes_RL).astype(np.int64),
    )


def losses_by_document(compute, params, store: Store, experiment: config.Experiment, byte_lengths_V: np.ndarray) -> DocumentSums:
    """Reads `evaluation.rows` sequences of a held-out store and returns what the model loses on each document."""
    length = experiment.data.sequence_length
    sequences = spread(store.sequences(length), experiment.evaluation.rows)
    rows_RL1 = store.read_rows(sequences, length)
    settings = dict(batch_size=experiment.evaluation.batch_size, eod=store.eod, mask_documents=experiment.data.mask_documents)
    return document_sums(store, sequences, rows_RL1[:, 1:], row_losses(compute, params, rows_RL1, **settings), byte_lengths_V)


def summary(sums: DocumentSums, *, quantiles: int, scored: bool, resamples: int, source: str) -> dict:
    """The JSON entry of one source: loss and bits per byte with intervals, and bits per byte in `quantiles` equal bins of token mass."""
    draw = dict(resamples=resamples, seed=SEED)
    bins = []
    for number in range(quantiles if scored else 0):
        low, high = number / quantiles, (number + 1) / quantiles
        inside = (sums.quantile >= low) & (sums.quantile < high)
        if not inside.any():
            continue
        bits, size = sums.bits[inside], sums.bytes[inside]
        interval = bootstrap.ratio_interval(bits, size, key=f"{source}/{number}", **draw)
        entry = {"low": low, "high": high, "bits_per_byte": _number(bootstrap.ratio(bits, size)), "interval": interval}
        bins.append(entry | {"tokens": int(sums.tokens[inside].sum()), "documents": int(inside.sum())})
    return {
        "loss": _number(bootstrap.ratio(sums.nats, sums.tokens)),
        "loss_interval": bootstrap.ratio_interval(sums.nats, sums.tokens, key=source, **draw),
        "bits_per_byte": _number(bootstrap.ratio(sums.bits, sums.bytes)),
        "bits_per_byte_interval": bootstrap.ratio_interval(sums.bits, sums.bytes, key=source, **draw),
        "tokens": int(sums.tokens.sum()),
        "bytes": int(sums.bytes.sum()),
        "documents": len(sums.document),
        "quantiles": bins,
    }


def mean_summary(sums: dict[str, DocumentSums], *, resamples: int) -> dict:
    """The plain mean over sources (every source counts the same) of loss and bits per byte, with intervals."""
    loss, losses_R = bootstrap.mean_of_sources({name: (s.nats, s.tokens) for name, s in sums.items()}, resamples=resamples, seed=SEED)
    bits, bits_R = bootstrap.mean_of_sources({name: (s.bits, s.bytes) for name, s in sums.items()}, resamples=resamples, seed=SEED)
    return {
        "loss": _number(loss),
        "loss_interval": bootstrap.percentiles(losses_R),
        "bits_per_byte": _number(bits),
        "bits_per_byte_interval": bootstrap.percentiles(bits_R),
        "tokens": int(sum(s.tokens.sum() for s in sums.values())),
        "documents": sum(len(s.document) for s in sums.values()),
    }


def make_evaluator(experiment: config.Experiment, stores: dict[str, Store], place: Placement = ANYWHERE) -> Callable:
    """A light function for the training loop: params -> {source: nats per token}; compiled once, no intervals, rows read once.

    place: where the parameters lie. Processes that train together all call it, and all get the same numbers.
    """
    graphdef, _ = decoders.abstract(experiment.model, experiment.precision)
    compute, length, rows = token_losses(graphdef, place), experiment.data.sequence_length, {}
    for name, store in stores.items():
        sequences = spread(store.sequences(length), experiment.evaluation.rows)
        if len(sequences):
            rows[name] = store.read_rows(sequences, length)
    batch_size = -(-experiment.evaluation.batch_size // place.ways("B")) * place.ways("B")
    silent = None if jax.process_index() == 0 else True

    def evaluate(params) -> dict[str, float]:
        result = {}
        for name, rows_RL1 in tqdm(rows.items(), desc="held-out", leave=False, disable=silent):
            settings = dict(eod=stores[name].eod, mask_documents=experiment.data.mask_documents)
            result[name] = float(row_losses(compute, params, rows_RL1, batch_size=batch_size, **settings).mean())
        return result

    return evaluate


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
