"""How likely a model finds given continuations of given contexts, both in tokens.

    log p(continuation | context) = sum over its tokens t of  logit_t - log sum_v exp(logit_v),      nats, logits in float32

A row holds context and continuation without its last token, which nothing is predicted from. Only the C places that predict the
continuation meet the vocabulary: with 152k entries that spares a fifth of a 2B model's work where contexts are long. Pairs whose rows agree
(" A", " B", " C" after one question) share the row, as K targets of its last place.

Rows are padded behind to powers of two, which causal attention does not see, and batches hold about the same number of tokens at every
width, so few programs are compiled and what a pair gets does not depend on what else is asked, beyond the last bit.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models import decoder as decoders
from kaiyuan_jax.sharding import rules

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # context and continuation, at least one token each

SHORTEST = 32  # tokens of the narrowest rows
FEW = 16  # places that rows with short continuations have
MOST = 16  # targets that may share a row
LOGITS = 1 << 26  # float32 in memory at a time


def fit(context: Sequence[int], continuation: Sequence[int], length: int) -> Pair:
    """The pair without the beginning of its context where row and next token are longer than `length` + 1.

    Raises ValueError for a continuation that is empty or longer than `length`, or an empty context.
    """
    if not context or not 1 <= len(continuation) <= length:
        raise ValueError(
            f"found {len(context)} tokens of context and {len(continuation)} of continuation; must be at least 1, and 1 to {length}"
        )
    return tuple(context[max(0, len(context) + len(continuation) - length - 1) :]), tuple(continuation)


def log_probabilities(graphdef, place: Placement = ANYWHERE) -> Callable:
    """A (params, tokens_BL, places_BC, targets_BCK) -> (float32[B, C, K] nats, bool[B, C, K]).

    Token number places_BC of its row predicts targets_BCK: their log-probabilities, and whether each is the likeliest token. All arrays
    int32. On a mesh the rows are cut over its data axis, where that divides them.
    """

    def compute(params, *batch):
        if place.mesh is not None:
            batch = [jax.device_put(x, rules.batch_sharding(place.mesh, x.ndim)) for x in batch]
        return _log_probabilities(graphdef, place, params, *batch)

    return compute


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_probabilities(graphdef, place, params, tokens_BL, places_BC, targets_BCK):
    decoder = decoders.merge(graphdef, params)
    B, C, K = targets_BCK.shape
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
    x_BLD = decoder(tokens_BL, jnp.ones_like(tokens_BL), positions_BL, place)
    x_BCD = jnp.take_along_axis(x_BLD, places_BC[:, :, None], axis=1)

    def some(arrays):
        x_BcD, targets_BcK = arrays
        logits_BcV = decoder.logits(x_BcD)
        chosen_BcK = jnp.take_along_axis(logits_BcV, targets_BcK, axis=2)
        found_BcK = chosen_BcK - jax.nn.logsumexp(logits_BcV, axis=2, keepdims=True)
        return found_BcK, targets_BcK == jnp.argmax(logits_BcV, axis=2, keepdims=True)

    vocabulary = decoder.embedding_VD.shape[0]
    parts = min(C, power_of_two(-(-B * C * vocabulary // LOGITS)))  # C is a power of two
    cut = [jnp.moveaxis(x.reshape(B, parts, C // parts, -1), 1, 0) for x in (x_BCD, targets_BCK)]
    return tuple(jnp.moveaxis(x, 0, 1).reshape(B, C, K) for x in jax.lax.map(some, tuple(cut)))


def answer(
    compute: Callable, params, pairs: Sequence[Pair], *, length: int, batch_tokens: int, ways: int = 1
) -> Iterator[list[tuple[int, float, bool]]]:
    """Yields batch by batch (number of the pair, log-probability in nats, whether greedy decoding would write the continuation).

    pairs: as `fit` gives them for this `length`. batch_tokens: about how many tokens a batch holds; ways: what its rows must be a multiple
    of. The widest rows come first: what does not fit in memory fails at once.
    """
    for (width, places, sharers), rows in sorted(shapes(pairs, length).items(), reverse=True):
        size = min(max(1, batch_tokens // width), power_of_two(len(rows)))
        size = -(-size // ways) * ways
        for first in range(0, len(rows), size):
            block = rows[first : first + size]
            batch = [np.zeros(shape, np.int32) for shape in ((size, width), (size, places), (size, places, sharers))]
            for row, numbers in enumerate(block):
                fill([x[row] for x in batch], [pairs[number] for number in numbers])
            nats_BCK, greedy_BCK = (np.asarray(x) for x in compute(params, *batch))
            yield [
                (number, float(np.sum(nats_BCK[row, :count, k], dtype=np.float64)), bool(greedy_BCK[row, :count, k].all()))
                for row, numbers in enumerate(block)
                for k, number in enumerate(numbers)
                for count in [len(pairs[number][1])]
            ]


def shapes(pairs: Sequence[Pair], length: int) -> dict[tuple[int, int, int], list[list[int]]]:
    """(tokens of a row L, places C, targets of a place K) -> rows of that shape, each the numbers of the pairs that share it."""
    alike = collections.defaultdict(list)
    for number, (context, continuation) in enumerate(pairs):
        alike[context + continuation[:-1], len(continuation)].append(number)
    found = collections.defaultdict(list)
    for (row, count), numbers in alike.items():
        width = min(length, max(SHORTEST, power_of_two(len(row))))
        for first in range(0, len(numbers), MOST):
            shared = numbers[first : first + MOST]
            found[width, FEW if count <= FEW else power_of_two(width), power_of_two(len(shared))].append(shared)
    return found


def fill(row: Sequence[np.ndarray], pairs: Sequence[Pair]) -> None:
    """Writes pairs that share a row into its tokens int32[L], places int32[C] and targets int32[C, K]."""
    tokens_L, places_C, targets_CK = row
    context, continuation = pairs[0]
    inputs, count = context + continuation[:-1], len(continuation)
    tokens_L[: len(inputs)] = inputs
    places_C[:count] = np.arange(len(inputs) - count, len(inputs))
    for k, (_, continuation) in enumerate(pairs):
        targets_CK[:count, k] = continuation


def power_of_two(number: int) -> int:
    """The smallest one that is at least `number`, which is at least 1."""
    return 1 << (number - 1).bit_length()
