"""Every checkpoint of runs through the same tasks, into one table (evaluation/trajectory.py).

A point is one checkpoint, of a run or of a member of a population; a measure is what is asked of it. Their parts are made one after the
other, each written when it is done; what is missing is found from the keys alone, before any weights are read. Runs of one shape share
their compiled programs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kaiyuan_jax import config, storage
from kaiyuan_jax.data.store import Store, fingerprint
from kaiyuan_jax.evaluation import choice, heldout, tasks, trajectory
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths
from kaiyuan_jax.experiments.population import trained
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint


@dataclasses.dataclass(frozen=True)
class Point:
    """One checkpoint."""

    run: str
    experiment: config.Experiment
    stores: dict[str, Store]  # held-out, by source
    bytes_V: np.ndarray  # of text, each token's
    step: int
    weights: str  # a key of the weights
    parameters: Callable[[], dict]

    @property
    def tokens(self) -> int:
        """Read by the run until then."""
        return self.step * self.experiment.data.batch_size * self.experiment.data.sequence_length


@dataclasses.dataclass(frozen=True)
class Measure:
    """A task, in one file a checkpoint."""

    task: str
    made_from: Callable[[Point], list]  # JSON-able: what decides the scores beside the weights
    scores: Callable[[Point, Callable, dict], list[trajectory.Score]]  # of (point, heldout.token_losses, parameters)


def of_run(name: str, folder, steps: Sequence[int]) -> list[Point]:
    """The points of a run folder. Raises UserError where no source has a held-out store, one cannot be read, or bytes are unknown."""
    experiment = config.read(folder / "config.json")
    tokenizer = fingerprint((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known = dict(zip(("stores", "bytes_V"), _text(folder, experiment, tokenizer), strict=True))
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    points = []
    for step in steps:
        path = storage.path(f"{folder}/checkpoints/{step}")
        load = functools.partial(checkpoint.load_parameters, path, abstract)
        points.append(Point(name, experiment, step=step, weights=_weights(path), parameters=load, **known))
    return points


def of_population(name: str, folder) -> list[Point]:
    """The points of every member of a population, as runs NAME/MEMBER; a stacked checkpoint is read once for all. Raises as `of_run`."""
    found = trained.open_population(folder)
    tokenizer = fingerprint((found.folder / "tokenizer.json").read_text(encoding="utf-8"))
    texts = [_text(folder, member, tokenizer) for member in found.members]
    stacked, points = functools.lru_cache(maxsize=1)(lambda step: found.parameters({step: 1.0})), []
    for step in found.steps:
        weights = _weights(found.folder / "checkpoints" / str(step))
        for place, (member, (stores, bytes_V)) in enumerate(zip(found.members, texts, strict=True)):
            load = functools.partial(lambda step, place: found.solo(stacked(step), place), step, place)
            points.append(Point(f"{name}/{member.name}", member, stores, bytes_V, step, trajectory.key(weights, place), load))
    return points


def _text(folder, experiment: config.Experiment, tokenizer: str) -> tuple[dict[str, Store], np.ndarray]:
    """Held-out stores by source, and the bytes of their tokens."""
    stores = heldout.open_stores(experiment, tokenizer)
    if not stores:
        raise config.ConfigError(f"{folder}: no source of its config has a held-out store, which the losses are from")
    return stores, byte_lengths(next(iter(stores.values())).tokenizer(), experiment.model.vocabulary)


def _weights(path) -> str:
    facts = checkpoint.facts(path)
    return trajectory.key(facts.fingerprints or facts.progress)


def evaluate(points: Sequence[Point], measures: Sequence[Measure], output: str | Path) -> Path:
    """Makes the parts that are missing, then <output>/trajectory.parquet; returns its path. Raises UserError for two tasks of one name."""
    names = [measure.task for measure in measures]
    if twice := {name for name in names if names.count(name) > 1}:
        raise config.UserError(f"--tasks: {min(twice)} stands for two tasks, whose rows could not be told apart; leave one of them out")
    missing = []
    for point in points:
        keys = {measure: _key(point, measure) for measure in measures}
        there = {measure: trajectory.part(output, point.run, point.step, measure.task) for measure in measures}
        if todo := {measure: keys[measure] for measure in measures if not trajectory.is_made(there[measure], keys[measure])}:
            missing.append((point, todo))
    for point, todo in tqdm(missing, desc="checkpoints", unit="checkpoint", disable=None):
        graphdef, _ = decoder.abstract(point.experiment.model, point.experiment.precision)
        compute, params = heldout.token_losses(graphdef), point.parameters()
        for measure, key in todo.items():
            file = trajectory.part(output, point.run, point.step, measure.task)
            trajectory.write(file, measure.scores(point, compute, params), key)
    checkpoints = [(point.run, point.step, point.tokens) for point in points]
    return trajectory.collect(output, checkpoints, names)


def heldout_text() -> Measure:
    """Held-out losses, as each run's config asks for them."""

    def made_from(point: Point) -> list:
        settings = point.experiment.evaluation
        return [settings.rows, settings.quantiles, settings.bootstrap, point.experiment.data.mask_documents]

    def scores(point: Point, compute: Callable, params: dict) -> list[trajectory.Score]:
        settings, sums = point.experiment.evaluation, {}
        for name, store in point.stores.items():
            sums[name] = heldout.losses_by_document(compute, params, store, point.experiment, point.bytes_V)
        scored = [name for name, store in point.stores.items() if store.scored]
        return trajectory.heldout_scores(sums, scored, quantiles=settings.quantiles, resamples=settings.bootstrap)

    return Measure(trajectory.HELDOUT, made_from, scores)


