"""Sampled text: the plain way, one forward pass over a fixed window for every new token.

The window is one shape, so the forward pass is compiled once; attention is causal, so what lies behind the last token does not
matter. A text longer than the window keeps its newest tokens. (A key/value cache would make a step cost one token instead of a
window; for the handful of samples of a report it is not needed.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kaiyuan_jax.models import decoder as decoders


@functools.partial(jax.jit, static_argnames=("graphdef", "vocabulary", "temperature"))
def next_tokens(params, tokens_BL, lengths_B, keys_B, *, graphdef, vocabulary: int, temperature: float):
    """int32[B]: the token after the first `lengths_B` tokens of each row of tokens int32[B, L].

    Temperature 0 takes the most likely token; else tokens are drawn from softmax(logits / temperature). Ids from `vocabulary` on, which
    the tokenizer does not have, are never drawn.
    """
    decoder = decoders.merge(graphdef, params)
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
    x_BLD = decoder(tokens_BL, jnp.ones_like(tokens_BL), positions_BL)
    x_BD = jnp.take_along_axis(x_BLD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    logits_BV = decoder.logits(x_BD)
    logits_BV = jnp.where(jnp.arange(logits_BV.shape[-1]) < vocabulary, logits_BV, -jnp.inf)
    if temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV / temperature).astype(jnp.int32)


def generate(graphdef, params, prompts, *, new_tokens: int, window: int, eod: int, vocabulary: int, temperature: float, seed: int):
    """Continues each prompt (a list of at least one token id) by up to `new_tokens` ids; a text ends before its first `eod`.

    Returns a list of lists of ids, without prompt and eod. Row i, token t draws from key (seed, i, t): a prompt's text does not depend on
    which others are sampled after it.
    """
    if not prompts or new_tokens <= 0:
        return [[] for _ in prompts]
    if not all(prompts):
        raise ValueError("generate: found an empty prompt, each needs at least one token")
    options = dict(graphdef=graphdef, vocabulary=vocabulary, temperature=temperature)
    rows_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(prompts)))
    texts, ended = [list(prompt) for prompt in prompts], np.zeros(len(prompts), bool)
    for count in range(new_tokens):
        tokens_BL, lengths_B = np.zeros((len(prompts), window), np.int32), np.zeros(len(prompts), np.int32)
        for row, text in enumerate(texts):
            recent = text[-window:]
            tokens_BL[row, : len(recent)], lengths_B[row] = recent, len(recent)
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(rows_B, count)
        for row, token in enumerate(np.asarray(next_tokens(params, tokens_BL, lengths_B, keys_B, **options))):
            ended[row] |= token == eod
            if not ended[row]:
                texts[row].append(int(token))
        if ended.all():
            break
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
