"""The study of two-model scores: find the documents of one source in a pool of several, by the losses of two small models alone.

    conditional loss reduction    loss under a prior less that under the same model, trained on a little of the target (CoLoR-Filter,
                                  arXiv 2406.10670): text that looks like the target comes last in the store
    difference sampling           loss under a weak model less that under a strong one (MiniPLM, arXiv 2410.17215): text that more training
                                  learns, and neither noise nor what is easy. Here the two are checkpoints of one run

Both are `launch/score_documents.py --model=A --minus=B` and a store sorted by `difference`; a run then takes a window of it, or samples it
with a temperature. Where each document comes from is known here and kept from the models, so the scores are judged by it too.

The pool and the target's sample are disjoint, and neither holds what the held-out stores hold.
"""

import copy
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax import config
from kaiyuan_jax.data import order, recipe
from kaiyuan_jax.data.prepare import normalise, split
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.experiments import analysis, proxies, sampling_study

SAMPLE = 0.5  # share of the target's documents that the conditional model may see
CONDITIONAL_TOKENS, CONDITIONAL_RATE = 0.25, 0.2  # of the prior's budget and of its peak rate
WARMUP = 4  # steps of the conditional model
RANDOM = "at random"


def divide(texts: Mapping[str, str], target: str, heldout: float, most: int) -> tuple[pa.Table, pa.Table]:
    """(pool, target sample), columns id and text; ids are SOURCE:NUMBER. texts: source -> Parquet file with a column text.

    heldout: the share of documents that the held-out stores took by hash, which are left out. The pool has at most `most` documents, those
    with the smallest hashes.
    """
    pool, sample, seen = [], [], set()
    for source, path in texts.items():
        documents = pq.read_table(path, columns=["text"])["text"].to_pylist()
        hashes = [normalise.text_hash(normalise.normalise_text(text)) for text in documents]
        for number, (text, digest, out) in enumerate(zip(documents, hashes, split.heldout(hashes, heldout), strict=True)):
            # Two hashes, since the documents that the sample leaves are not the first of all by the one that chose it.
            side, key = (hashlib.blake2b(digest, digest_size=8, person=person).digest() for person in (b"sample", b"order"))
            if not out and key not in seen:  # the first of equal texts
                seen.add(key)
                chosen = source == target and int.from_bytes(side, "big") / 2**64 < SAMPLE
                (sample if chosen else pool).append((key, f"{source}:{number}", text))
    pool = sorted(pool)[:most]
    if not 0 < sum(name.startswith(f"{target}:") for _, name, _ in pool) < len(pool) or not sample:
        raise config.UserError(f"the pool of {len(pool)} documents has none or only {target}; take more documents or another target")
    return _table(pool), _table(sorted(sample))


def _table(rows: Sequence[tuple]) -> pa.Table:
    return pa.table({"id": [name for _, name, _ in rows], "text": [text for _, _, text in rows]})


def check(base: config.Experiment) -> None:
    """Raises ConfigError for a budget that is too short for the prior, or a quarter of it for the conditional model."""
    step = base.data.batch_size * base.data.sequence_length
    steps, least = base.data.phases[0].tokens // step, max(base.schedule.warmup + 1, round((WARMUP + 1) / CONDITIONAL_TOKENS))
    if steps < least:
        raise config.ConfigError(
            f"config.data.phases[0].tokens: found {base.data.phases[0].tokens:,}, {steps} steps of {step:,}; must be at least {least} steps"
        )


