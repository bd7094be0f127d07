"""What every cell is measured on: held-out text of all sources and the tasks of a suite, as sums over documents or items."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store import Store
from kaiyuan_jax.evaluation import tasks
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths
from kaiyuan_jax.evaluation.tasks import likelihood, metrics
from kaiyuan_jax.experiments import population
from kaiyuan_jax.experiments.population import program
from kaiyuan_jax.models import decoder

Table = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> sums over and under the line, of every document or item
LOWER = ("bits_per_byte", "gold_bits_per_byte")  # metrics that are better when lower


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Held-out stores and tasks of a suite, by names that are those of files."""

    heldout: Mapping[str, Store]
    suite: Mapping[str, tasks.Task]
    rows: int  # read of every held-out store

    @property
    def names(self) -> list[str]:
        return [*self.heldout, *self.suite]

    def fingerprint(self, name: str) -> str:
        """Changes where the numbers of a task would."""
        if name in self.heldout:
            return f"{self.heldout[name].manifest.tokens_sha256}/{self.rows}"
        return self.suite[name].fingerprint

    def tokens(self, experiment: config.Experiment) -> dict[str, int]:
        """Task -> tokens that one model reads."""
        length = experiment.data.sequence_length
        sizes = {name: min(self.rows, store.sequences(length)) * length for name, store in self.heldout.items()}
        if self.suite:
            read = tokenizer_of(experiment)
            sizes |= {name: int(likelihood.encode(*read, task, length=length).targets.sum()) for name, task in self.suite.items()}
        return sizes


def tables(found: population.Population, step: int, wanted: Tasks, devices=None) -> Iterator[tuple[str, list[Table]]]:
    """(task, its sums for every member) at one checkpoint of a population."""
    first, params_M = found.members[0], found.parameters({step: 1.0})
    if wanted.heldout:
        stores = {name: store.folder for name, store in wanted.heldout.items()}
        of_members = population.evaluate(found, params_M, rows=wanted.rows, stores=stores, devices=devices)
        for name in stores:
            yield name, [{"bits_per_byte": (sums[name].bits, sums[name].bytes)} for sums in of_members]
    if not wanted.suite:
        return
    laid = program.layout(len(found.members), devices)
    graphdef, _ = decoder.abstract(first.model, first.precision)
    losses, params_P = program.token_losses(graphdef, program.place(first, laid), laid), laid.pad(params_M)

    def compute(params, batch):
        return np.asarray(losses(params, batch)).swapaxes(0, 1)[: laid.count]  # [M, B, L]

    settings = dict(batch_size=first.evaluation.batch_size, length=first.data.sequence_length)
    for name, task in tqdm(wanted.suite.items(), desc="tasks", unit="task", leave=False, disable=None):
        scores = tasks.score_members(compute, params_P, *tokenizer_of(first), task, **settings)
        yield name, [metrics.ratios(one) for one in scores]


def tokenizer_of(experiment: config.Experiment):
    """(tokenizer, bytes of each of its tokens int64[V]) of the text of an experiment."""
    tokenizer, _ = tokenizers.load(experiment.data.sources[0].path)
    return tokenizer, byte_lengths(tokenizer, experiment.model.vocabulary)


def only(measured: Tasks, names: Sequence[str]) -> Tasks:
    """Some of the tasks."""
    heldout = {name: store for name, store in measured.heldout.items() if name in names}
    return Tasks(heldout, {name: task for name, task in measured.suite.items() if name in names}, measured.rows)
