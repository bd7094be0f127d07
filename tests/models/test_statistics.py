import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder, headroom, statistics

MODEL = config.Model(layers=3, width=16, feedforward=32, heads=4, kv_heads=2, head_size=8, vocabulary=64)


def measured(model=MODEL, precision=None):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 12)), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32), tokens.shape)
    made = decoder.build(model, precision or config.Precision(), jax.random.key(0))
    found = {}
    x_BLD = made(tokens, jnp.ones_like(tokens), positions, found=found)
    return made, x_BLD, (tokens, positions), found


def test_asking_for_statistics_changes_no_value_and_gives_one_number_a_layer():
    made, x_BLD, (tokens, positions), found = measured()
    np.testing.assert_array_equal(made(tokens, jnp.ones_like(tokens), positions), x_BLD)
    assert set(found) == {"residual", "query", "key", "value", "attention", "gated", "feedforward", "scores", "logits"}
    assert {name: value.shape for name, value in found.items() if name != "logits"} == dict.fromkeys(set(found) - {"logits"}, (3,))
    assert all(value.dtype == jnp.float32 for value in found.values())


def test_the_bounds_hold_and_are_near():
    made, x_BLD, _, found = measured()
    largest = jnp.abs(x_BLD.astype(jnp.float32) @ made.head()).max()
    assert largest <= found["logits"] <= 10 * largest
    # with QK-norm at gain 1 every query and key has length sqrt(C), so that the bound is sqrt(C)
    np.testing.assert_allclose(found["scores"], np.sqrt(8), rtol=1e-2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), group=st.integers(1, 3))
def test_no_score_exceeds_its_bound(seed, group):
    random = np.random.default_rng(seed)
    q_BLHC, k_BLKC = random.normal(size=(2, 5, 2 * group, 4)), random.normal(size=(2, 5, 2, 4))
    found = {}
    statistics.record_scores(found, jnp.asarray(q_BLHC, jnp.float32), jnp.asarray(k_BLKC, jnp.float32))
    scores = np.einsum("blhc,bmhc->bhlm", q_BLHC, np.repeat(k_BLKC, group, axis=2)) / 2
    assert np.abs(scores).max() <= float(found["scores"]) * (1 + 1e-5)


def test_sandwich_norm_bounds_the_stream_by_the_root_of_the_width_a_branch():
    *_, found = measured()
    growth = np.diff(np.concatenate([[0.1], found["residual"]]))
    assert (growth <= 2 * np.sqrt(MODEL.width) + 1e-3).all()


def test_an_overflow_in_float16_is_seen_where_it_happens():
    precision = config.Precision(compute="float16")
    tokens = jnp.zeros((1, 4), jnp.int32)
    made = decoder.build(MODEL, precision, jax.random.key(0))
    made.layers.feedforward.up_DF[...] = made.layers.feedforward.up_DF[...].at[1].multiply(1e9)
    found = {}
    made(tokens, tokens, jnp.arange(4, dtype=jnp.int32)[None], found=found)
    assert np.isfinite(found["gated"][0]) and not np.isfinite(found["gated"][1])
    assert np.isfinite(found["residual"][0])


@pytest.mark.parametrize(("top", "bits"), [(65504.0, 0.0), (32752.0, 1.0), (np.inf, 0.0), (np.nan, 0.0), (131008.0, -1.0)])
def test_headroom_is_the_binary_logarithm_of_what_is_left(top, bits):
    assert headroom.headroom({"residual": np.array([1.0, top]), "scores": np.array([1e9])}) == pytest.approx(bits)
