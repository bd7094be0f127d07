"""Bounds on a step, from data sheets and arithmetic."""

import math

import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models import flops
from kaiyuan_jax.plan import roofline
from kaiyuan_jax.sharding import topology

MODEL = config.Model(layers=28, width=2048, feedforward=6144, heads=16, kv_heads=8, head_size=128, vocabulary=151_936)


def slice_of(*sides):
    return [(i, j, k) for i in range(sides[0]) for j in range(sides[1]) for k in range(sides[2] if len(sides) > 2 else 1)]


@pytest.mark.parametrize(
    "name, places, speed",
    [
        ("v5e:4x4", slice_of(4, 4), 2 * 50e9),  # two sides, open: one way each
        ("v5e:16x16", slice_of(16, 16), 4 * 50e9),  # closed to rings: both ways
        ("v5e:16x16", slice_of(16, 1), 2 * 50e9),
        ("v5e:16x16", slice_of(4, 1), 50e9),  # a part of a ring is a line
        ("v5p:4x4x4", slice_of(4, 4, 4), 6 * 100e9),
        ("v6e:8x8", slice_of(8, 8), 2 * 100e9),
        ("v5e:4x4", slice_of(1, 1), math.inf),
        ("hopper:8", [(0, i) for i in range(8)], 450e9),
        ("hopper:64", [(0, 0), (1, 0)], 50e9),
    ],
)
def test_a_group_has_the_wires_of_the_sides_along_which_it_lies(name, places, speed):
    assert roofline.wires(topology.target(name), places) == pytest.approx(speed)


@pytest.mark.parametrize(
    "backward, again, products",
    [(1, False, 7), (2, False, 9), (1, True, 9), (2, True, 11)],
)
def test_attention_kernels_do_the_products_of_every_time_they_run(backward, again, products):
    kernels = {"jit(step)/jvp()/while/body/splash": 28, "jit(step)/transpose(jvp())/while/body/checkpoint/splash": 28 * backward}
    kernels |= {"jit(step)/transpose(jvp())/while/body/checkpoint/rematted_computation/splash": 28} if again else {}
    counted = 6.0 * 28 * 16 * 128 * 4096  # what the model's own count holds: 3 x 2 products
    elsewhere = {"jit(step)/jvp()/loss/kernel": 56}
    assert roofline.attention_kernel_flops(MODEL, kernels | elsewhere, 1, 4096) == pytest.approx(counted * products / 6)
    assert roofline.attention_kernel_flops(MODEL, elsewhere, 1, 4096) == 0


def test_what_takes_longest_binds_and_utilisation_counts_what_the_model_needs():
    line = roofline.Roofline(compute=2.0, memory=1.0, exchange=4.0, tokens=100.0, model=30.0, executed=40.0, peak=10.0)
    assert (line.bound, line.seconds, line.tokens_per_second) == ("exchange", 4.0, 25.0)
    assert (line.mfu, line.hfu) == (0.75, 1.0)


def test_one_row_a_chip_moves_the_optimizer_cut_over_chips_and_weights_whole():
    precision = config.Precision(compute="bfloat16")
    few, many = (roofline.memory_traffic(MODEL, precision, chips, 1, 0.0) for chips in (16, 256))
    assert few - many == pytest.approx(32 * flops.parameters(MODEL) * (1 / 16 - 1 / 256))
    assert many > 2 * 2 * 3 * flops.matrix_parameters(MODEL)
