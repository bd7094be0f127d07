"""Held-out losses of all members on the same rows: by source while they train, by document afterwards.

    rows int32[B, L+1] -> nats float32[B, P, L], every member reading every row in one program (program.token_losses)

Members may name different held-out stores; all are read on all of them, since what they are compared on must be the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store import Store, open_store
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths
from kaiyuan_jax.experiments.population import program
from kaiyuan_jax.experiments.population.trained import Population
from kaiyuan_jax.models import decoder


def evaluate(
    population: Population, params_M, *, rows: int | None = None, stores: Mapping[str, str] | None = None, devices=None, at_once: int = 0
) -> list[dict[str, heldout.DocumentSums]]:
    """What every member loses on every held-out document: one `source -> DocumentSums` a member, in the members' order.

    params_M: arrays [M, ...] such as `population.parameters` gives; NaN of a member that has diverged gives NaN. rows: sequences of each
    source (default: config.evaluation.rows). stores: source -> folder of a held-out store (default: all that any member names). devices
    and at_once: as `train` takes them. Raises ConfigError where there is no held-out text, and StoreError for a store that is bad or of
    another tokenizer.
    """
    first = population.members[0]
    opened = open_stores(population.members, population.fingerprint, stores)
    if not opened:
        raise ConfigError("config.data.sources: no member names a held-out store; set heldout, or give stores=")
    tokenizer, _ = tokenizers.load(Path(next(iter(opened.values())).folder, "tokenizer.json"))
    lengths_V = byte_lengths(tokenizer, first.model.vocabulary)
    found = [{} for _ in population.members]
    for source, sequences, rows_RL1, losses_RML in read(first, opened, params_M, rows, devices, at_once):
        for member, losses_RL in zip(found, losses_RML.swapaxes(0, 1), strict=True):
            member[source] = heldout.document_sums(opened[source], sequences, rows_RL1[:, 1:], losses_RL, lengths_V)
    return found


def open_stores(members: Sequence[Experiment], fingerprint: str, given: Mapping[str, str] | None = None) -> dict[str, Store]:
    """Source -> held-out store, of all members together or those given. Raises ConfigError where one name means two stores."""
    named: dict[str, str] = dict(given or {})
    for experiment in members if given is None else ():
        for source in experiment.data.sources:
            if source.heldout and named.setdefault(source.name, source.heldout) != source.heldout:
                raise ConfigError(
                    f"config.data.sources {source.name!r}.heldout: found {named[source.name]} and {source.heldout} (member "
                    f"{experiment.name}); a source has one held-out store in a population, name the other differently"
                )
    first, opened = members[0], {}
    for name, folder in named.items():
        opened[name] = open_store(folder, vocabulary=first.model.vocabulary, fingerprint=fingerprint)
        if not opened[name].sequences(first.data.sequence_length):
            raise ConfigError(
                f"config.data.sources {name!r}.heldout: {folder} holds {opened[name].tokens} tokens, fewer than one sequence of "
                f"{first.data.sequence_length} and its target; prepare the source with a larger --heldout, or leave heldout empty"
            )
    return opened


def read(first: Experiment, stores: Mapping[str, Store], params_M, rows: int | None = None, devices=None, at_once: int = 0):
    """Yields (source, sequences int64[R], rows int32[R, L+1], nats float64[R, M, L]) of every store."""
    count = len(jax.tree.leaves(params_M)[0])
    laid = program.layout(count, devices, at_once)
    params_P, length = laid.pad(params_M), first.data.sequence_length
    graphdef, _ = decoder.abstract(first.model, first.precision)
    compute = program.token_losses(graphdef, program.place(first, laid), laid)
    settings = dict(batch_size=first.evaluation.batch_size, mask_documents=first.data.mask_documents)
    for source, store in tqdm(stores.items(), desc="held-out", leave=False, disable=None):
        sequences = heldout.spread(store.sequences(length), first.evaluation.rows if rows is None else rows)
        rows_RL1 = store.read_rows(sequences, length)
        losses_RPL = heldout.row_losses(compute, params_P, rows_RL1, eod=store.eod, **settings)
        yield source, sequences, rows_RL1, losses_RPL[:, :count]


def means(first: Experiment, stores: Mapping[str, Store], params_M, devices=None, at_once: int = 0) -> list[dict[str, float]]:
    """One `source -> nats per token` a member: the held-out losses of a metrics line."""
    found = read(first, stores, params_M, devices=devices, at_once=at_once)
    by_source = {source: losses_RML.mean(axis=(0, 2)) for source, _, _, losses_RML in found}
    return [dict(zip(by_source, map(float, losses), strict=True)) for losses in zip(*by_source.values(), strict=True)]
