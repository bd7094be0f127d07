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
PROMPTS = [[1, 2], [3, 4, 5], [7], [2, 2, 9, 11, 4]]


@pytest.fixture
def counting(bigram_model):
    """Token t is followed by t + 1, token 9 by the end of the document (0)."""
    logits = np.zeros((SIZE, SIZE))
    for token in range(SIZE):
        logits[token, 0 if token == 9 else (token + 1) % SIZE] = 6.0
    return bigram_model(logits)


@functools.partial(jax.jit, static_argnums=0)
def whole_text(graphdef, params, tokens_BL):
    model = decoder.merge(graphdef, params)
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
    return model.logits(model(tokens_BL, jnp.ones_like(tokens_BL), positions_BL))


def test_greedy_text_follows_the_likeliest_token_and_ends_before_the_end_of_document(counting):
    texts = generate(*counting, [[1], [5, 6], [9], [3, 4, 5, 6, 7, 8, 9, 1]], temperature=0.0, **OPTIONS)
    assert texts == [[2, 3, 4, 5, 6, 7, 8, 9], [7, 8, 9], [], [2, 3, 4, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize("shape", [dict(), dict(kv_heads=2, window=5, attention_softcap=3.0), dict(tied=True, sandwich_norm=False)], ids=str)
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


def test_a_text_is_the_same_alone_in_company_and_in_small_batches(small_experiment, untrained_model):
    model = untrained_model(small_experiment(SIZE))
    options = OPTIONS | dict(eod=-1, temperature=1.0, top_p=0.8)
    together = generate(*model, PROMPTS, **options)
    assert together == generate(*model, PROMPTS, **options)
    assert together == generate(*model, PROMPTS, batch_size=3, **options)
    assert together[:1] == generate(*model, PROMPTS[:1], **options)
    assert together[:3] == generate(*model, [*PROMPTS[:3], [1, 1, 1]], **options)[:3]
    assert [len(text) for text in together] == [8] * 4


def test_draws_repeat_with_the_seed_and_follow_the_temperature(bigram_model):
    logits = np.tile(np.log([0.5, 0.3, 0.2]), (3, 1))
    model = bigram_model(logits)
    options = dict(new_tokens=1, window=2, eod=-1, vocabulary=3, batch_size=2000)
    prompts = [[0]] * 2000
    drawn = np.array(generate(*model, prompts, temperature=1.0, seed=0, **options))[:, 0]
    assert np.allclose(np.bincount(drawn, minlength=3) / 2000, [0.5, 0.3, 0.2], atol=0.05)
    cold = np.array(generate(*model, prompts, temperature=0.5, seed=0, **options))[:, 0]
    squares = np.array([0.5, 0.3, 0.2]) ** 2
    assert np.allclose(np.bincount(cold, minlength=3) / 2000, squares / squares.sum(), atol=0.05)
    likely = np.array(generate(*model, prompts, temperature=1.0, top_p=0.6, seed=0, **options))[:, 0]
    assert np.allclose(np.bincount(likely, minlength=3) / 2000, [0.5 / 0.8, 0.3 / 0.8, 0.0], atol=0.05)
    assert np.array_equal(drawn, np.array(generate(*model, prompts, temperature=1.0, seed=0, **options))[:, 0])
    assert not np.array_equal(drawn, np.array(generate(*model, prompts, temperature=1.0, seed=1, **options))[:, 0])


def test_the_contract_of_keys_holds(bigram_model):
    """Row i draws token t from key (seed, i, t)."""
    logits = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    texts = generate(*bigram_model(logits), [[3], [3]], temperature=1.0, **OPTIONS | dict(seed=5, eod=-1))
    for row, text in enumerate(texts):
        for time, (before, drawn) in enumerate(zip([3, *text], text, strict=False)):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), row), time)
            assert drawn == jax.random.categorical(key, jnp.asarray(logits[before], jnp.float32))


@settings(max_examples=60, deadline=None)
@given(logits=arrays.arrays(np.float32, (2, 9), elements=st.floats(-8, 8, width=16)), top_p=st.floats(0.01, 0.99))
def test_the_nucleus_is_the_smallest_set_that_has_the_mass(logits, top_p):
    chosen = np.asarray(nucleus(jnp.asarray(logits), top_p))
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(axis=-1, keepdims=True)
    for kept, mass in zip(chosen, exact, strict=True):
        assert kept.any() and mass[kept].sum() >= top_p - 1e-6
        assert mass[kept].sum() - mass[kept].min() < top_p + 1e-6  # not without any of its members
        assert not (~kept).any() or mass[kept].min() >= mass[~kept].max() - 1e-9  # and none outside is likelier than one inside


def test_of_equally_likely_ids_the_nucleus_takes_as_many_as_it_needs():
    assert np.asarray(nucleus(jnp.zeros((1, 8)), 0.5)).tolist() == [[True] * 4 + [False] * 4]


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn():
    logits = jnp.zeros((50, SIZE)).at[:, 10:].set(9.0)
    keys = jax.random.split(jax.random.key(0), 50)
    for options in (dict(temperature=0.0, top_p=1.0), dict(temperature=1.0, top_p=1.0), dict(temperature=1.0, top_p=0.999)):
        assert np.max(draw(logits, keys, vocabulary=10, **options)) < 10


def test_cut_over_devices_the_texts_are_the_same(small_experiment, untrained_model):
    graphdef, params = untrained_model(small_experiment(SIZE, kv_heads=2))
    mesh = make_mesh(config.Mesh(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    cut = jax.device_put(params, rules.shardings(params, mesh))
    options = OPTIONS | dict(eod=-1, temperature=1.0, top_p=0.9)
    assert generate(graphdef, cut, PROMPTS, place=rules.placement(mesh), **options) == generate(graphdef, params, PROMPTS, **options)


@pytest.mark.parametrize("prompt", [[], [1] * 17])
def test_a_prompt_that_is_empty_or_does_not_fit_is_an_error_that_names_it(counting, prompt):
    with pytest.raises(UserError, match=f"prompt 2: found {len(prompt)} tokens; must have 1 to 16"):
        generate(*counting, [[1], prompt], temperature=0.0, **OPTIONS)


def test_no_prompts_are_no_texts(counting):
    assert generate(*counting, [], temperature=0.0, **OPTIONS) == []
