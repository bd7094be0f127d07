"""Two tiny stores, the tiniest experiment over them, and the launch script as a user's process."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from kaiyuan_jax import config
from kaiyuan_jax.data.store_write import write_store

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY, LENGTH, BATCH = 64, 16, 8


def _write(folder, seed: int, documents: int):
    random = np.random.default_rng(seed)
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    # each token depends on the one before, so that there is something to learn
    texts = [(np.cumsum(random.integers(1, 4, int(random.integers(5, 60)))) * (seed + 1)) % (VOCABULARY - 1) + 1 for _ in range(documents)]
    rows = [(f"s{seed}-d{i}", i / documents, 3 * len(ids), ids) for i, ids in enumerate(texts)]
    return write_store(folder, documents=rows, tokenizer_json=tokenizer.to_str(), vocabulary=VOCABULARY, eod=0)


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate(("code", "prose")):
        _write(folder / name / "train", seed, 700)
        _write(folder / name / "heldout", seed + 10, 40)
    return folder


@pytest.fixture
def tiny(tiny_in, tmp_path):
    """tiny(**fields): `tiny_in` a fresh folder."""
    return functools.partial(tiny_in, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_in(stores):
    """tiny_in(output, **fields) -> Experiment of 100 steps; nested fields by double underscore: schedule__peak=1e-3."""

    def make(folder, **fields):
        uses = [config.Use(source="code"), config.Use(source="prose", passes=1.5)]
        experiment = config.Experiment(
            name="tiny",
            output=str(folder),
            model=config.Model(layers=2, width=16, feedforward=32, heads=2, kv_heads=1, head_size=8, vocabulary=VOCABULARY),
            data=config.Data(
                sources=[config.Source(name=n, path=f"{stores}/{n}/train", heldout=f"{stores}/{n}/heldout") for n in ("code", "prose")],
                phases=[config.Phase(uses=uses, order="ascending", tokens=100 * LENGTH * BATCH)],
                sequence_length=LENGTH,
                batch_size=BATCH,
            ),
            schedule=config.Schedule(warmup=5),
            checkpoint=config.Checkpoint(every=20, keep=3),
            mesh=config.Mesh(data=1),
            evaluation=config.Evaluation(rows=8, batch_size=8, context=8, continuation=4),
            logging=config.Logging(every=7, tensorboard=False),
        )
        for path, value in fields.items():
            *parents, name = path.split("__")
            owner = experiment
            for parent in parents:
                owner = getattr(owner, parent)
            assert name in {field.name for field in dataclasses.fields(owner)}
            setattr(owner, name, value)
        return experiment

    return make


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """launch(experiment, *flags, wait=True): launch/train.py in its own process on one CPU device."""

    def start(experiment, *flags, wait=True):
        folder = tmp_path_factory.mktemp("launch")
        saved, file = folder / "config.json", folder / "config.py"
        saved.write_text(config.to_json(experiment), encoding="utf-8")
        read = f"config.from_json(open({str(saved)!r}).read())"
        file.write_text(f"from kaiyuan_jax import config\n\n\ndef get_config():\n    return {read}\n")
        hurried = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)  # one device, as users have
        environment = os.environ | {"XLA_FLAGS": hurried}
        process = subprocess.Popen(
            [sys.executable, "launch/train.py", f"--config={file}", *flags],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if not wait:
            return process
        out, error = process.communicate(timeout=300)
        return process.returncode, out, error

    return start


@pytest.fixture(scope="session")
def lines():
    """lines(experiment): the run's metrics without what a clock measured."""
    from kaiyuan_jax.training import metrics

    def read(experiment):
        return [{k: v for k, v in line.items() if k not in metrics.CLOCKED} for line in metrics.read(f"{experiment.folder}/metrics.jsonl")]

    return read


@pytest.fixture(scope="session")
def parameters():
    """parameters(experiment, step): the weights in a checkpoint, as host arrays."""
    import jax

    from kaiyuan_jax.models import decoder
    from kaiyuan_jax.training import checkpoint

    def read(experiment, step):
        _, abstract = decoder.abstract(experiment.model, experiment.precision)
        return jax.device_get(checkpoint.load_parameters(f"{experiment.folder}/checkpoints/{step}", abstract))

    return read


@pytest.fixture
def device_mesh():
    """device_mesh(data, fsdp, tensor) over the first of the eight virtual devices."""
    import jax

    from kaiyuan_jax.sharding.mesh import make_mesh

    def make(data=1, fsdp=1, tensor=1):
        return make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])

    return make
