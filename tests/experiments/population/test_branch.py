"""What a population may go on from; that it then ends with the same bits is in tests/experiments/test_curriculum_runs.py."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax import config as c
from kaiyuan_jax.config import ConfigError
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.experiments.population import branch
from kaiyuan_jax.experiments.population.trained import Population
from kaiyuan_jax.training import saved

STEPS, KNEE = 8, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    random = np.random.default_rng(0)
    texts = [(f"d{i}", float(i), 60, random.integers(1, 32, 30).astype(np.uint16)) for i in range(60)]
    folder = tmp_path_factory.mktemp("store") / "train"
    write_store(folder, documents=texts, tokenizer_json="{}", vocabulary=32, eod=0)
    return str(folder)


def member(store, name, seed, kind):
    return c.Experiment(
        name=name,
        seed=seed,
        model=c.Model(layers=1, width=8, feedforward=16, heads=1, kv_heads=1, head_size=8, vocabulary=32),
        data=c.Data(
            sources=[c.Source(name="a", path=store)],
            phases=[c.Phase(order="ascending", tokens=STEPS * 2 * 8, uses=[c.Use(source="a", share=1.0)])],
            sequence_length=8,
            batch_size=2,
            seed=seed,
        ),
        schedule=c.Schedule(kind=kind, peak=1e-2, end=1e-4, warmup=1, decay=0.5),
        checkpoint=c.Checkpoint(every=2, keep=3),
        evaluation=c.Evaluation(questions=0),
        logging=c.Logging(every=1, tensorboard=False),
    )


@pytest.fixture
def trunk(store, tmp_path):
    return Population(tmp_path / "trunk", tuple(member(store, f"constant{seed}", seed, "constant") for seed in range(2)))


@pytest.fixture(scope="module")
def decays(store):
    return [member(store, f"decay{seed}", seed, "wsd") for seed in (1, 0)]


def test_a_folder_that_has_begun_is_left_alone(trunk, decays, tmp_path):
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    (tmp_path / "checkpoints" / "6" / saved.COMPLETE).write_text("")
    branch.begin(decays, tmp_path, trunk, KNEE, [1, 0])
    assert not (tmp_path / "checkpoints" / str(KNEE)).exists()


@pytest.mark.parametrize(
    "change, step, rows, message",
    [
        ({}, KNEE, [1], "rows: found 1"),
        ({}, KNEE, [1, 2], "rows: found 2 for member decay0"),
        ({}, KNEE, [0, 1], "member decay1 cannot go on from constant0: config.seed"),
        ({}, 6, [1, 0], "rates differ from update 4 on, before 6"),
        ({"optimizer": c.Optimizer(beta2=0.9)}, KNEE, [1, 0], "config.optimizer.beta2"),
        ({"schedule": c.Schedule(kind="wsd", peak=1e-2, end=1e-4, warmup=1, decay=0.7)}, KNEE, [1, 0], "rates differ from update 2 on"),
    ],
)
def test_what_was_not_in_common_is_refused_before_anything_is_written(trunk, decays, tmp_path, change, step, rows, message):
    with pytest.raises(ConfigError, match=message):
        branch.begin([dataclasses.replace(one, **change) for one in decays], tmp_path / "new", trunk, step, rows)
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_is_gone_is_named(trunk, decays, tmp_path):
    with pytest.raises(ConfigError, match="trunk: no checkpoint 3; it has none"):
        branch.begin(decays, tmp_path / "new", trunk, 3, [1, 0])
