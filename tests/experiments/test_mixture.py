"""The regression against refits and against laws whose best mixture is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.data import recipe
from kaiyuan_jax.experiments import mixture


def logarithmic_losses(mixtures_NS, gains_S):
    """One target that gains g_j log(r_j + d) of every source and pays for them by their share: least where g_j / (r_j + d) are equal."""
    return (3 - np.log(mixtures_NS + mixture.OFFSET) @ gains_S)[:, None]


def known_best(gains_S):
    spread = gains_S / gains_S.sum()
    return spread * (1 + len(gains_S) * mixture.OFFSET) - mixture.OFFSET


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from(sorted(mixture.FEATURES)), st.floats(1e-3, 100))
def test_the_error_of_a_proxy_left_out_is_that_of_a_fit_without_it(seed, sources, features, penalty):
    random, count = np.random.default_rng(seed), 14
    mixtures, losses = mixture.draw(np.ones(sources), count, seed), random.normal(size=(count, 3))
    whole = mixture.fit(mixtures, losses, features, [penalty])
    raw = mixture.FEATURES[features](mixtures)
    for left_out in range(count):
        kept = np.arange(count) != left_out
        # Ridge by its normal equations, the scale of features being that of the whole.
        x = raw[kept] / whole.scale_F
        middle = x.mean(axis=0)
        normal = (x - middle).T @ (x - middle) + penalty * np.eye(x.shape[1])
        slope = np.linalg.solve(normal, (x - middle).T @ (losses[kept] - losses[kept].mean(axis=0)))
        expected = losses[kept].mean(axis=0) + (raw[left_out] / whole.scale_F - middle) @ slope
        np.testing.assert_allclose(whole.left_out_NI[left_out], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gains", [(0.4, 0.3, 0.2, 0.1), (0.05, 0.9, 0.05), (1.0, 1.0)])
def test_the_best_mixture_of_a_known_law_is_found_and_its_losses_are_predicted(gains):
    gains = np.array(gains)
    mixtures = mixture.draw(np.ones(len(gains)), 40, seed=0)
    fitted = mixture.fit(mixtures, logarithmic_losses(mixtures, gains))
    unseen = mixture.draw(np.ones(len(gains)), 200, seed=1)
    np.testing.assert_allclose(fitted.predict(unseen), logarithmic_losses(unseen, gains), atol=2e-3)
    found = mixture.best(fitted, mixture.draw(np.ones(len(gains)), 50_000, seed=2), [1.0], top=50)
    np.testing.assert_allclose(found, known_best(gains), atol=0.03)


def test_the_interval_holds_the_best_mixture_and_is_wider_the_noisier_the_proxies():
    gains, candidates = np.array([0.4, 0.3, 0.2, 0.1]), mixture.draw(np.ones(4), 4000, seed=2)
    mixtures, widths = mixture.draw(np.ones(4), 48, seed=0), []
    for noise in (0.003, 0.03):
        losses = logarithmic_losses(mixtures, gains) + np.random.default_rng(5).normal(0, noise, (48, 1))
        fitted = mixture.fit(mixtures, losses)
        low, high = mixture.interval(mixtures, losses, fitted, candidates, [1.0], 20, resamples=60, seed=3)
        assert (low - 0.03 <= known_best(gains)).all() and (known_best(gains) <= high + 0.03).all()
        widths.append((high - low).mean())
    assert widths[1] > 2 * widths[0]


def test_losses_of_pure_noise_are_shrunk_to_their_mean():
    mixtures, losses = mixture.draw(np.ones(4), 30, seed=0), np.random.default_rng(1).normal(size=(30, 2))
    fitted = mixture.fit(mixtures, losses)
    spread = fitted.predict(mixture.draw(np.ones(4), 100, seed=4)).std(axis=0)
    assert fitted.penalty >= 30 and (spread < 0.3).all()


@settings(max_examples=25)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=8), st.integers(0, 99))
def test_mixtures_are_shares_of_every_source_around_the_prior(prior, seed):
    mixtures = mixture.draw(prior, 60, seed, spread=(20.0, 40.0))
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=1e-12)
    assert (mixtures > 0.9 * mixture.LEAST).all()
    np.testing.assert_allclose(mixtures.mean(axis=0), np.array(prior) / np.sum(prior), atol=0.12)


def test_a_member_reads_its_mixture_and_nothing_else_of_it_differs():
    sources = [config.Source(name=name) for name in "abc"]
    phase = config.Phase(uses=[config.Use(source=name, passes=2.0) for name in "abc"], order="ascending")
    base = config.Experiment(data=config.Data(sources=sources, phases=[phase], sequence_length=10, batch_size=4))
    made = mixture.member(base, "m", [0.5, 0.3, 0.2], tokens=1000, seed=3)
    plan = recipe.resolve(made.data, dict.fromkeys("abc", 401), dict.fromkeys("abc", True))
    assert [use.entries for use in plan.phases[0].uses] == [50, 30, 20] and plan.phases[0].order == "ascending"
    assert (made.seed, made.data.seed, base.seed, base.name) == (3, 3, 0, "experiment")


def test_too_few_proxies_are_refused():
    with pytest.raises(config.UserError, match="found 3 proxies"):
        mixture.fit(np.full((3, 2), 0.5), np.zeros((3, 1)))
