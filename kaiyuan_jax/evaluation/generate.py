"""Sampled text: the prompts are read in one pass, then every further token costs one token, in one compiled loop.

Row i draws its token t from key (seed, i, t) and attends to nothing of other rows, so what a prompt is continued with does not depend
on the prompts beside it, nor on the batches they are cut into, beyond the last bit where the hardware rounds another shape differently.
Prompts of one batch are padded behind to a power of two, so that few programs are compiled; a batch ends with its longest text.

Text ends before the end-of-document token. A text longer than the model was trained on is refused: a decoder that forgets its first
tokens, on which much of its attention rests, writes nonsense, and one that reads its newest tokens again pays for all of them each time.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from kaiyuan_jax.config import UserError
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models import decoder as decoders

SHORTEST = 16  # tokens that the shortest batch of prompts is padded to


def generate(
    graphdef,
    params,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    window: int,
    eod: int,
    vocabulary: int,
    temperature: float,
    seed: int,
    top_p: float = 1.0,
    numbers: Sequence[int] | None = None,
    batch_size: int = 32,
    place: Placement = ANYWHERE,
) -> list[list[int]]:
    """Continues each prompt (at least one token id) by up to `new_tokens` ids; returns the ids without prompt and end of document.

    window: most tokens of prompt and text together; eod: id that ends a text, -1 for none; ids from `vocabulary` on are never drawn.
    temperature 0 takes the likeliest token, else tokens are drawn from softmax(logits / temperature), and with top_p below 1 only from
    the likeliest of them that together have at least that probability (nucleus sampling, arXiv 1904.09751). numbers: of the rows, from
    0 to 2^32 - 1, for their keys; None: as they stand. graphdef, params: as `models.decoder.split` gives them; with a mesh in `place`,
    params are cut over it. Raises UserError for a text that does not fit.
    """
    if not prompts or new_tokens <= 0:
        return [[] for _ in prompts]
    if new_tokens >= window:
        raise UserError(f"{new_tokens} new tokens do not fit the {window} that the model reads, prompt among them; at most {window - 1} do")
    for row, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= window - new_tokens:
            raise UserError(
                f"prompt {row + 1}: found {len(prompt)} tokens; must have 1 to {window - new_tokens}, so that with {new_tokens} new ones "
                f"it fits the {window} that the model reads: shorten it or ask for fewer tokens"
            )
    sampling = dict(eod=eod, vocabulary=vocabulary, temperature=temperature, top_p=top_p)
    key, texts = jax.random.key(seed), []
    for first in tqdm(range(0, len(prompts), batch_size), desc="generating", unit="batch", leave=False, disable=None):
        # The last batch is filled up with its last row: of the same key, so it ends when that row does.
        rows = np.minimum(np.arange(first, first + min(batch_size, len(prompts))), len(prompts) - 1)
        lengths_B = np.array([len(prompts[row]) for row in rows], np.int32)
        tokens_BL = np.zeros((len(rows), min(window, max(SHORTEST, 1 << int(lengths_B.max() - 1).bit_length()))), np.int32)
        for tokens_L, row in zip(tokens_BL, rows, strict=True):
            tokens_L[: len(prompts[row])] = prompts[row]
        numbers_B = rows if numbers is None else np.asarray(numbers, np.uint32)[rows]
        keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers_B)
        text_BT, counts_B = continuations(
            params, tokens_BL, lengths_B, keys_B, graphdef=graphdef, new_tokens=new_tokens, place=place, **sampling
        )
        counted = zip(np.asarray(text_BT), np.asarray(counts_B), strict=True)
        texts += [text_T[:count].tolist() for text_T, count in list(counted)[: len(prompts) - first]]
    return texts


@functools.partial(jax.jit, static_argnames=("graphdef", "new_tokens", "eod", "vocabulary", "temperature", "top_p", "place"))
def continuations(
    params,
    tokens_BL,
    lengths_B,
    keys_B,
    *,
    graphdef,
    new_tokens: int,
    eod: int,
    vocabulary: int,
    temperature: float,
    top_p: float,
    place: Placement = ANYWHERE,
):
    """(int32[B, new_tokens], int32[B]): what follows the first lengths_B of int32[B, L] tokens, and how many of them are text."""
    model = decoders.merge(graphdef, params)
    sampling = dict(vocabulary=vocabulary, temperature=temperature, top_p=top_p)

    def write(text_BT, x_BD, counts_B, ended_B, time):
        """Draws token number `time` of every row."""
        drawn_B = draw(model.logits(x_BD), jax.vmap(jax.random.fold_in, (0, None))(keys_B, time), **sampling)
        ended_B |= drawn_B == eod
        return text_BT.at[:, time].set(drawn_B), counts_B + ~ended_B, ended_B

    def going_on(state):
        time, _, (_, _, ended_B) = state
        return (time < new_tokens) & ~ended_B.all()

    def one(state):
        time, cache, (text_BT, counts_B, ended_B) = state
        x_BD, cache = model.step(text_BT[:, time - 1], cache, place)
        return time + 1, cache, write(text_BT, x_BD, counts_B, ended_B, time)

    B, L = tokens_BL.shape
    slots = min(L + new_tokens, model.layers.attention.window or L + new_tokens)
    x_BLD, cache = model.prefill(tokens_BL, lengths_B, slots, place)
    x_BD = jnp.take_along_axis(x_BLD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    begun = write(jnp.zeros((B, new_tokens), jnp.int32), x_BD, jnp.zeros(B, jnp.int32), jnp.zeros(B, bool), 0)
    _, _, (text_BT, counts_B, _) = jax.lax.while_loop(going_on, one, (1, cache, begun))
    return text_BT, counts_B


def draw(logits_BV, keys_B, *, vocabulary: int, temperature: float, top_p: float):
    """int32[B]: one id below `vocabulary` for every row of logits float32[B, V], by its own key; options as of `generate`."""
    logits_BV = jnp.where(jnp.arange(logits_BV.shape[-1]) < vocabulary, logits_BV, -jnp.inf)
    if temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV /= temperature
    if top_p < 1:
        logits_BV = jnp.where(nucleus(logits_BV, top_p), logits_BV, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def nucleus(logits_BV, top_p: float):
    """bool[B, V]: the fewest ids whose probabilities sum to at least `top_p`, the likeliest ones; of equals those with the lower ids."""
    order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)
    rows_B1 = jnp.arange(len(logits_BV))[:, None]
    mass_BV = jnp.cumsum(jax.nn.softmax(logits_BV, axis=-1)[rows_B1, order_BV], axis=-1)
    chosen_BV = jnp.pad(mass_BV[:, :-1], [(0, 0), (1, 0)]) < top_p  # what is likelier does not suffice
    return jnp.zeros_like(chosen_BV).at[rows_B1, order_BV].set(chosen_BV)
