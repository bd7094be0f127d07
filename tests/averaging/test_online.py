"""The running average inside the train state against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kaiyuan_jax.averaging import online


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_after_every_update_it_is_the_normalised_exponential_average_of_what_it_saw(decay):
    seen = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    average = online.init({"a": {"w": jnp.full(4, 1e6)}})  # where it starts must not matter
    step = jax.jit(online.update)
    for t, params in enumerate(seen):
        average = step(average, {"a": {"w": jnp.asarray(params)}}, decay, t)
        powers = np.float64(decay) ** np.arange(t, -1, -1)
        np.testing.assert_allclose(average["a"]["w"], powers @ seen[: t + 1] / powers.sum(), atol=2e-6)


def test_bfloat16_parameters_are_averaged_in_float32():
    params = {"w": jnp.asarray([1.0, 1.0078125], jnp.bfloat16)}
    average = online.init(params)
    assert average["w"].dtype == jnp.float32
    for step in range(3):
        average = online.update(average, {"w": params["w"] * step}, 0.999, step)
    assert average["w"].dtype == jnp.float32
    assert float(average["w"][0]) == pytest.approx(1.0, abs=1e-2)


def test_the_average_does_not_share_memory_with_the_parameters():
    params = {"w": jnp.arange(3.0)}
    average = online.init(params)
    jax.jit(lambda p: jax.tree.map(jnp.negative, p), donate_argnums=0)(params)
    np.testing.assert_array_equal(average["w"], [0, 1, 2])
