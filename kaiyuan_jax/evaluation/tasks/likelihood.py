"""What a model makes of the items of a task: the loss of every choice after its context, and whether the right one is the most likely.

A row is end-of-document, the context, a choice; only the choice counts. Context and choice are encoded together where the tokens of the
context come out the same, as lm-evaluation-harness does (blanks at the context's end go to the choice); a choice whose first character is
merged with the context's last is encoded alone, so that its tokens are always the bytes of its text.

Rows longer than the model's length L are read in windows of L targets that end where the choice ends or, for a choice above L / 2 tokens,
advance by L / 2: every token that counts has L / 2 tokens before it, or all there are. Windows are padded to powers of two and computed in
batches of one size in tokens, so what an item gets does not depend on what else is scored.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.evaluation.tasks.files import Task

SHORTEST = 16  # tokens of the smallest window


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one model made of one task; I items, in the order of the task. Kind "loss" has NaN where nothing is chosen."""

    task: str
    id: np.ndarray  # str[I]
    level: np.ndarray  # int64[I]
    chance: np.ndarray  # float64[I], 1 / choices
    gold_nats: np.ndarray  # float64[I], loss of the right choice, summed over its tokens
    gold_bytes: np.ndarray  # int64[I], of its tokens
    correct: np.ndarray  # float64[I]: 1, 0, or a share where several choices tie for the lowest loss
    correct_per_byte: np.ndarray  # float64[I], the same by loss per byte
    margin: np.ndarray  # float64[I], nats: the lowest loss of a wrong choice less that of the right one
    probability: np.ndarray  # float64[I], of the right choice among the choices, exp(-nats) / sum of exp(-nats)


@dataclasses.dataclass(frozen=True)
class Rows:
    """R encoded choices of a task, item by item, and their W windows."""

    ids: list[np.ndarray]  # R rows of end-of-document, context, choice
    first: np.ndarray  # int64[R], where the choice begins in its row
    bytes: np.ndarray  # int64[R], of the choice's tokens
    row: np.ndarray  # int64[W]
    start: np.ndarray  # int64[W], first input
    targets: np.ndarray  # int64[W], how many tokens after it are read
    counted: np.ndarray  # int64[W], how many of these, the last ones, count


def score(
    compute: Callable, params, tokenizer, bytes_V: np.ndarray, task: Task, *, batch_size: int, length: int, eod: int | None = None
) -> Scores:
    """Scores of one model.

    compute: (params, batch) -> float[B, L] nats, as `heldout.token_losses` gives it; bytes_V: `byte_lengths`; length: the longest window,
    the model's sequence length; batch_size: rows of that length, of shorter ones as many as give as many tokens. eod: the token that
    begins a row; None: the tokenizer's usual one. Raises TokenizerError where it has none.
    """
    rows = encode(tokenizer, bytes_V, task, length=length, eod=eod)
    return scores_of(task, rows, row_nats(compute, params, rows, batch_size=batch_size, length=length))


def score_members(
    compute: Callable, params_M, tokenizer, bytes_V: np.ndarray, task: Task, *, batch_size: int, length: int, eod: int | None = None
) -> list[Scores]:
    """Scores of M models at once: as `score`, with compute (params_M, batch) -> float[M, B, L]."""
    rows = encode(tokenizer, bytes_V, task, length=length, eod=eod)
    nats_MR = row_nats(compute, params_M, rows, batch_size=batch_size, length=length)
    return [scores_of(task, rows, nats_R) for nats_R in nats_MR]


