"""The arithmetic of the studies of sampling, of metric weights and of loss differences, on losses that are made up."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import normalise, split
from kaiyuan_jax.evaluation.heldout import DocumentSums
from kaiyuan_jax.experiments import loss_difference, metric_weights, mixture_study, proxies, sampling_study
from kaiyuan_jax.report import selection


def sums(loss, documents=20, seed=0):
    """Documents of 10 tokens that lose `loss` nats per token on average."""
    noise = np.random.default_rng(seed).normal(0, 0.1, documents)
    nats = 10 * (loss + noise - noise.mean())
    tokens, quantile = np.full(documents, 10), (np.arange(documents) + 0.5) / documents
    return DocumentSums(np.arange(documents), quantile, nats, tokens, nats / np.log(2), 3 * tokens)


def base(tokens=2000, **schedule):
    sources = [config.Source(name=name, path=f"stores/{name}/train", heldout=f"stores/{name}/heldout") for name in "abc"]
    phases = [config.Phase(tokens=tokens, uses=[config.Use(source="a", share=0.8), config.Use(source="b", share=0.2)])]
    data = config.Data(sources=sources, phases=phases, sequence_length=10, batch_size=4)
    return config.Experiment(data=data, schedule=config.Schedule(kind="constant", **schedule))


def test_losses_are_kept_and_read_back(tmp_path):
    found = {"m1": {"a": sums(2.0), "b": sums(3.0)}, "m2": {"a": sums(1.0), "b": sums(4.0, seed=1)}}
    proxies.save(tmp_path / "x.npz", found)
    again = proxies.load(tmp_path / "x.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"] and list(again) == ["m1", "m2"]
    np.testing.assert_array_equal(again["m2"]["b"].nats, found["m2"]["b"].nats)
    assert proxies.mean_loss(again["m1"]) == pytest.approx(2.5)


def test_a_difference_is_paired_by_seed_and_by_document():
    first, second = [sums(2.0 + seed, seed=seed) for seed in range(3)], [sums(1.9 + seed, seed=seed) for seed in range(3)]
    found = proxies.compare(first, second)
    assert found["mean"] == pytest.approx(0.1)
    for ends in (found["interval"], found["documents"]):  # what varies between seeds and between documents is common to both
        np.testing.assert_allclose(ends, 0.1, atol=1e-9)


def test_the_mixture_of_made_up_losses_is_proposed_and_reported(tmp_path):
    study = mixture_study.Study(base(), fitted=24, unseen=6, seeds=2, rows=8, folder=tmp_path)
    mixture_study.check(study)
    gains = {"a": 0.6, "b": 0.3, "c": 0.1}

    def losses_of(mixture):  # on each held-out source, what its own share gives
        return {name: sums(3 - 3 * gains[name] * np.log(share + 0.01)) for name, share in zip("abc", mixture, strict=True)}

    results = mixture_study.regress(study, {f"mixture_{n}": losses_of(row) for n, row in enumerate(study.mixtures())})
    assert results["chosen"] == "logarithmic" and results["models"]["logarithmic"]["unseen"]["mean_absolute"] < 0.01
    np.testing.assert_allclose(results["proposed"], [0.6, 0.3, 0.1], atol=0.04)
    contenders = study.contenders(results["proposed"])
    assert contenders["config"] == pytest.approx([0.8, 0.2, 0.0], abs=0.01)
    confirmed = {f"{name}_seed{seed}": losses_of(row) for name, row in contenders.items() for seed in range(2)}
    results["confirmed"] = mixture_study.confirm(study, confirmed, contenders)
    assert results["confirmed"]["proposed"]["less_equal"]["mean"] < 0
    (tmp_path / "results.json").write_text(json.dumps(results | {"tokens": 2000}))
    said = selection.mixture(tmp_path)
    assert "the proposed mixture is better than equal shares here" in said
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "mixture.md", "mixture.png"}


def test_what_no_mixture_can_be_made_of_is_refused(tmp_path):
    settings = dict(fitted=24, unseen=6, seeds=2, rows=8, folder=tmp_path)
    alone = base()
    alone.data.sources = alone.data.sources[:1]
    for made, message in ((alone, "found 1, a mixture needs at least two"), (base(tokens=0), r"phases\[0\].tokens: found 0")):
        with pytest.raises(config.ConfigError, match=message):
            mixture_study.check(mixture_study.Study(made, **settings))
    with pytest.raises(config.UserError, match="--unseen: found 6 of 8 proxies, must leave at least 4"):
        mixture_study.check(mixture_study.Study(base(), **settings | dict(fitted=2)))


def test_settings_run_from_reading_all_alike_to_the_best_alone():
    assert sampling_study.settings([0.5, 2.0]) == ["all alike", "temperature 2", "temperature 0.5", "best alone"]
    made = sampling_study.experiment(base(), "a", "train", "heldout", "temperature 0.5", seed=3)
    (use,) = made.data.phases[0].uses
    assert (use.temperature, use.window, made.seed, made.data.seed) == (0.5, (0.0, 1.0), 3, 3)


@settings(max_examples=5)
@given(st.integers(2, 7), st.integers(1, 4))
def test_every_member_is_averaged_by_its_own_weights(count, members):
    random = np.random.default_rng(count)
    checkpoints = [{"w": random.normal(size=(members, 2, 3)).astype(np.float32)} for _ in range(count)]
    weights_KM = random.random((count, members))
    found = metric_weights.average(checkpoints, weights_KM)["w"]
    for member in range(members):
        expected = sum(weights_KM[k, member] * checkpoints[k]["w"][member].astype(np.float64) for k in range(count))
        np.testing.assert_allclose(found[member], expected, atol=1e-5)


def test_schemes_weigh_each_member_by_its_own_losses():
    losses_KM = np.array([[2.0, 3.0], [1.9, 3.3], [2.2, 3.1]])
    found = metric_weights.schemes([0.1], losses_KM)
    assert all(weights.shape == (3, 2) and np.allclose(weights.sum(axis=0), 1) for weights in found.values())
    assert found["best checkpoint"].argmax(axis=0).tolist() == [1, 0] and found["last checkpoint"].argmax(axis=0).tolist() == [0, 0]
    assert found["metric 0.1"][:, 1] == pytest.approx(np.exp([0, -3, -1]) / np.exp([0, -3, -1]).sum())


def test_the_half_that_chooses_and_the_half_that_judges_share_no_document():
    table = sums(2.0)
    one = DocumentSums(**(vars(table) | {"nats": np.where(table.document % 2, 10.0, 30.0)}))
    assert (metric_weights.half({"a": one}, 0), metric_weights.half({"a": one}, 1)) == (3.0, 1.0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(lambda rows: len({kind for _, kind in rows}) == 2))
def test_the_area_under_the_curve_is_the_probability_that_a_positive_scores_higher(rows):
    scores, positive = np.array([score for score, _ in rows], float), np.array([kind for _, kind in rows])
    pairs = [(one > other) + (one == other) / 2 for one in scores[positive] for other in scores[~positive]]
    assert loss_difference.area_under_curve(scores, positive) == pytest.approx(np.mean(pairs))


def test_pool_and_sample_share_no_document_and_hold_nothing_held_out(tmp_path):
    texts = {}
    for source in "ab":
        table = pa.table({"text": [f"document {number % 400} of source {source}" for number in range(440)]})  # 40 of them twice
        pq.write_table(table, tmp_path / f"{source}.parquet")
        texts[source] = str(tmp_path / f"{source}.parquet")
    pool, sample = loss_difference.divide(texts, "b", heldout=0.2, most=10_000)
    pooled, sampled = pool["text"].to_pylist(), sample["text"].to_pylist()
    assert not set(pooled) & set(sampled) and all(name.startswith("b:") for name in sample["id"].to_pylist())
    assert sum(text.endswith("a") for text in pooled) > 250 and 100 < len(sampled) < 220
    hashes = [normalise.text_hash(normalise.normalise_text(text)) for text in pooled + sampled]
    assert not split.heldout(hashes, 0.2).any() and len(hashes) == 800 - sum(
        split.heldout([normalise.text_hash(f"document {n} of source {s}") for n in range(400)], 0.2).sum() for s in "ab"
    )
    first = loss_difference.divide(texts, "b", heldout=0.2, most=90)[0]
    assert first.equals(pool.slice(0, 90)) and 15 < sum(name.startswith("b:") for name in first["id"].to_pylist()) < 45


def test_the_conditional_model_goes_on_from_the_prior_at_a_lower_rate(tmp_path):
    before = loss_difference.prior(base(tokens=1600, peak=5e-3), "plain", tmp_path / "prior")
    after = loss_difference.conditional(base(tokens=1600, peak=5e-3), before, "sample", tmp_path / "conditional")
    with pytest.raises(config.ConfigError, match=r"tokens: found 760, 19 steps of 40; must be at least 20 steps"):
        loss_difference.check(base(tokens=760, warmup=10))
    assert before.checkpoint.every == 10 and after.start == str(tmp_path / "prior")
    assert after.schedule.peak == pytest.approx(1e-3) and after.data.phases[0].tokens == 400
