"""launch/evaluate.py over a run in an object store, whose held-out stores are on this machine."""

import json
import os

import jax
import numpy as np

from kaiyuan_jax import config, storage
from kaiyuan_jax.training import checkpoint
from tests.scripts import start


def test_a_run_in_s3_is_evaluated_into_its_folder_with_the_numbers_of_the_same_run_on_disk(
    s3, make_store, tokenizer, small_experiment, untrained_model, tmp_path, monkeypatch, capfd
):
    experiment = small_experiment(tokenizer.get_vocab_size())
    make_store(tmp_path / "english", 40, words=(20, 60))
    experiment.data.sources = [config.Source(name="english", heldout=str(tmp_path / "english"))]
    _, params = untrained_model(experiment)
    runs = [storage.path(name) for name in (f"{s3}/runs/evaluated", str(tmp_path / "run"))]
    for run in runs:
        storage.make_folder(run)
        storage.replace(run / "config.json", config.to_json(experiment))
        storage.replace(run / "tokenizer.json", (tmp_path / "english" / "tokenizer.json").read_bytes())
        leaves = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        checkpoint.save_parameters(run / "checkpoints" / "7", leaves, {"step": 7})
    assert start(monkeypatch, "evaluate", [f"--model={','.join(map(str, runs))}"], tmp_path) == 0
    said = capfd.readouterr()
    assert f"written: {runs[0]}/evaluation/checkpoint_7.json" in said.out
    assert storage.names(runs[0] / "evaluation") == storage.names(runs[1] / "evaluation") == ["checkpoint_7.json", "checkpoint_7.npz"]
    remote, local = (json.loads(storage.read(run / "evaluation" / "checkpoint_7.json")) | {"seconds": 0} for run in runs)
    assert remote == local and np.isfinite(remote["mean"]["bits_per_byte"])
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said.out + said.err
