"""The script as a user runs it, over a small run with random weights and over its export."""

import json

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import tokenizer
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint, trained
from tests.scripts import run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a run with one checkpoint."""
    folder, random = tmp_path_factory.mktemp("generate") / "run", np.random.default_rng(0)
    made = tokenizer.train(["the cat sat on a mat while rain fell 学而时习之"], 270)
    shape = dict(layers=1, width=16, feedforward=16, heads=2, kv_heads=1, head_size=8, vocabulary=tokenizer.vocabulary(made) + 2)
    experiment = config.Experiment(model=config.Model(**shape), data=config.Data(sequence_length=40))
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json(experiment))
    (folder / "tokenizer.json").write_text(made.to_str())
    _, shapes = decoder.abstract(experiment.model, experiment.precision)
    leaves = {"/".join(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    leaves = {path: np.float32(random.normal(1.0 if "norm" in path else 0.0, 0.3, shape)) for path, shape in leaves.items()}
    checkpoint.save_parameters(folder / "checkpoints" / "7", leaves, {"step": 7})
    return folder


def test_texts_of_a_run_and_of_its_export_are_the_same_lines(model, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the rain"}\n{"prompt": ""}\n')
    flags = [f"--prompts_file={tmp_path}/prompts.jsonl", "--prompt=on a mat<|endoftext|>", "--samples=2", "--batch_size=4", "--tokens=12"]
    flags += ["--top_p=0.9", "--seed=3"]
    code, out, error = run("generate", f"--model={model}", *flags, f"--output={tmp_path}/a.jsonl")
    assert code == 0, error
    assert "6 texts" in out and f"written: {tmp_path}/a.jsonl" in out
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["on a mat<|endoftext|>"] * 2 + ["the rain"] * 2 + [""] * 2
    assert all(row["tokens"] == 12 or row["ended"] for row in rows) and len({row["text"] for row in rows}) > 3

    code, _, error = run("export_hf", f"--model={model}", f"--output={tmp_path}/hf")
    assert code == 0, error
    code, _, error = run("generate", f"--model={tmp_path}/hf", *flags, f"--output={tmp_path}/b.jsonl")
    assert code == 0, error
    assert (tmp_path / "b.jsonl").read_text() == (tmp_path / "a.jsonl").read_text()


def test_a_run_stands_for_its_newest_checkpoint(model):
    assert trained.find("--model", model) == (model, model / "checkpoints" / "7")
    assert trained.find("--model", model / "checkpoints" / "7") == (model, model / "checkpoints" / "7")
    for there in (model / "checkpoints", model / "none", model.parent):
        with pytest.raises(config.UserError, match=f"^--minus={there}: must be a run"):
            trained.find("--minus", there)
    with pytest.raises(config.UserError, match="no complete checkpoint here; .* has 7"):
        trained.find("--model", model / "checkpoints" / "8")


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--prompt: found none"),
        (["--prompt=a", "--top_p=0"], "--top_p=0: must be above 0"),
        (["--prompt=a", "--tokens=40"], "--tokens=40: must be below 40"),
        (["--prompts_file={0}/bad.jsonl"], "bad.jsonl, line 2: must be a JSON object with a text `prompt`"),
    ],
)
def test_mistakes_are_one_line(model, tmp_path, flags, message):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n["b"]\n')
    code, _, error = run("generate", f"--model={model}", *(flag.format(tmp_path) for flag in flags))
    assert code == 2 and message in error and error.count("\n") == 1
