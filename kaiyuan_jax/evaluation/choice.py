"""Next-passage choice: a multiple-choice task that any held-out text gives.

A question shows the first `context` tokens of a held-out document and asks which of `choices` passages comes next: its own tokens
[context, context + continuation), or those at the same place in other documents of the same source. The model answers with the
passage that it gives the highest log-probability per byte. Guessing is right once in `choices` times. Documents, distractors and
their order follow from the seed alone, so two models answer the same questions and their difference can be paired.

A passage that equals another choice (licence headers, templates) is never a distractor. Where fewer documents are long enough than
questions are asked for, there are fewer questions: the result says how many.
"""

import dataclasses
import zlib

import numpy as np

from kaiyuan_jax.data.store import Store
from kaiyuan_jax.evaluation import bootstrap, heldout

TRIES = 20  # draws for each distractor before a question is given up


@dataclasses.dataclass(frozen=True)
class Questions:
    """Q questions of one source; choice 0 is the right one."""

    document: np.ndarray  # int64[Q], the document asked about
    tokens: np.ndarray  # int32[Q, choices, context + continuation]
    context: int


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model made of them, one entry a question."""

    document: np.ndarray  # int64[Q]
    correct: np.ndarray  # float64[Q]: 1, 0, or a share where several choices tie for the best
    gold_bits: np.ndarray  # float64[Q], of the right passage
    gold_bytes: np.ndarray  # int64[Q]


def questions(store: Store, *, count: int, choices: int, context: int, continuation: int, seed: int, key: str = "") -> Questions:
    """At most `count` questions, one a document; none where fewer than `choices` documents are long enough."""
    length = context + continuation
    random = np.random.default_rng([seed, zlib.crc32(key.encode())])
    offsets, lengths = store.documents.offset, store.documents.length
    long_enough = np.flatnonzero(lengths > length)  # the last token of a document is its end
    pool = random.permutation(long_enough)[: max(count, 4 * choices)]
    texts = np.array([store.read(int(offsets[d]), int(offsets[d]) + length) for d in pool], np.int32).reshape(len(pool), length)
    documents, rows = [], []
    for index in range(min(count, len(pool))):
        chosen = [index]
        for _ in range(TRIES * (choices - 1)):
            if len(chosen) == choices:
                break
            other = int(random.integers(len(pool)))
            if not any(np.array_equal(texts[other, context:], texts[taken, context:]) for taken in chosen):
                chosen.append(other)
        if len(chosen) == choices:
            shown = np.repeat(texts[index : index + 1], choices, axis=0)
            shown[:, context:] = texts[chosen, context:]
            documents.append(pool[index])
            rows.append(shown)
    return Questions(np.array(documents, np.int64), np.array(rows, np.int32).reshape(len(rows), choices, length), context)


def answer(compute, params, asked: Questions, byte_lengths_V: np.ndarray, *, batch_size: int, eod: int) -> Answers:
    """Scores every choice by nats per byte of its passage, by `heldout.token_losses` over rows of one fixed shape."""
    count, choices, length = asked.tokens.shape
    if not count:
        return Answers(asked.document, np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    rows_RL1 = asked.tokens.reshape(count * choices, length)
    losses_RL = heldout.row_losses(compute, params, rows_RL1, batch_size=batch_size, eod=eod, mask_documents=False)
    nats = losses_RL[:, asked.context - 1 :].sum(axis=1).reshape(count, choices)
    size = byte_lengths_V[rows_RL1[:, asked.context :]].sum(axis=1).reshape(count, choices)
    score = -nats / np.maximum(size, 1)
    best = score == score.max(axis=1, keepdims=True)
    return Answers(asked.document, best[:, 0] / best.sum(axis=1), nats[:, 0] / np.log(2), size[:, 0])


def summary(answers: Answers, *, asked_for: int, choices: int, resamples: int, source: str) -> dict:
    """The JSON entry of one source: accuracy with interval over questions, chance, bits per byte of the right passages."""
    draw = dict(resamples=resamples, seed=heldout.SEED, key=f"choice/{source}")
    count = len(answers.document)
    ones = np.ones(count)
    return {
        "accuracy": bootstrap.ratio(answers.correct, ones) if count else None,
        "interval": bootstrap.ratio_interval(answers.correct, ones, **draw),
        "chance": 1 / choices,
        "gold_bits_per_byte": bootstrap.ratio(answers.gold_bits, answers.gold_bytes) if count else None,
        "gold_interval": bootstrap.ratio_interval(answers.gold_bits, answers.gold_bytes, **draw),
        "questions": count,
        "asked_for": asked_for,
    }


def mean_summary(answers: dict[str, Answers], *, choices: int, resamples: int) -> dict:
    """The plain mean over the sources that have questions."""
    tables = {name: a for name, a in answers.items() if len(a.document)}
    if not tables:
        return {"accuracy": None, "interval": None, "chance": 1 / choices, "gold_bits_per_byte": None, "questions": 0}
    correct = {f"choice/{name}": (a.correct, np.ones(len(a.correct))) for name, a in tables.items()}
    accuracy, samples = bootstrap.mean_of_sources(correct, resamples=resamples, seed=heldout.SEED)
    return {
        "accuracy": accuracy,
        "interval": bootstrap.percentiles(samples),
        "chance": 1 / choices,
        "gold_bits_per_byte": float(np.mean([bootstrap.ratio(a.gold_bits, a.gold_bytes) for a in tables.values()])),
        "questions": sum(len(a.document) for a in tables.values()),
    }
