"""Three members that differ in whatever members may differ in, trained together on two devices, once for all tests."""

import dataclasses

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments import population

STEPS, ROWS, LENGTH = 12, 4, 16


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population_stores")
    tokenizer = tokenizers.train(["the cat sat on the mat"], 270)
    for number, name in enumerate(("code", "prose")):
        for part, documents in (("train", 120), ("heldout", 20)):
            random = np.random.default_rng([number, documents])
            texts = [(f"d{i}", i / documents, 60, (np.cumsum(random.integers(1, 4, 30)) + 9 * number) % 255 + 1) for i in range(documents)]
            write_store(folder / name / part, documents=texts, tokenizer_json=tokenizer.to_str(), vocabulary=270, eod=0)
    return folder


@pytest.fixture(scope="session")
def member(stores):
    """member(name, order=, share=, **fields of the experiment) -> Experiment of 12 steps."""

    def make(name="a", order="uniform", share=0.5, data_seed=0, weight_decay=0.1, **fields):
        uses = [config.Use(source="code", share=share), config.Use(source="prose", share=1 - share)]
        settings = dict(
            name=name,
            model=config.Model(layers=1, width=16, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=270),
            data=config.Data(
                sources=[config.Source(name=n, path=f"{stores}/{n}/train", heldout=f"{stores}/{n}/heldout") for n in ("code", "prose")],
                phases=[config.Phase(uses=uses, order=order, tokens=STEPS * ROWS * LENGTH)],
                sequence_length=LENGTH,
                batch_size=ROWS,
                seed=data_seed,
            ),
            schedule=config.Schedule(kind="constant", peak=3e-3, warmup=2),
            optimizer=config.Optimizer(weight_decay=weight_decay),
            mesh=config.Mesh(data=1),
            checkpoint=config.Checkpoint(every=4, keep=8),
            evaluation=config.Evaluation(every=6, rows=6, batch_size=4, questions=0),
            logging=config.Logging(every=3, tensorboard=False),
        )
        return config.Experiment(**settings | fields)

    return make


@pytest.fixture(scope="session")
def trio(member):
    """Different data, seeds, schedules and decays; a number that two devices do not divide."""
    cosine = config.Schedule(kind="cosine", peak=1e-2, end=1e-4, warmup=1)
    return [
        member("a", seed=3),
        member("b", order="ascending", share=0.25, seed=3, schedule=cosine),
        member("c", data_seed=5, seed=4, weight_decay=0.3),
    ]


@pytest.fixture(scope="session")
def trained(trio, tmp_path_factory):
    return population.train(trio, tmp_path_factory.mktemp("population") / "trio", devices=jax.devices()[:2])


@pytest.fixture
def same_bits():
    """same_bits(one, other): the stacked weights after every step that either keeps, and all metrics lines, are equal."""

    def check(one, other):
        assert one.steps == other.steps and one.names == other.names
        for step in one.steps:
            jax.tree.map(np.testing.assert_array_equal, one.parameters({step: 1.0}), other.parameters({step: 1.0}))
        for name in one.names:
            first, second = ((found.folder / "metrics" / f"{name}.jsonl").read_text() for found in (one, other))
            assert first == second

    return check


@pytest.fixture(scope="session")
def alone(trio, tmp_path_factory):
    """Members b and c, each trained by the ordinary loop on one device: name -> run folder."""
    from kaiyuan_jax.training import loop

    folder, found = tmp_path_factory.mktemp("alone"), {}
    for experiment in trio[1:]:
        found[experiment.name] = folder / experiment.name
        loop.train(dataclasses.replace(experiment, output=str(found[experiment.name])), devices=jax.devices()[:1])
    return found
