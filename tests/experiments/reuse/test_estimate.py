"""E of runs: known reuse is found again, its band holds it, and what both sides share cancels."""

import numpy as np
import pytest

from kaiyuan_jax.data.reuse import worth
from kaiyuan_jax.experiments.reuse import estimate

FRESH = (100, 200, 400)
TOKENS = 100 * np.array([1, 2, 3, 4, 6, 8, 12, 16])
DECAY = {100: 2.0, 200: 4.0, 400: 8.0}


def tables(noise: float, seeds: int = 3, documents: int = 60):
    """Documents of 50 tokens whose loss is 2 n^-0.3 of the effective tokens, times what is hard about the document."""
    random = np.random.default_rng(0)
    found = {}
    for source in ("one", "two"):
        hard_D = np.exp(0.3 * random.standard_normal(documents))
        effective_FP = np.array([TOKENS, *(n * np.array([worth(t / n, DECAY[n]) for t in TOKENS]) for n in FRESH)])
        of_seed = np.exp(noise * random.standard_normal((seeds, len(FRESH) + 1, TOKENS.size)))
        found[source] = 50 * of_seed[..., None] * 2 * effective_FP[None, :, :, None] ** -0.3 * hard_D, np.full(documents, 50)
    return found


@pytest.fixture(scope="module")
def exact():
    return estimate.summary(estimate.losses(tables(0.0), TOKENS, 40), FRESH)


def test_known_reuse_is_found_again(exact):
    for size in exact["sizes"]:
        n = size["fresh"]
        assert size["epochs"] == [t // n for t in TOKENS.tolist() if t % n == 0]
        assert size["reuse"] == pytest.approx([worth(k, DECAY[n]) for k in size["epochs"]], rel=5e-3)
        assert size["decay"]["value"] == pytest.approx(DECAY[n], rel=0.03)
        assert size["law"] == [worth(k) for k in size["epochs"]]


def test_documents_drawn_again_for_all_runs_at_once_cancel(exact):
    """Every run finds the same documents hard by the same factor, so E does not depend on which are drawn."""
    for size in exact["sizes"]:
        for value, (low, high) in zip(size["reuse"], size["bands"], strict=True):
            assert low == pytest.approx(value, rel=1e-2) and high == pytest.approx(value, rel=1e-2)


def test_bands_hold_the_truth_and_widen_with_noise_between_seeds():
    noisy = estimate.summary(estimate.losses(tables(0.01), TOKENS, 200), FRESH)
    held = []
    for size in noisy["sizes"]:
        truth = [worth(k, DECAY[size["fresh"]]) for k in size["epochs"]]
        held += [low <= value <= high for value, (low, high) in zip(truth, size["bands"], strict=True)]
    assert np.mean(held) > 0.6
    assert all(high > low for size in noisy["sizes"] for low, high in size["bands"][1:])


def test_the_largest_reuse_and_the_trend_over_sizes(exact):
    most = [size["most"]["value"] for size in exact["sizes"]]
    assert most == pytest.approx([worth(16, 2.0), worth(8, 4.0), worth(4, 8.0)], rel=5e-3)
    at_four = [worth(4, DECAY[n]) for n in FRESH]  # 400 fresh tokens are read 4 times
    assert exact["trend"]["epochs"] == 4
    assert exact["trend"]["value"] == pytest.approx(np.polyfit(np.log(FRESH), np.log(at_four), 1)[0], rel=0.02)


def test_the_trend_is_after_epochs_that_every_size_was_evaluated_at():
    tokens, fresh = 100 * np.array([1, 2, 3, 4, 6, 8, 12, 14]), (100, 200)  # 14 epochs of 100 tokens, 7 of 200, which 100 were not at
    samples = np.array([[tokens, *([n * worth(t / n) for t in tokens] for n in fresh)]], np.float64)
    losses = 2 * samples**-0.3
    found = estimate.summary(estimate.Losses(tokens, losses, np.repeat(losses[..., None], 3, axis=-1)), fresh)
    assert found["trend"]["epochs"] == 6 and found["trend"]["value"] == pytest.approx(0, abs=0.02)
    apart = 100 * np.array([2, 3])  # 100 tokens after 2 and 3 epochs, 200 after 1
    losses = 2 * np.ones((1, 3, 2)) * np.array([2.0, 3.0]) ** -0.3
    found = estimate.summary(estimate.Losses(apart, losses, losses[..., None]), fresh)
    assert found["trend"] == {"epochs": None, "value": None, "band": [None, None]}


def test_a_reuse_that_falls_again_is_fitted_up_to_its_largest():
    epochs = np.array([1, 2, 4, 8, 16])
    reuse = np.array([worth(k, 3.0) for k in epochs])
    fallen = np.where(epochs > 8, 0.5, reuse)
    assert estimate.fit_decay(epochs, fallen) == pytest.approx(3.0, rel=1e-2)


def test_what_is_not_known_is_null():
    measured = estimate.losses(tables(0.0), TOKENS, 5)
    measured.found_SFP[:, 1, [4, 7]] = 1e-6  # lower than one pass ever gets
    measured.found_SFP[:, 1, 3] = 1e-6
    found = estimate.summary(measured, FRESH)
    assert found["sizes"][0]["reuse"][-1] is None and found["sizes"][0]["most"]["value"] is None and found["trend"]["value"] is None
