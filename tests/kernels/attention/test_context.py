"""Attention of rows whose positions are cut over devices, held to the definition on whole rows."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.kernels.attention import api, context, reference
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh
from tests.kernels.attention.cases import assert_equal, tensors, value_and_gradients


def place_of(n: int, tensor: int = 1):
    return rules.placement(make_mesh(config.Mesh(data=1, context=n, tensor=tensor), jax.devices()[: n * tensor]))


def in_order(function, L: int, n: int):
    """A function of whole rows through one whose arrays stand in the order of the devices."""
    order = context.zigzag(L, n)
    return lambda *arrays: function(*(x[:, order] for x in arrays))[:, np.argsort(order)]


@pytest.mark.parametrize(
    "n, tensor, K, masked, softcap, window, dtype",
    [(2, 2, 2, True, 0.0, 0, "float32"), (4, 1, 1, False, 2.0, 6, "float32"), (2, 1, 2, True, 0.0, 0, "bfloat16")],
)
def test_value_and_gradients_equal_the_definition_on_whole_rows(n, tensor, K, masked, softcap, window, dtype):
    L, H = 32, 4
    q, k, v, segments = tensors(n, 2, L, H, K, 8, dtype)
    segments = segments if masked else None
    options = dict(softcap=softcap, window=window)
    here = None if segments is None else segments[:, context.zigzag(L, n)]
    cut = functools.partial(api.attention, segments_BL=here, place=place_of(n, tensor), **options)
    got = value_and_gradients(in_order(cut, L, n), q, k, v)
    assert_equal(got, value_and_gradients(lambda *x: reference.attention(*x, segments_BL=segments, **options), q, k, v), dtype)


@given(st.integers(1, 16), st.integers(1, 8))
def test_every_device_holds_as_much_of_a_row_and_sees_as_many_keys_as_any_other(n, size):
    order = context.zigzag(2 * n * size, n).reshape(n, -1)
    assert sorted(order.ravel().tolist()) == list(range(2 * n * size))
    seen = (order + 1).sum(axis=1)  # of every query those up to itself
    assert len(set(seen.tolist())) == 1


def test_rows_that_do_not_divide_and_kernels_that_take_whole_rows_are_refused():
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        context.zigzag(12, 4)
    q, k, v, _ = tensors(0, 1, 8, 2, 2, 8)
    with pytest.raises(config.UserError, match="config.kernels.attention: found 'pallas_tpu' with config.mesh.context=2"):
        api.attention(q, k, v, place=place_of(2), implementation="pallas_tpu")
