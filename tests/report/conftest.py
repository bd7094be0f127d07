"""Run folders with chosen numbers, written by the functions that write real ones."""

import json
import zlib

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.evaluation import choice, heldout, suite
from kaiyuan_jax.training import checkpoint

SOURCES = ("prose", "code", "math", "chinese")
LEVELS = {"prose": 2.0, "code": 1.6, "math": 1.8, "chinese": 2.6}
STEPS, EVERY = 300, 10


def experiment(name, order="uniform", kind="wsd", end=1e-5, average="none", seed=0) -> config.Experiment:
    return config.Experiment(
        name=name,
        seed=seed,
        model=config.Model(vocabulary=2048),
        data=config.Data(
            sources=[config.Source(name=s, path=f"stores/{s}/train", heldout=f"stores/{s}/heldout") for s in SOURCES],
            phases=[config.Phase(order=order, uses=[config.Use(source=s) for s in SOURCES], tokens=STEPS * 16 * 128)],
            batch_size=16,
            seed=seed,
        ),
        schedule=config.Schedule(kind=kind, end=end, warmup=20, decay=0.3),
        checkpoint=config.Checkpoint(every=10, keep=6),
        averaging=config.Averaging(kind=average),
    )


def metrics(made: config.Experiment, random) -> list[dict]:
    order, schedule, lines = made.data.phases[0].order, made.schedule, []
    for step in range(EVERY, STEPS + 1, EVERY):
        decayed = max(0.0, (step - 0.7 * STEPS) / (0.3 * STEPS))
        rate = schedule.peak - (schedule.peak - schedule.end) * np.sqrt(decayed)
        if schedule.kind == "cosine":
            rate = schedule.end + (schedule.peak - schedule.end) * (1 + np.cos(np.pi * step / STEPS)) / 2
        line = {"step": step, "loss": 0.0, "learning_rate": rate * min(1, step / 20), "tokens_per_second": 8000.0, "seconds": step * 0.2}
        shares = random.dirichlet([300, 300, 200, 200]) if order == "uniform" else np.array([0.3, 0.3, 0.2, 0.2])
        for source, share in zip(SOURCES, shares, strict=True):
            line[f"mixture/{source}"] = share
            line[f"quantile/{source}"] = step / STEPS if order == "ascending" else random.normal(0.5, 0.05)
            line[f"loss/{source}"] = LEVELS[source] + 5 * np.exp(-step / 40) + random.normal(0, 0.05)
            line["loss"] += share * line[f"loss/{source}"]
        lines.append(line)
        if step % 50 == 0:
            held = {f"heldout/{s}": LEVELS[s] + 5 * np.exp(-step / 40) + random.normal(0, 0.01) for s in SOURCES}
            lines.append({"step": step} | held | {"heldout/mean": float(np.mean(list(held.values())))})
    return lines


def evaluation(name: str, shift: float, accuracy: float, documents=80) -> suite.Evaluation:
    """Bits per byte of every source raised by exactly `shift`; document by document with a little noise of its own."""
    base, own = np.random.default_rng(1), np.random.default_rng(zlib.crc32(f"{name} {shift}".encode()))
    sums, answers = {}, {}
    for source in SOURCES:
        size = base.integers(200, 2000, documents)
        noise = own.normal(0, 0.01, documents)
        noise -= (noise * size).sum() / size.sum()
        bits = size * (base.normal(LEVELS[source], 0.3, documents) + shift + noise)
        quantile = (np.arange(documents) + 0.5) / documents
        tokens = size // 3
        sums[source] = heldout.DocumentSums(np.arange(documents), quantile, bits * np.log(2), tokens, bits, size)
        right = (np.arange(60) < round(accuracy * 60)).astype(float)
        answers[source] = choice.Answers(np.arange(60), right, np.full(60, 200.0), np.full(60, 100))
    draw = dict(resamples=200)
    result = {
        "model": name,
        "step": STEPS,
        "heldout": {s: heldout.summary(t, quantiles=5, scored=s != "chinese", source=s, **draw) for s, t in sums.items()},
        "mean": heldout.mean_summary(sums, **draw),
        "choice": {s: choice.summary(t, asked_for=100, choices=4, source=s, **draw) for s, t in answers.items()},
        "samples": [
            {"source": "prose", "prompt": "Once upon a <b>time", "text": " there was & is a test"},
            {"source": "chinese", "prompt": "学而时习之", "text": "，不亦说乎"},
        ],
    }
    result["choice"]["mean"] = choice.mean_summary(answers, choices=4, **draw)
    arrays = {f"heldout/{s}/{f}": v for s, t in sums.items() for f, v in vars(t).items()}
    return suite.Evaluation(result, arrays)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """make_run(name, shift, order=..., average_shift=None, ...) -> folder."""
    return lambda name, shift, **options: write_run(tmp_path_factory.mktemp("runs") / name, shift, **options)


def write_run(folder, shift, *, average_shift=None, accuracy=0.4, seed=0, evaluated=True, **recipe):
    folder.mkdir(parents=True)
    made = experiment(folder.name, seed=seed, **recipe)
    (folder / "config.json").write_text(config.to_json(made))
    lines = metrics(made, np.random.default_rng(seed))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if evaluated:
        suite.write(folder / "evaluation", evaluation(f"checkpoint_{STEPS}", shift, accuracy))
        if average_shift is not None:
            suite.write(folder / "evaluation", evaluation("average", average_shift, accuracy))
            facts = {"steps": [300, 290, 280, 270, 260, 250], "step": STEPS, "averaging": {"kind": "ema"}}
            checkpoint.save_parameters(folder / "averages" / "average", {"norm_D": np.ones(2)}, facts)
    return folder


@pytest.fixture(scope="session")
def quickstart(make_run):
    """Six runs like those of the quickstart: four recipes, two of them with a second seed."""
    moderate = dict(order="ascending", end=1e-3, average="ema")
    return [
        make_run("uniform_cosine", 0.010, kind="cosine", average_shift=0.012),
        make_run("uniform_wsd", 0.000, average_shift=0.001),
        make_run("ascending_wsd", 0.020, order="ascending", average_shift=0.019),
        make_run("ascending_moderate", 0.005, average_shift=-0.030, accuracy=0.5, **moderate),
        make_run("uniform_wsd_seed1", 0.006, seed=1, average_shift=0.006),
        make_run("ascending_moderate_seed1", 0.002, average_shift=-0.034, seed=1, **moderate),
    ]
