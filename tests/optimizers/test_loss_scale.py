import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.optimizers import loss_scale

FLOAT16 = config.Precision(compute="float16")


class Model:
    """The rule in plain Python numbers."""

    def __init__(self, precision):
        self.precision, self.scale = precision, precision.loss_scale
        self.good = self.skipped = self.nonfinite_loss = 0

    def step(self, finite, loss_finite):
        if finite:
            self.good += 1
            if self.good >= self.precision.growth_interval:
                self.good = 0
                if self.scale * self.precision.scale_factor < 2.0**128:
                    self.scale *= self.precision.scale_factor
        else:
            self.good, self.scale, self.skipped = 0, self.scale / self.precision.scale_factor, self.skipped + 1
            self.nonfinite_loss += not loss_finite


@settings(max_examples=30, deadline=None)
@given(
    outcomes=st.lists(st.sampled_from(["finite", "gradient", "loss"]), max_size=30),
    exponent=st.integers(0, 127),
    interval=st.integers(1, 9),
    factor=st.sampled_from([2.0, 4.0]),
)
def test_scale_and_counters_follow_the_rule_in_plain_numbers(outcomes, exponent, interval, factor):
    precision = config.Precision(compute="float16", loss_scale=2.0**exponent, growth_interval=interval, scale_factor=factor)
    found, model = loss_scale.init(precision), Model(precision)
    for outcome in outcomes:
        found = loss_scale.update(found, jnp.bool_(outcome == "finite"), jnp.bool_(outcome != "loss"), precision)
        model.step(outcome == "finite", outcome != "loss")
        assert float(found.scale) == model.scale and np.isfinite(found.scale)
        assert (int(found.good_steps), int(found.skipped)) == (model.good, model.skipped)
        assert int(found.nonfinite_loss) == model.nonfinite_loss
        assert bool(loss_scale.exhausted(found, precision)) == (model.scale < precision.scale_floor)


@pytest.mark.parametrize("exponent", [0, 16])
def test_skips_in_a_row_until_the_floor_are_one_more_than_the_exponent(exponent):
    precision = config.Precision(compute="float16", loss_scale=2.0**exponent)
    state, skips = loss_scale.init(precision), 0
    while not loss_scale.exhausted(state, precision):
        state, skips = loss_scale.update(state, jnp.bool_(False), jnp.bool_(False), precision), skips + 1
    assert skips == exponent + 1


def test_dtypes_are_those_that_are_saved():
    state = loss_scale.init(FLOAT16)
    after = jax.jit(lambda s: loss_scale.update(s, jnp.bool_(True), jnp.bool_(True), FLOAT16))(state)
    for one in (state, after):
        assert [leaf.dtype.name for leaf in one] == ["float32", "int32", "int32", "int32"] and all(leaf.shape == () for leaf in one)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_dtypes_with_the_range_of_float32_have_no_scale(compute):
    assert loss_scale.init(config.Precision(compute=compute)) == ()
