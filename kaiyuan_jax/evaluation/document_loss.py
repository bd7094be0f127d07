"""The loss of whole documents under one model, and its difference between two: a quality score that several selection methods share.

    loss of a document = sum of the losses of its text tokens / ln 2 / bytes of its text            (bits per byte; lower is more likely)
    difference         = loss under A - loss under B

Bits per byte, not nats per token, so that A and B may have different tokenizers. A small A trained on good text and B on ordinary text
give low differences to what is like the good text (Moore and Lewis, ACL 2010); an early A and a late B of one run give high differences
to what can still be learned (Mindermann et al., arXiv 2206.07137). Which end is good is for the user to say.

A document of n tokens is read as end-of-document, t_1 .. t_n: every t is a target once. Where n is above the model's length L it is read
in windows that advance by L / 2; a window after the first counts only targets that have at least L / 2 tokens before them. So a long
document costs about 2 n tokens. `most_tokens` cuts documents before that; the cut text's bytes are what the sum is divided by.

Windows are padded to powers of two and computed in batches of fixed shape: what a document gets does not depend on what else is scored,
beyond the last bit where the hardware rounds rows of one batch differently.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths
from kaiyuan_jax.models import decoder

SHORTEST = 32  # tokens of the smallest window
BATCH_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class Windows:
    """W windows of some documents, cut from rows of one end-of-document token and the document's tokens."""

    document: np.ndarray  # int64[W], index of the document
    start: np.ndarray  # int64[W], first input, counted in that row
    targets: np.ndarray  # int64[W], how many tokens after it are read as targets
    counted: np.ndarray  # int64[W], how many of these, the last ones, count


def windows(lengths: Sequence[int], length: int) -> Windows:
    """Windows of at most `length` targets over documents of `lengths` tokens; each token of each document counts exactly once."""
    step = (length + 1) // 2
    rows = []
    for document, tokens in enumerate(lengths):
        done = start = 0
        while done < tokens:
            targets = min(length, tokens - start)
            rows.append((document, start, targets, start + targets - done))
            done, start = start + targets, start + step
    return Windows(*np.array(rows, np.int64).reshape(-1, 4).T)


def bits_per_byte(compute: Callable, params, texts_ids: Sequence[np.ndarray], byte_lengths_V, *, eod: int, length: int) -> np.ndarray:
    """float64[documents]: bits per byte of each document's tokens; NaN for a document without bytes.

    compute: as `heldout.token_losses` gives it; length: the longest window, the model's sequence length.
    """
    rows = [np.concatenate([[eod], ids]).astype(np.int32) for ids in texts_ids]
    cut = windows([len(row) - 1 for row in rows], length)
    padded = np.minimum(length, np.maximum(SHORTEST, 2 ** np.ceil(np.log2(np.maximum(cut.targets, 1))).astype(np.int64)))
    bits, size = np.zeros(len(rows)), np.zeros(len(rows))
    for width in np.unique(padded):
        batch_size, chosen = max(1, BATCH_TOKENS // int(width)), np.flatnonzero(padded == width)
        for first in range(0, len(chosen), batch_size):
            block = chosen[first : first + batch_size]
            tokens_BL1, counts_BL = np.full((len(block), width + 1), eod, np.int32), np.zeros((len(block), width), bool)
            for row, window in enumerate(block):
                start, targets = int(cut.start[window]), int(cut.targets[window])
                tokens_BL1[row, : targets + 1] = rows[cut.document[window]][start : start + targets + 1]
                counts_BL[row, targets - int(cut.counted[window]) : targets] = True
            losses_BL = heldout.row_losses(compute, params, tokens_BL1, batch_size=batch_size, eod=eod, mask_documents=False)
            bytes_BL = np.where(counts_BL, byte_lengths_V[tokens_BL1[:, 1:]], 0)
            np.add.at(bits, cut.document[block], np.where(bytes_BL > 0, losses_BL, 0.0).sum(axis=1) / np.log(2))
            np.add.at(size, cut.document[block], bytes_BL.sum(axis=1))
    return np.divide(bits, size, out=np.full(len(rows), np.nan), where=size > 0)


def scorer(experiment: config.Experiment, params, tokenizer, *, eod: int, most_tokens: int = 0) -> Callable[[list[str]], np.ndarray]:
    """A function texts -> float64[texts], bits per byte under one model; NaN for a text without bytes.

    tokenizer: the run's `tokenizers.Tokenizer`; eod: its end-of-document token, which text never produces here. `most_tokens` 0: whole
    documents. Raises UserError for a tokenizer that is not byte-level or larger than the model's vocabulary.
    """
    lengths_V = byte_lengths(tokenizer, experiment.model.vocabulary)
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    compute, length = heldout.token_losses(graphdef), experiment.data.sequence_length
    tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> gets ordinary tokens
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def score(texts: list[str]) -> np.ndarray:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(encoding.ids[: most_tokens or None], np.int64) for encoding in encodings]
        return bits_per_byte(compute, params, ids, lengths_V, eod=eod, length=length)

    return score