def next_passage() -> Measure:
    """Next-passage choice, as each run's config asks for it."""

    def asked(point: Point) -> dict:
        settings = point.experiment.evaluation
        if not settings.questions:
            raise config.ConfigError(f"--tasks=choice: config.evaluation.questions of {point.run} is 0; leave choice out")
        names = ("choices", "context", "continuation")
        return {name: getattr(settings, name) for name in names} | dict(count=settings.questions, seed=heldout.SEED)

    def scores(point: Point, compute: Callable, params: dict) -> list[trajectory.Score]:
        settings, answers = point.experiment.evaluation, {}
        for name, store in point.stores.items():
            questions = choice.questions(store, key=name, **asked(point))
            answers[name] = choice.answer(compute, params, questions, point.bytes_V, batch_size=settings.batch_size, eod=store.eod)
        return trajectory.choice_scores(answers, resamples=settings.bootstrap)

    return Measure("choice", lambda point: [asked(point), point.experiment.evaluation.bootstrap], scores)


def suite(flag: str, folder: str, *, items: int = 0) -> list[Measure]:
    """The tasks of a suite, of each level the first `items` where it has more (0: all). Raises TaskError for a folder that holds none."""
    return [_of_task(task) for task in tasks.open_suite(flag, folder, items=items).tasks.values()]


def _of_task(task: tasks.Task) -> Measure:
    def scores(point: Point, compute: Callable, params: dict) -> list[trajectory.Score]:
        settings, store = point.experiment.evaluation, next(iter(point.stores.values()))
        options = dict(batch_size=settings.batch_size, length=point.experiment.data.sequence_length, eod=store.eod)
        found = tasks.score(compute, params, store.tokenizer(), point.bytes_V, task, **options)
        return trajectory.task_scores(task.name, tasks.summary(found, resamples=settings.bootstrap))

    return Measure(task.name, lambda point: [task.fingerprint, point.experiment.evaluation.bootstrap], scores)


def _key(point: Point, measure: Measure) -> str:
    """Of everything that decides a part: a change of any makes it anew."""
    experiment = point.experiment
    model = [dataclasses.asdict(experiment.model), dataclasses.asdict(experiment.precision), experiment.data.sequence_length]
    text = {name: dataclasses.asdict(store.manifest) for name, store in point.stores.items()}
    return trajectory.key(point.weights, model, text, measure.task, measure.made_from(point))
