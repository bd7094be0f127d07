import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.evaluation.generate import draw, generate, nucleus
from kaiyuan_jax.models import decoder
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh

SIZE = 12
OPTIONS = dict(new_tokens=8, window=24, eod=0, vocabulary=SIZE, seed=0)
DRAWN = OPTIONS | dict(eod=-1, temperature=1.0, top_p=0.8)
PROMPTS = [[1, 2], [3, 4, 5], [7], [2, 2, 9, 11, 4]]


@pytest.fixture
def counting(bigram_model):
    """Token t is followed by t + 1, token 9 by the end of the document (0)."""
    logits = np.zeros((SIZE, SIZE))
    for token in range(SIZE):
        logits[token, 0 if token == 9 else (token + 1) % SIZE] = 6.0
    return bigram_model(logits)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def pick(logits_BV, keys_B, vocabulary, temperature, top_p):
    return draw(logits_BV, keys_B, vocabulary=vocabulary, temperature=temperature, top_p=top_p)


@functools.partial(jax.jit, static_argnums=0)
def whole_text(graphdef, params, tokens_BL):
    model = decoder.merge(graphdef, params)
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
    return model.logits(model(tokens_BL, jnp.ones_like(tokens_BL), positions_BL))


def test_greedy_text_follows_the_likeliest_token_and_ends_before_the_end_of_document(counting):
    texts = generate(*counting, [[1], [5, 6], [9], [3, 4, 5, 6, 7, 8, 9, 1]], temperature=0.0, **OPTIONS)
    assert texts == [[2, 3, 4, 5, 6, 7, 8, 9], [7, 8, 9], [], [2, 3, 4, 5, 6, 7, 8, 9]]


SHAPES = [dict(kv_heads=2, window=5, attention_softcap=3.0), dict(tied=True, sandwich_norm=False, kv_heads=1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_64_greedy_tokens_are_those_of_reading_the_whole_text_for_each(small_experiment, untrained_model, shape):
    graphdef, params = untrained_model(small_experiment(SIZE, layers=2, **shape))
    texts = generate(graphdef, params, PROMPTS, temperature=0.0, **OPTIONS | dict(window=80, new_tokens=64, eod=-1))
    tokens_BL, lengths = np.zeros((len(PROMPTS), 80), np.int32), np.array([len(prompt) for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        tokens_BL[row, : len(prompt)] = prompt
    rows = np.arange(len(PROMPTS))
    for _ in range(64):
        tokens_BL[rows, lengths] = np.argmax(np.asarray(whole_text(graphdef, params, tokens_BL))[rows, lengths - 1], axis=-1)
        lengths += 1
    assert texts == [tokens_BL[row, len(prompt) : len(prompt) + 64].tolist() for row, prompt in enumerate(PROMPTS)]
    assert len(set(map(tuple, texts))) > 1


def test_a_text_is_the_same_alone_and_in_company(small_experiment, untrained_model):
    model = untrained_model(small_experiment(SIZE, kv_heads=2))
    together = generate(*model, PROMPTS, **DRAWN)
    assert together == generate(*model, PROMPTS, **DRAWN)
    assert together == generate(*model, PROMPTS, **DRAWN, batch_size=1)
    assert together[:3] == generate(*model, [*PROMPTS[:3], [1, 1, 1]], **DRAWN)[:3]
    assert together[:2] == generate(*model, PROMPTS[:2], **DRAWN, batch_size=1)
    assert [len(text) for text in together] == [8] * 4
    assert together != generate(*model, PROMPTS, **DRAWN | dict(seed=1))


def test_cut_over_devices_the_texts_are_the_same(small_experiment, untrained_model):
    graphdef, params = untrained_model(small_experiment(SIZE, kv_heads=2))
    mesh = make_mesh(config.Mesh(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    cut = jax.device_put(params, rules.shardings(params, mesh))
    assert generate(graphdef, cut, PROMPTS, place=rules.placement(mesh), **DRAWN) == generate(graphdef, params, PROMPTS, **DRAWN)


def test_the_last_batch_is_filled_up_and_gives_no_more_texts_than_asked_for(counting):
    texts = generate(*counting, [[3], [7], [5]], batch_size=2, temperature=0.0, **OPTIONS)
    assert texts == [[4, 5, 6, 7, 8, 9], [8, 9], [6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("temperature", "top_p", "want"),
    [(1.0, 1.0, [0.5, 0.3, 0.2]), (0.5, 1.0, [25 / 38, 9 / 38, 4 / 38]), (1.0, 0.6, [5 / 8, 3 / 8, 0]), (1.0, 0.4, [1, 0, 0])],
)
def test_draws_follow_the_temperature_and_the_nucleus(temperature, top_p, want):
    logits_BV = jnp.tile(jnp.log(jnp.array([0.5, 0.3, 0.2, 9.0])), (2000, 1))  # the tokenizer does not have the last
    drawn = pick(logits_BV, jax.random.split(jax.random.key(0), 2000), 3, temperature, top_p)
    assert np.allclose(np.bincount(drawn, minlength=4) / 2000, [*want, 0.0], atol=0.04)


def test_the_likeliest_id_that_the_tokenizer_has_is_taken_at_temperature_0():
    assert pick(jnp.array([[1.0, 3.0, 2.0, 9.0]]), jax.random.split(jax.random.key(0), 1), 3, 0.0, 1.0).tolist() == [1]


def test_row_i_draws_token_t_from_key_seed_i_t(bigram_model):
    logits = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    texts = generate(*bigram_model(logits), [[3], [3]], temperature=1.0, **OPTIONS | dict(seed=5, eod=-1))
    for row, text in enumerate(texts):
        for time, (before, drawn) in enumerate(zip([3, *text], text, strict=False)):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), row), time)
            assert drawn == jax.random.categorical(key, jnp.asarray(logits[before], jnp.float32))


@settings(max_examples=60, deadline=None)
@given(logits=arrays.arrays(np.float32, (2, 9), elements=st.floats(-8, 8, width=16)), top_p=st.floats(0.01, 0.99))
def test_the_nucleus_is_the_smallest_set_that_has_the_mass(logits, top_p):
    chosen = np.asarray(jax.jit(nucleus)(jnp.asarray(logits), top_p))
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(axis=-1, keepdims=True)
    for kept, mass in zip(chosen, exact, strict=True):
        assert kept.any() and mass[kept].sum() >= top_p - 1e-6
        assert mass[kept].sum() - mass[kept].min() < top_p + 1e-6  # not without any of its members
        assert not (~kept).any() or mass[kept].min() >= mass[~kept].max() - 1e-9  # and none outside is likelier than one inside


def test_of_equally_likely_ids_the_nucleus_takes_as_many_as_it_needs():
    assert np.asarray(nucleus(jnp.zeros((1, 8)), 0.5)).tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize("prompt", [[], [1] * 17])
def test_a_prompt_that_is_empty_or_does_not_fit_is_an_error_that_names_it(counting, prompt):
    with pytest.raises(UserError, match=f"prompt 2: found {len(prompt)} tokens; must have 1 to 16"):
        generate(*counting, [[1], prompt], temperature=0.0, **OPTIONS)


def test_more_tokens_than_the_model_reads_are_an_error(counting):
    with pytest.raises(UserError, match="24 new tokens do not fit"):
        generate(*counting, [[1]], temperature=0.0, **OPTIONS | dict(new_tokens=24))


def test_no_prompts_are_no_texts(counting):
    assert generate(*counting, [], temperature=0.0, **OPTIONS) == []
