"""Text read through the cache, in one pass and then token by token, is what the whole text gives: that is all a cache may be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from kaiyuan_jax import config
from kaiyuan_jax.kernels.placement import ANYWHERE
from kaiyuan_jax.models import cache as caches
from kaiyuan_jax.models import decoder
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh

SMALL = dict(layers=2, width=16, feedforward=24, heads=4, kv_heads=2, head_size=8, vocabulary=37, init_std=0.3)
READ, LENGTH = 7, 16  # tokens of the first pass, padding among them, and of the whole text


def make(compute="float32", **changes):
    """(graphdef, params) of random matrices and gains."""
    model = config.Model(**SMALL | changes)
    graphdef, shapes = decoder.abstract(model, config.Precision(compute=compute))
    random = np.random.default_rng(0)
    return graphdef, jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, model.init_std, leaf.shape), leaf.dtype), shapes)


def tokens_of(rows, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, SMALL["vocabulary"], (rows, LENGTH)), jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def whole(graphdef, params, tokens_BL, place=ANYWHERE):
    """logits_BLV of the whole text in one pass."""
    model = decoder.merge(graphdef, params)
    positions = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
    return model.logits(model(tokens_BL, jnp.ones_like(tokens_BL), positions, place))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def cached(graphdef, params, tokens_BL, lengths_B, slots, place=ANYWHERE):
    """(logits_BLV of the first READ tokens, logits_TBV of the T tokens after the first lengths_B of each row)."""
    model = decoder.merge(graphdef, params)
    x_BLD, cache = model.prefill(tokens_BL[:, :READ], lengths_B, slots, place)

    def one(cache, _):
        inputs_B = jnp.take_along_axis(tokens_BL, cache.lengths_B[:, None], axis=1)[:, 0]
        x_BD, cache = model.step(inputs_B, cache, place)
        return cache, model.logits(x_BD)

    return model.logits(x_BLD), jax.lax.scan(one, cache, length=LENGTH - READ)[1]


def assert_equal_texts(got, want_BLV, lengths, tolerance):
    first_BLV, steps_TBV = map(np.asarray, got)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(first_BLV[row, :length], want_BLV[row, :length], atol=tolerance, rtol=0)
        later = want_BLV[row, length : length + len(steps_TBV)]
        np.testing.assert_allclose(steps_TBV[: len(later), row], later, atol=tolerance, rtol=0)


SHAPES = [dict(kv_heads=1, window=5, attention_softcap=2.0, tied=True), dict(kv_heads=4, qk_norm=False, sandwich_norm=False)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, READ), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_cached_logits_are_those_of_the_whole_text_at_every_position(shape, lengths, seed):
    graphdef, params = make(**shape)
    tokens_BL = tokens_of(len(lengths), seed)
    got = cached(graphdef, params, tokens_BL, jnp.asarray(lengths, jnp.int32), LENGTH + 2)
    assert_equal_texts(got, np.asarray(whole(graphdef, params, tokens_BL)), lengths, 1e-5)


def test_a_sliding_window_needs_no_more_slots_than_it_sees():
    graphdef, params = make(window=3)
    tokens_BL, lengths = tokens_of(3), [1, 4, READ]
    got = cached(graphdef, params, tokens_BL, jnp.asarray(lengths, jnp.int32), 3)
    assert_equal_texts(got, np.asarray(whole(graphdef, params, tokens_BL)), lengths, 1e-5)


def test_in_bfloat16_cache_and_whole_text_agree_to_rounding():
    graphdef, params = make("bfloat16", init_std=0.1)
    tokens_BL, lengths = tokens_of(3), [1, 4, READ]
    lengths_B = jnp.asarray(lengths, jnp.int32)
    want_BLV = np.asarray(whole(graphdef, params, tokens_BL))
    assert_equal_texts(cached(graphdef, params, tokens_BL, lengths_B, LENGTH), want_BLV, lengths, 0.03 * np.abs(want_BLV).max())
    _, cache = jax.eval_shape(lambda params: decoder.merge(graphdef, params).prefill(tokens_BL, lengths_B, LENGTH), params)
    assert cache.keys_NBKMC.dtype == cache.values_NBKMC.dtype == jnp.bfloat16


@pytest.mark.parametrize("axes", [dict(fsdp=2, tensor=2), dict(tensor=4)])
def test_cut_over_devices_the_logits_are_the_same(axes):
    mesh = make_mesh(config.Mesh(**dict(data=1, fsdp=1, tensor=1) | axes), jax.devices()[: int(np.prod(list(axes.values())))])
    place = rules.placement(mesh)
    graphdef, params = make()
    tokens_BL, lengths = tokens_of(4), [1, 4, READ, 2]
    lengths_B = jnp.asarray(lengths, jnp.int32)
    want_BLV = np.asarray(whole(graphdef, params, tokens_BL))
    cut = jax.device_put(params, rules.shardings(params, mesh))
    rows = jax.device_put((tokens_BL, lengths_B), (rules.batch_sharding(mesh, 2), rules.batch_sharding(mesh, 1)))
    assert_equal_texts(cached(graphdef, cut, *rows, LENGTH, place), want_BLV, lengths, 1e-5)
    prefill = jax.jit(lambda params, tokens_BL, lengths_B: decoder.merge(graphdef, params).prefill(tokens_BL, lengths_B, LENGTH, place)[1])
    cache = prefill(cut, *rows)
    want = NamedSharding(mesh, place.spec("NBKMC", cache.keys_NBKMC.shape))
    assert cache.keys_NBKMC.sharding.is_equivalent_to(want, 5) and want.spec[1]


def test_the_first_pass_writes_each_rows_own_tokens_and_nothing_of_its_padding():
    keys = jnp.arange(1, 1 + 1 * 2 * 4).reshape(1, 2, 4, 1, 1).astype(jnp.float32)  # row 0: 1 2 3 4, row 1: 5 6 7 8
    start, append = jax.jit(caches.start, static_argnums=(3, 4)), jax.jit(caches.append, static_argnums=4)
    cache = start(keys, -keys, jnp.array([2, 4]), 3, ANYWHERE)
    assert cache.keys_NBKMC[0, :, 0, :, 0].tolist() == [[1, 2, 0], [8, 6, 7]]  # the fourth token takes the slot of the first
    assert np.array_equal(cache.values_NBKMC, -cache.keys_NBKMC) and cache.lengths_B.tolist() == [2, 4]
    cache = append(cache, 10 * keys[:, :, :1], keys[:, :, :1], jnp.array([1, 0]), ANYWHERE)
    assert cache.keys_NBKMC[0, :, 0, :, 0].tolist() == [[1, 2, 10], [8, 6, 7]] and cache.lengths_B.tolist() == [3, 4]


def test_a_longer_cache_costs_a_step_its_reading_and_nothing_else():
    rows, wide = 2, dict(layers=1, width=64, feedforward=128, heads=8, kv_heads=2, head_size=16)
    graphdef, params = make(**wide)

    def prefill(slots):
        tokens_BL, lengths_B = jnp.zeros((rows, 8), jnp.int32), jnp.ones(rows, jnp.int32)
        return jax.eval_shape(lambda: decoder.merge(graphdef, params).prefill(tokens_BL, lengths_B, slots)[1])

    def cost(slots):
        step = jax.jit(lambda params, inputs_B, cache: decoder.merge(graphdef, params).step(inputs_B, cache), donate_argnums=2)
        compiled = step.lower(params, jax.ShapeDtypeStruct((rows,), jnp.int32), prefill(slots)).compile()
        analysis = compiled.cost_analysis()
        return np.array([analysis["flops"], analysis["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes])

    slots = 1000
    flops, read, temporaries = cost(256 + slots) - cost(256)
    products = 2 * 2 * rows * 8 * slots * 16  # of queries with keys, and of weights with values
    size = 2 * rows * 2 * slots * 16 * 4  # bytes of the keys and values
    assert products <= flops <= 1.25 * products  # the rest is the softmax
    # Bytes as XLA counts them: a layer's slice is read, written and read, and writing one token counts as the whole array, in and out.
    assert read <= 9 * size
    assert temporaries <= 1.25 * size  # one layer's slice; the stack itself is written in place
