"""Two models' difference as a score, where the right answer is known: documents of two Markov chains, and models that are these chains.

The difference is then the logarithm of the likelihood ratio, in bits per byte, and no score separates the two kinds better.
"""

import numpy as np
import pytest

from kaiyuan_jax.evaluation import document_loss, heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths

LENGTH = 24  # tokens of a document


@pytest.fixture(scope="module")
def chains(tokenizer):
    """Log-probabilities float64[V, V] of an ordinary chain and of a target, which differs a little; both avoid the end of documents."""
    size = tokenizer.get_vocab_size()
    random = np.random.default_rng(0)
    ordinary_VV = random.normal(0, 1, (size, size))
    logits = ordinary_VV, ordinary_VV + random.normal(0, 0.6, (size, size))
    for logits_VV in logits:
        logits_VV[:, 0] = -30
    return [logits_VV - np.log(np.exp(logits_VV).sum(axis=1, keepdims=True)) for logits_VV in logits]


def drawn(log_probabilities_VV, count, seed):
    """int64[count, LENGTH]: documents of a chain, each begun after the end of another."""
    random, cumulative_VV = np.random.default_rng(seed), np.exp(log_probabilities_VV).cumsum(axis=1)
    rows = np.zeros((count, LENGTH + 1), np.int64)
    for place in range(LENGTH):
        below = random.random((count, 1)) * cumulative_VV[rows[:, place], -1:] > cumulative_VV[rows[:, place]]
        rows[:, place + 1] = below.sum(axis=1)
    return rows[:, 1:]


def separated(scores, positive):
    return float((scores[positive][:, None] > scores[~positive][None]).mean())


def test_the_difference_is_the_log_likelihood_ratio_and_separates_as_well_as_it(tokenizer, bigram_model, chains):
    ordinary_VV, target_VV = chains
    documents = np.concatenate([drawn(ordinary_VV, 150, seed=1), drawn(target_VV, 50, seed=2)])
    of_target = np.arange(200) >= 150
    bytes_V = byte_lengths(tokenizer, len(ordinary_VV))
    losses = []
    for log_probabilities_VV in chains:
        graphdef, params = bigram_model(log_probabilities_VV)
        compute = heldout.token_losses(graphdef)
        losses.append(document_loss.bits_per_byte(compute, params, list(documents), bytes_V, eod=0, length=32))
    difference = losses[0] - losses[1]

    rows = np.concatenate([np.zeros((200, 1), np.int64), documents], axis=1)
    ratio = (target_VV - ordinary_VV)[rows[:, :-1], rows[:, 1:]].sum(axis=1)  # nats
    np.testing.assert_allclose(difference, ratio / np.log(2) / bytes_V[documents].sum(axis=1), atol=1e-4)

    best = separated(ratio, of_target)
    assert best > 0.9 and separated(difference, of_target) > best - 0.02  # bytes of a document are not what the ratio counts in
    assert separated(losses[0], of_target) < 0.75 and separated(-losses[1], of_target) < best  # one model alone is worse
    chosen = np.argsort(-difference)[:50]
    assert of_target[chosen].mean() > 0.7 > 2 * of_target.mean()