def encode(tokenizer, bytes_V: np.ndarray, task: Task, *, length: int, eod: int | None = None) -> Rows:
    """The rows and windows of a task; arguments as those of `score`."""
    eod = tokenizers.end_of_document(tokenizer) if eod is None else eod
    tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> gets ordinary tokens
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pairs = [pair(item.context, choice) for item in task.items for choice in item.choices]
    contexts, choices = zip(*pairs, strict=True)

    def ids(texts) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    together, before, alone = ids(map("".join, pairs)), ids(contexts), ids(choices)
    rows, first = [], []
    for whole, context, choice in zip(together, before, alone, strict=True):
        if whole[: len(context)] != context:
            whole = context + choice
        rows.append(np.array([eod, *whole], np.int32))
        first.append(1 + len(context))
    size = [int(bytes_V[ids[begin:]].sum()) for ids, begin in zip(rows, first, strict=True)]
    windows = [
        (number, *window) for number, (ids, begin) in enumerate(zip(rows, first, strict=True)) for window in cut(begin, len(ids), length)
    ]
    return Rows(rows, np.array(first), np.array(size), *np.array(windows, np.int64).reshape(-1, 4).T)


def pair(context: str, choice: str) -> tuple[str, str]:
    """The two texts with the blanks at the context's end given to the choice."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + choice


def cut(first: int, tokens: int, length: int) -> list[tuple[int, int, int]]:
    """(first input, targets, counted targets) of the windows over a row: its targets first .. tokens - 1 count once each."""
    found = []
    while first < tokens:
        stop = min(tokens, max(length + 1, first + (length + 1) // 2))
        start = max(0, stop - length - 1)
        found.append((start, stop - start - 1, stop - first))
        first = stop
    return found


def row_nats(compute: Callable, params, rows: Rows, *, batch_size: int, length: int) -> np.ndarray:
    """float64[..., R]: nats of each row's choice, with the leading axes that `compute` has before [B, L]."""
    padded = np.minimum(length, np.maximum(SHORTEST, 2 ** np.ceil(np.log2(np.maximum(rows.targets, 1))).astype(np.int64)))
    total = None
    for width in np.unique(padded).tolist():
        size, chosen = max(1, batch_size * length // width), np.flatnonzero(padded == width)
        for at in range(0, len(chosen), size):
            block = chosen[at : at + size]
            tokens_BL1, counts_BL = np.zeros((size, width + 1), np.int32), np.zeros((size, width))
            for line, window in enumerate(block):
                start, targets = int(rows.start[window]), int(rows.targets[window])
                tokens_BL1[line, : targets + 1] = rows.ids[rows.row[window]][start : start + targets + 1]
                counts_BL[line, targets - int(rows.counted[window]) : targets] = 1
            losses = np.asarray(compute(params, heldout.make_batch(tokens_BL1, eod=-1, mask_documents=False)), np.float64)
            nats = np.where(counts_BL > 0, losses, 0.0).sum(axis=-1)[..., : len(block)]
            if total is None:
                total = np.zeros((*nats.shape[:-1], len(rows.ids)))
            np.add.at(total, (..., rows.row[block]), nats)
    return total


def scores_of(task: Task, rows: Rows, nats_R: np.ndarray) -> Scores:
    """The scores of the items from the nats of their rows."""
    ends = np.cumsum([len(item.choices) for item in task.items])
    table = []
    for item, end in zip(task.items, ends, strict=True):
        nats, size = nats_R[end - len(item.choices) : end], rows.bytes[end - len(item.choices) : end]
        gold = nats[item.gold], size[item.gold]
        if item.kind == "loss":
            table.append((*gold, *[np.nan] * 4))
            continue
        right = [_share(values, item.gold) for values in (nats, nats / np.maximum(size, 1))]
        weights = np.exp(nats.min() - nats)
        table.append((*gold, *right, np.delete(nats, item.gold).min() - gold[0], weights[item.gold] / weights.sum()))
    columns = np.array(table, np.float64).T
    chance = np.array([1 / len(item.choices) if item.kind == "choice" else np.nan for item in task.items])
    level, ids = np.array([item.level for item in task.items]), np.array([item.id for item in task.items])
    return Scores(task.name, ids, level, chance, columns[0], columns[1].astype(np.int64), *columns[2:])


def _share(losses: np.ndarray, gold: int) -> float:
    best = losses == losses.min()
    return float(best[gold] / best.sum())
