import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.evaluation import bootstrap


def documents(random, count):
    """Documents with a true ratio of exactly 2: lengths vary, losses of one document go up and down together."""
    weights = random.integers(5, 50, count).astype(float)
    return weights * random.normal(2.0, 0.5, count), weights


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        low, high = bootstrap.ratio_interval(*documents(random, 60), resamples=300, seed=trial)
        covered += low <= 2.0 <= high
    assert 0.90 <= covered / 400 <= 0.975


def test_treating_tokens_as_independent_would_not_cover():
    """The reason for resampling documents: with 20 equal tokens a document, token-wise intervals miss most of the time."""
    random = np.random.default_rng(1)
    by_document = by_token = 0
    for trial in range(100):
        losses = random.normal(2.0, 0.5, 30)
        tokens = np.repeat(losses, 20)
        low, high = bootstrap.ratio_interval(losses * 20, np.full(30, 20), resamples=200, seed=trial)
        by_document += low <= 2.0 <= high
        low, high = bootstrap.ratio_interval(tokens, np.ones(600), resamples=200, seed=trial)
        by_token += low <= 2.0 <= high
    assert by_document > 85
    assert by_token < 60


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.1, 10))
def test_resamples_scale_with_the_numerator_and_hold_a_constant_ratio_exactly(count, seed, factor):
    random = np.random.default_rng(seed)
    numerators, weights = documents(random, count)
    once = bootstrap.resampled_ratios(numerators, weights, resamples=50, seed=seed)
    assert np.allclose(bootstrap.resampled_ratios(numerators * factor, weights, resamples=50, seed=seed), once * factor)
    assert np.allclose(bootstrap.resampled_ratios(weights * 3.5, weights, resamples=50, seed=seed), 3.5)


def test_pairs_share_their_draws_so_that_a_constant_difference_has_no_width():
    numerators, weights = documents(np.random.default_rng(2), 40)
    pair = bootstrap.resampled_ratios(np.stack([numerators, numerators + 0.25 * weights]), weights, resamples=200, seed=3)
    assert np.allclose(pair[1] - pair[0], 0.25)
    alone = bootstrap.resampled_ratios(numerators + 0.25 * weights, weights, resamples=200, seed=3)
    assert np.allclose(alone, pair[1], rtol=1e-12)


def test_a_key_draws_anew_and_a_seed_repeats():
    table = documents(np.random.default_rng(4), 30)
    first = bootstrap.resampled_ratios(*table, resamples=20, seed=5, key="math")
    assert np.array_equal(first, bootstrap.resampled_ratios(*table, resamples=20, seed=5, key="math"))
    assert not np.array_equal(first, bootstrap.resampled_ratios(*table, resamples=20, seed=5, key="code"))
    assert not np.array_equal(first, bootstrap.resampled_ratios(*table, resamples=20, seed=6, key="math"))


def test_chunks_do_not_change_the_draws(monkeypatch):
    table = documents(np.random.default_rng(4), 30)
    whole = bootstrap.resampled_ratios(*table, resamples=64, seed=5)
    monkeypatch.setattr(bootstrap, "CHUNK", 90)
    assert np.allclose(whole, bootstrap.resampled_ratios(*table, resamples=64, seed=5))


def test_mean_of_sources_gives_every_source_the_same_weight():
    tables = {"large": (np.full(100, 10.0), np.full(100, 10.0)), "small": (np.full(4, 9.0), np.full(4, 3.0))}
    estimate, samples = bootstrap.mean_of_sources(tables, resamples=50, seed=0)
    assert estimate == pytest.approx(2.0)
    assert np.allclose(samples, 2.0)


def test_one_document_has_no_interval_and_none_is_an_error():
    assert bootstrap.ratio_interval([3.0], [2.0], resamples=10, seed=0) is None
    assert bootstrap.ratio_interval([3.0, 0.0], [2.0, 0.0], resamples=10, seed=0) is None
    with pytest.raises(ValueError, match="0 documents"):
        bootstrap.resampled_ratios([], [], resamples=10, seed=0)
