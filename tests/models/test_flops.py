"""Parameters and operations by arithmetic agree with the model and with published figures."""

import math

import jax
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder, flops

KAIYUAN = config.Model(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("norms", [(True, True), (True, False), (False, True)])
def test_parameters_by_arithmetic_equal_those_of_the_model(tied, norms):
    model = config.Model(layers=3, width=24, heads=6, kv_heads=2, head_size=4, tied=tied, qk_norm=norms[0], sandwich_norm=norms[1])
    _, params = decoder.abstract(model, config.Precision())
    assert flops.parameters(model) == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def test_the_published_shape_costs_11_7_gflop_a_token_at_4096():
    assert flops.parameters(KAIYUAN) == 2_031_854_592
    assert round(flops.per_token(KAIYUAN, 4096) / 1e9, 1) == 11.7


def test_attention_is_the_only_part_that_grows_with_the_row():
    growth = flops.per_token(KAIYUAN, 8192) - flops.per_token(KAIYUAN, 4096)
    assert growth == 3 * (2 * 2 * 16 * 128 * 4096 / 2) * 28
