"""Everything that is measured of one set of parameters, as one JSON file and, beside it, what each document and question contributed.

evaluation/<model>.json   held-out loss, bits per byte, next-passage choice, samples: what people read
evaluation/<model>.npz    arrays heldout/<source>/<field> and choice/<source>/<field>: what paired comparisons of two models need
"""

import dataclasses
import io
import json
import pathlib
import time

import numpy as np
from tqdm import tqdm

from kaiyuan_jax import config, storage
from kaiyuan_jax.data.store import Store
from kaiyuan_jax.evaluation import choice, generate, heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths


@dataclasses.dataclass(frozen=True)
class Evaluation:
    result: dict  # JSON-able
    arrays: dict[str, np.ndarray]


def evaluate(
    graphdef, params, experiment: config.Experiment, *, name: str, step: int, stores: dict[str, Store] | None = None
) -> Evaluation:
    """Measures one model on the held-out stores of its experiment (or on `stores`, by source name).

    graphdef, params: as `models.decoder.split` gives them. Raises ConfigError where no source has a held-out store, StoreError for
    a bad one, ValueError for a tokenizer whose bytes are unknown; all before any work.
    """
    settings, started = experiment.evaluation, time.monotonic()
    stores = heldout.open_stores(experiment) if stores is None else stores
    if not stores:
        raise config.ConfigError("data.sources: no source has a held-out store; name one in data.sources[i].heldout")
    tokenizer = next(iter(stores.values())).tokenizer()
    bytes_V = byte_lengths(tokenizer, experiment.model.vocabulary)
    compute = heldout.token_losses(graphdef)
    draw = dict(resamples=settings.bootstrap)

    sums, answers = {}, {}
    for source, store in tqdm(stores.items(), desc=f"evaluating {name}", unit="source", disable=None):
        sums[source] = heldout.losses_by_document(compute, params, store, experiment, bytes_V)
        if settings.questions:
            asked = choice.questions(
                store,
                count=settings.questions,
                choices=settings.choices,
                context=settings.context,
                continuation=settings.continuation,
                seed=heldout.SEED,
                key=source,
            )
            answers[source] = choice.answer(compute, params, asked, bytes_V, batch_size=settings.batch_size, eod=store.eod)
    samples = _samples(graphdef, params, experiment, stores, tokenizer)

    result = {
        "model": name,
        "step": step,
        "experiment": experiment.name,
        "heldout": {
            source: heldout.summary(table, quantiles=settings.quantiles, scored=stores[source].scored, source=source, **draw)
            for source, table in sums.items()
        },
        "mean": heldout.mean_summary(sums, **draw),
        "choice": {
            source: choice.summary(table, asked_for=settings.questions, choices=settings.choices, source=source, **draw)
            for source, table in answers.items()
        },
        "samples": samples,
        "settings": dataclasses.asdict(settings) | {"sequence_length": experiment.data.sequence_length, "seed": heldout.SEED},
        "seconds": round(time.monotonic() - started, 2),
    }
    if answers:
        result["choice"]["mean"] = choice.mean_summary(answers, choices=settings.choices, **draw)
    arrays = {f"heldout/{source}/{field}": value for source, table in sums.items() for field, value in vars(table).items()}
    arrays |= {f"choice/{source}/{field}": value for source, table in answers.items() for field, value in vars(table).items()}
    return Evaluation(result, arrays)


def write(folder, evaluation: Evaluation) -> pathlib.Path:
    """Writes <folder>/<model>.npz and then <model>.json, each under a temporary name first; returns the path of the JSON."""
    folder = storage.path(folder)
    storage.make_folder(folder)
    path = folder / f"{evaluation.result['model']}.json"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **evaluation.arrays)
    storage.replace(path.with_suffix(".npz"), buffer.getvalue())
    storage.replace(path, json.dumps(evaluation.result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _samples(graphdef, params, experiment, stores, tokenizer) -> list[dict]:
    """Continuations of held-out documents, with what the documents go on to say."""
    settings = experiment.evaluation
    window = experiment.data.sequence_length
    wanted = min(settings.sample_tokens, window // 2)  # with its prompt a sample fits what the model reads
    shown = min(settings.context, window - wanted)
    prompts, facts = [], []
    for source, store in stores.items():
        offsets, lengths = store.documents.offset, store.documents.length
        long_enough = np.flatnonzero(lengths > shown)
        random = np.random.default_rng([heldout.SEED, len(prompts)])
        for document in random.permutation(long_enough)[: settings.samples]:
            start, stop = int(offsets[document]), int(offsets[document] + lengths[document] - 1)
            prompt = store.read(start, start + shown).tolist()
            reference = store.read(start + shown, min(stop, start + shown + wanted)).tolist()
            prompts.append(prompt)
            facts.append({"source": source, "document": store.documents.id(int(document)), "reference": tokenizer.decode(reference)})
    eod = next(iter(stores.values())).eod
    size = tokenizer.get_vocab_size()
    options = dict(new_tokens=wanted, window=window, eod=eod, vocabulary=size, temperature=settings.temperature, seed=heldout.SEED)
    texts = generate.generate(graphdef, params, prompts, **options)
    return [
        fact | {"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(text), "temperature": settings.temperature}
        for fact, prompt, text in zip(facts, prompts, texts, strict=True)
    ]