def prior(base: config.Experiment, store: str, folder: Path) -> config.Experiment:
    """The base experiment on the pool; its first checkpoint, at a quarter of the run, is the weak model of difference sampling."""
    made = _on(base, "prior", store, base.data.phases[0].tokens, seed=0)
    steps = made.data.phases[0].tokens // (made.data.batch_size * made.data.sequence_length)
    made.output, made.checkpoint = str(folder), config.Checkpoint(every=max(1, steps // 4), keep=4)
    return made


def conditional(base: config.Experiment, before: config.Experiment, store: str, folder: Path) -> config.Experiment:
    """The prior, trained on with the target's sample at a lower rate."""
    made = _on(base, "conditional", store, round(CONDITIONAL_TOKENS * base.data.phases[0].tokens), seed=0)
    made.output, made.start = str(folder), before.folder
    made.schedule = config.Schedule(kind="constant", peak=CONDITIONAL_RATE * base.schedule.peak, warmup=WARMUP)
    return made


def members(base: config.Experiment, plain: str, stores: Mapping[str, str], temperature: float, seeds: int) -> dict[str, list]:
    """Setting -> its runs, one a seed; stores: score -> the pool sorted by it, of which the best or a sample is read."""
    tokens, found = base.data.phases[0].tokens, {}
    found[RANDOM] = [_on(base, f"random_seed{seed}", plain, tokens, seed) for seed in range(seeds)]
    for score, store in stores.items():
        best = [sampling_study.experiment(base, score.replace(" ", "_"), store, "", sampling_study.BEST, seed) for seed in range(seeds)]
        found[f"{score}, best"] = best
    score, store = next(iter(stores.items()))
    for seed in range(seeds):
        made = _on(base, f"{score.replace(' ', '_')}_sampled_seed{seed}", store, tokens, seed)
        made.data.phases[0].uses[0].temperature = temperature
        found.setdefault(f"{score}, temperature {temperature:g}", []).append(made)
    return found


def _on(base: config.Experiment, name: str, store: str, tokens: int, seed: int) -> config.Experiment:
    base = copy.deepcopy(base)
    phase = config.Phase(name="pool", uses=[config.Use(source="pool", passes=1.0)], tokens=tokens)
    data = dataclasses.replace(base.data, sources=[config.Source(name="pool", path=store)], phases=[phase])
    return proxies.with_seed(base, name, seed, data)


def target_share(made: config.Experiment, target: str) -> float:
    """Share of the sequences that a run reads whose first token is of the target source."""
    (source,) = made.data.sources
    store, plan = open_store(source.path), recipe.resolve(made.data, *recipe.facts_of(made.data))
    sequences = order.rows(plan, np.arange(plan.positions)).sequence
    of_target = np.array([name.startswith(f"{target}:") for name in store.documents.column("id").to_pylist()])
    return float(of_target[store.document_at(sequences * made.data.sequence_length)].mean())


def judged(scores: pa.Table, target: str) -> dict:
    """How well a score tells the target's documents from the others: the area under the curve, and their share in its best tenth."""
    difference = scores["difference"].to_numpy()
    of_target = np.array([name.startswith(f"{target}:") for name in scores["id"].to_pylist()])
    known = np.isfinite(difference)
    difference, of_target = difference[known], of_target[known]
    best = np.argsort(-difference, kind="stable")[: max(1, len(difference) // 10)]
    return {"auc": area_under_curve(difference, of_target), "best_tenth": float(of_target[best].mean())}


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive document scores above a negative one, ties counting half."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # the mean rank of equal scores
    positives = int(positive.sum())
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * (len(scores) - positives)))


def collect(found: proxies.Losses, made: Mapping[str, Sequence[config.Experiment]], target: str) -> dict:
    """Losses on the target's held-out text and, as a mean, on that of the others, and their differences to reading at random."""
    rows, losses = {}, {}
    for setting, own in made.items():
        of_target = [proxies.loss(found[one.name][target]) for one in own]
        others = [proxies.mean_loss({source: sums for source, sums in found[one.name].items() if source != target}) for one in own]
        losses[setting] = of_target, others
        rows[setting] = {
            "target_share": target_share(own[0], target),
            "target": analysis.spread(of_target),
            "others": analysis.spread(others),
            "target_difference": None if setting == RANDOM else analysis.spread(np.subtract(of_target, losses[RANDOM][0])),
            "others_difference": None if setting == RANDOM else analysis.spread(np.subtract(others, losses[RANDOM][1])),
        }
    return rows
