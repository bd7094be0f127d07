"""The running average inside the train state against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.averaging import offline, online, weights


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


KINDS = st.sampled_from(["sma", "ema", "ema_seeded", "ema_powers", "wma"])


@settings(deadline=None)  # the first example compiles
@given(KINDS, st.integers(1, 9), st.integers(1, 5), st.integers(0, 20))
def test_a_window_taken_up_point_by_point_is_the_offline_average_of_its_points(kind, last, every, more):
    averaging = config.Averaging(kind=kind, last=last, online_every=every)
    steps = every * (last - 1) + 1 + more
    _matches_offline(averaging, steps)


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8).filter(lambda whole: sum(whole) != 0))
def test_any_weights_may_be_given_also_such_that_cancel_on_the_way(whole):
    vector = tuple(one / sum(whole) for one in whole)
    _matches_offline(config.Averaging(kind="weights", last=len(vector), weights=vector, online_every=2), 2 * len(vector))


def _matches_offline(averaging, steps):
    online.check(averaging, steps)
    window = online.window(averaging, steps)
    assert window.points[-1] == steps and window.points[0] >= 1
    seen = np.random.default_rng(steps).normal(size=(steps + 1, 3)).astype(np.float32)  # row s: the weights after step s
    average = {"w": np.full(3, 7, np.float32)}  # where it starts must not matter
    for step in range(1, steps + 1):
        before = average
        average = take_up(average, {"w": seen[step]}, window.points, window.keep, window.share, step)
        if step not in window.points:
            np.testing.assert_array_equal(average["w"], before["w"])
        elif window.holds(step):  # an average already: of the points so far, by their weights
            weights_K = weights.weights(averaging)[::-1][: np.searchsorted(window.points, step) + 1]
            expected = weights_K @ seen[window.points[: weights_K.size]].astype(np.float64) / weights_K.sum()
            np.testing.assert_allclose(average["w"], expected, atol=1e-4 * np.abs(weights_K).sum() / abs(weights_K.sum()))
    readers = [lambda _, at=at: seen[at] for at in window.points[::-1]]
    offline_average = offline.average(readers, weights.weights(averaging), ["w"])["w"]
    np.testing.assert_allclose(average["w"], offline_average, atol=2e-6 * np.abs(weights.weights(averaging)).sum())


@jax.jit
def take_up(average, params, points, keep, share, step):
    return online.take_up(average, params, online.Window(points, keep, share, None), step)


def test_a_window_longer_than_the_run_is_refused():
    online.check(config.Averaging(kind="sma", last=5, online_every=4), 17)
    with pytest.raises(
        config.ConfigError, match="online_every: found 4, the 5 points of the average begin at step 0 of 16; must be at most 3"
    ):
        online.check(config.Averaging(kind="sma", last=5, online_every=4), 16)
