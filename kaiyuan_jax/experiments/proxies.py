"""Trains a population of proxies and keeps what each loses on every held-out document, for studies that compare the members.

    FOLDER/checkpoints/, members/, ...     the population
    FOLDER/heldout_ROWS_TEXT.npz           <member>/<source>/<field of DocumentSums>; TEXT names what the held-out stores hold

Both are made once: the same call goes on where it was stopped, and reads the file when it is there.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.evaluation import bootstrap
from kaiyuan_jax.evaluation.heldout import DocumentSums
from kaiyuan_jax.experiments import analysis, population

Losses = dict[str, dict[str, DocumentSums]]  # member -> source -> sums


def losses(members: Sequence[config.Experiment], folder: str | Path, *, rows: int, stores: Mapping[str, str]) -> Losses:
    """What each member loses on the held-out `stores` (source -> folder), `rows` sequences of each, after training.

    Raises UserError where a member has diverged.
    """
    text = json.dumps({source: open_store(place).manifest.tokens_sha256 for source, place in sorted(stores.items())})
    path = Path(folder) / f"heldout_{rows}_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}.npz"
    trained = population.train(members, folder)
    if trained.diverged:
        raise config.UserError(f"{folder}: diverged: {', '.join(trained.diverged)}; lower config.schedule.peak, in a new folder")
    if not (path.is_file() and zipfile.is_zipfile(path)):
        found = population.evaluate(trained, trained.parameters({trained.steps[-1]: 1.0}), rows=rows, stores=dict(stores))
        save(path, dict(zip(trained.names, found, strict=True)))
    return load(path)


def save(path: Path, found: Losses) -> None:
    """Writes the arrays under a temporary name first."""
    arrays = {
        f"{member}/{source}/{field}": values
        for member, by_source in found.items()
        for source, sums in by_source.items()
        for field, values in vars(sums).items()
    }
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def load(path: Path) -> Losses:
    """What `save` wrote."""
    fields: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            member, source, field = key.split("/")
            fields.setdefault(member, {}).setdefault(source, {})[field] = arrays[key]
    return {member: {source: DocumentSums(**own) for source, own in by_source.items()} for member, by_source in fields.items()}


def loss(sums: DocumentSums, kept: np.ndarray | None = None) -> float:
    """Nats per token of the documents `kept` (bool[D]; None: all)."""
    chosen = slice(None) if kept is None else kept
    return bootstrap.ratio(sums.nats[chosen], sums.tokens[chosen])


def mean_loss(by_source: Mapping[str, DocumentSums]) -> float:
    """Nats per token, every source with the same weight."""
    return float(np.mean([loss(sums) for sums in by_source.values()]))


def compare(first: Sequence[DocumentSums], second: Sequence[DocumentSums]) -> dict:
    """Nats per token of `first` less `second` on one source; lists over the same seeds, whose differences are paired.

    mean, interval and seeds as `analysis.spread` gives them; documents: the paired 95% bootstrap interval over documents.
    """
    spread = analysis.spread([loss(one) - loss(other) for one, other in zip(first, second, strict=True)])
    gap_D = np.mean([one.nats for one in first], axis=0) - np.mean([other.nats for other in second], axis=0)
    samples = bootstrap.resampled_ratios(gap_D, first[0].tokens, resamples=analysis.RESAMPLES, seed=0)
    return spread | {"documents": bootstrap.percentiles(samples)}


def with_seed(base: config.Experiment, name: str, seed: int, data: config.Data, **settings) -> config.Experiment:
    """The base experiment under another name, with this seed for the weights and the order of `data`."""
    return dataclasses.replace(base, name=name, output="", seed=seed, data=dataclasses.replace(data, seed=seed), **settings)
