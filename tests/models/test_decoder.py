"""The decoder: what it can see, how its parts behave, and that no way of computing it changes what it computes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kaiyuan_jax import config, config_check
from kaiyuan_jax.kernels.attention.api import attention
from kaiyuan_jax.kernels.placement import ANYWHERE
from kaiyuan_jax.models import decoder, layers
from kaiyuan_jax.models.loss import token_losses

SMALL = dict(layers=2, width=16, feedforward=24, heads=4, kv_heads=2, head_size=8, vocabulary=37, init_std=0.3)
KAIYUAN = dict(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936)


def make(precision="float32", **changes):
    model, precision = config.Model(**SMALL | changes), config.Precision(compute=precision)
    params = jax.jit(lambda key: decoder.split(decoder.build(model, precision, key))[1])(jax.random.key(0))
    return decoder.merge(decoder.abstract(model, precision)[0], params)


def make_batch(B, L, seed=0, documents=None):
    """Random tokens; documents: lengths that fill a row, masked from one another."""
    inputs, targets = jax.random.randint(jax.random.key(seed), (2, B, L), 0, SMALL["vocabulary"])
    documents = documents or [L]
    segments = np.repeat(np.arange(len(documents)) + 1, documents)
    positions = np.concatenate([np.arange(length) for length in documents])
    rows = (np.broadcast_to(row, (B, L)).astype(np.int32) for row in (segments, positions))
    return dict(zip(("inputs_BL", "targets_BL", "segments_BL", "positions_BL"), (inputs, targets, *rows), strict=True))


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled(function, graphdef, params, batch):
    return function(decoder.merge(graphdef, params), batch)


def hidden(model, batch):
    return compiled(call, *decoder.split(model), batch)


def losses(model, batch):
    return compiled(token_losses, *decoder.split(model), batch)


def call(model, batch):
    return model(batch["inputs_BL"], batch["segments_BL"], batch["positions_BL"])


def gradients(model, batch):
    graphdef, params = decoder.split(model)

    @jax.jit
    def value_and_gradient(params):
        return jax.value_and_grad(lambda params: token_losses(decoder.merge(graphdef, params), batch)[0].mean())(params)

    return value_and_gradient(params)


def assert_trees_close(got, want, tolerance):
    for (path, a), (_, b) in zip(*map(jax.tree_util.tree_leaves_with_path, (got, want)), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1e-3 + np.abs(b).max()), err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 2_031_854_592), ({"sandwich_norm": False}, 2_031_739_904), ({"sandwich_norm": False, "tied": True}, None)],
)
def test_the_published_shape_has_exactly_the_published_parameters(changes, count):
    _, params = decoder.abstract(config.Model(**KAIYUAN | changes), config.Precision())
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert found == (count or 2_031_739_904 - 151_936 * 2048)


def test_the_abstract_decoder_describes_the_real_one():
    model, precision = config.Model(**SMALL), config.Precision(parameters="bfloat16")
    graphdef, params = decoder.split(decoder.build(model, precision, jax.random.key(0)))
    abstract_graphdef, shapes = decoder.abstract(model, precision)
    assert abstract_graphdef == graphdef and hash(abstract_graphdef) == hash(graphdef)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


def test_every_parameter_is_named_for_its_dimensions():
    sizes = dict(N=2, D=16, F=24, H=4, K=2, C=8, V=37)
    _, params = decoder.split(make())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dims = path[-1].key.rsplit("_", 1)[1]
        assert leaf.shape == tuple(sizes[letter] for letter in dims), path


def test_split_and_merge_are_inverse():
    model, batch = make(), make_batch(2, 5)
    np.testing.assert_array_equal(hidden(decoder.merge(*decoder.split(model)), batch), hidden(model, batch))


def test_initial_matrices_have_the_configured_deviation_and_layers_differ():
    _, params = decoder.split(make(width=64, feedforward=96, init_std=0.05, post_norm_gain=0.5))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if "norm" in name:
            assert np.all(leaf == (0.5 if "post" in name else 1.0)), name
        else:
            np.testing.assert_allclose(np.std(leaf), 0.05, rtol=0.1, err_msg=name)
            assert "_N" not in name or not np.allclose(leaf[0], leaf[1]), name


def test_a_token_changes_nothing_before_it():
    model, batch = make(), make_batch(2, 12)
    before = hidden(model, batch)
    for t in (0, 5, 11):
        changed = batch | {"inputs_BL": batch["inputs_BL"].at[:, t].add(1) % SMALL["vocabulary"]}
        after = hidden(model, changed)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.all(np.any(np.asarray(after[:, t:] != before[:, t:]), axis=-1))


def test_a_masked_row_gives_each_document_the_loss_it_has_alone():
    documents = [5, 1, 5, 5]
    model, batch = make(), make_batch(2, 16, documents=documents)
    packed, _ = losses(model, batch)
    for end, length in zip(np.cumsum(documents), documents, strict=True):
        alone = {name: array[:, end - length : end] for name, array in batch.items()} | {"segments_BL": np.ones((2, length), np.int32)}
        np.testing.assert_allclose(packed[:, end - length : end], losses(model, alone)[0], rtol=2e-5, atol=2e-5)
    unmasked = batch | {"segments_BL": np.ones((2, 16), np.int32)}
    assert not np.allclose(packed[:, 3:], losses(model, unmasked)[0][:, 3:], atol=1e-3)


def test_rope_makes_scores_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 6, 1, 8))

    def scores(shift):
        angles = layers.rope_angles(jnp.arange(6)[None] + shift, 8, 10_000.0)
        return jnp.einsum("BLHC,BMHC->BLM", layers.rotate(q, angles), layers.rotate(k, angles))

    np.testing.assert_allclose(scores(0), scores(1000), rtol=1e-3, atol=1e-3)
    angles = layers.rope_angles(jnp.arange(6)[None], 8, 10_000.0)
    np.testing.assert_allclose(jnp.linalg.norm(layers.rotate(q, angles), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(layers.rotate(q, angles)[:, 0], q[:, 0])
    # the pair (0, C/2) turns by one radian a token
    np.testing.assert_allclose(layers.rotate(q, angles)[0, 1, 0, 0], q[0, 1, 0, 0] * np.cos(1) - q[0, 1, 0, 4] * np.sin(1), rtol=1e-5)


def test_rms_norm_of_gain_one_has_unit_mean_square():
    x = 100.0 * jax.random.normal(jax.random.key(0), (3, 64))
    normed = layers.rms_norm(x, jnp.ones(64), 1e-6)
    np.testing.assert_allclose(jnp.mean(normed**2, -1), 1.0, rtol=1e-5)
    assert layers.rms_norm(x.astype(jnp.bfloat16), jnp.ones(64), 1e-6).dtype == jnp.bfloat16


def test_norms_of_huge_bfloat16_activations_do_not_overflow():
    assert np.all(np.isfinite(np.asarray(layers.rms_norm(jnp.full((2, 64), 1e18, jnp.bfloat16), jnp.ones(64), 1e-6), np.float32)))


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_logits_are_float32_and_stay_inside_the_soft_cap(softcap):
    model = make("bfloat16", logit_softcap=softcap, init_std=3.0)
    logits = model.logits(hidden(model, make_batch(2, 5)))
    assert logits.dtype == jnp.float32 and logits.shape == (2, 5, 37)
    assert (np.abs(logits).max() <= 3.0) == (softcap == 3.0)


def test_losses_are_those_of_the_logits():
    model, batch = make(logit_softcap=3.0), make_batch(2, 5)
    loss, logsumexp = losses(model, batch)
    logprobs = jax.nn.log_softmax(model.logits(hidden(model, batch)))
    np.testing.assert_allclose(loss, -jnp.take_along_axis(logprobs, batch["targets_BL"][..., None], -1)[..., 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logsumexp, jax.nn.logsumexp(model.logits(hidden(model, batch)), -1), rtol=1e-5)


def test_a_tied_model_has_one_table_and_learns_through_both_its_uses():
    model = make(tied=True)
    _, params = decoder.split(model)
    assert "head_DV" not in params
    np.testing.assert_array_equal(model.head(), params["embedding_VD"].T)
    _, gradient = gradients(model, make_batch(1, 3))
    assert np.all(np.any(np.asarray(gradient["embedding_VD"]) != 0, axis=1))  # tokens that never occur still move, as wrong answers


def test_sandwich_norm_bounds_what_a_layer_can_add():
    batch = make_batch(2, 5)
    wild = make(init_std=30.0)
    x = wild.embedding_VD[...][batch["inputs_BL"]]
    one = jax.tree.map(lambda leaf: leaf[0], decoder.split(wild)[1]["layers"])
    assert set(one["attention"]) >= {"post_norm_ND"} and set(one["feedforward"]) >= {"post_norm_ND"}
    layer = layers.Layer(config.Model(**SMALL | {"init_std": 30.0}), jnp.float32, jax.random.key(0))
    attend = lambda q, k, v, **options: (attention(q, k, v, **options), None)  # noqa: E731
    y, _ = layer(x, layers.rope_angles(batch["positions_BL"], 8, 1e4), attend, ANYWHERE)
    assert np.sqrt(np.mean((y - x) ** 2, -1)).max() <= 2.0 + 1e-3  # each sub-layer adds a vector of root mean square 1
    assert "post_norm_ND" not in decoder.split(make(sandwich_norm=False))[1]["layers"]["attention"]


def test_the_forward_pass_equals_the_formulas_written_out():
    model, batch = make(), make_batch(1, 6)
    _, p = decoder.split(model)
    norm = lambda x, gain: x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + 1e-6) * np.asarray(gain)  # noqa: E731
    x = np.asarray(p["embedding_VD"])[batch["inputs_BL"][0]]
    turn = np.arange(6)[:, None] * 10_000.0 ** (-np.arange(4) / 4)

    def rope(x):  # [L, C]
        a, b = x[:, :4], x[:, 4:]
        return np.concatenate([a * np.cos(turn) - b * np.sin(turn), b * np.cos(turn) + a * np.sin(turn)], -1)

    for n in range(2):
        w = {name: np.asarray(leaf[n]) for name, leaf in p["layers"]["attention"].items()}
        a, out = norm(x, w["norm_ND"]), 0.0
        for h in range(4):
            q = rope(norm(a @ w["query_NDHC"][:, h], w["query_norm_NC"]))
            k = rope(norm(a @ w["key_NDKC"][:, h // 2], w["key_norm_NC"]))
            scores = np.where(np.tri(6), q @ k.T / np.sqrt(8), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out += weights / weights.sum(-1, keepdims=True) @ (a @ w["value_NDKC"][:, h // 2]) @ w["out_NHCD"][h]
        x = x + norm(out, w["post_norm_ND"])
        w = {name: np.asarray(leaf[n]) for name, leaf in p["layers"]["feedforward"].items()}
        a = norm(x, w["norm_ND"])
        gate = a @ w["gate_NDF"]
        x = x + norm((gate / (1 + np.exp(-gate)) * (a @ w["up_NDF"])) @ w["down_NFD"], w["post_norm_ND"])
    np.testing.assert_allclose(hidden(model, batch)[0], norm(x, p["norm_D"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remat", [dict(remat="full"), dict(remat="names"), dict(remat="names", remat_names=config_check.REMAT_NAMES)])
def test_rematerialisation_changes_no_gradient(remat):
    batch = make_batch(2, 9)
    value, gradient = gradients(make(**remat), batch)
    plain_value, plain = gradients(make(), batch)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    assert_trees_close(gradient, plain, 1e-4)


def test_rematerialisation_saves_memory_in_the_order_it_promises():
    batch = make_batch(4, 128)

    def temporaries(**changes):
        graphdef, params = decoder.abstract(config.Model(**SMALL | dict(layers=8) | changes), config.Precision())
        step = jax.grad(lambda params: token_losses(decoder.merge(graphdef, params), batch)[0].mean())
        return jax.jit(step).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(remat="full") < temporaries(remat="names") < temporaries(remat="none")


def test_bfloat16_stays_close_to_float32():
    batch = make_batch(2, 9)
    value, gradient = gradients(make("bfloat16"), batch)
    want_value, want = gradients(make(), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(value, want_value, rtol=2e-2)
    flat, flat_want = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (gradient, want))
    assert flat @ flat_want / np.linalg.norm(flat) / np.linalg.norm(flat_want) > 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(remat="some"), "model.remat: found 'some', must be none, full or names"),
        (dict(remat="names", remat_names=("querry",)), "model.remat_names: found 'querry', must be among attention_in, query"),
    ],
)
def test_a_remat_mode_or_name_that_does_not_exist_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
