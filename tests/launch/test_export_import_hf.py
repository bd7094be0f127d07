"""The two scripts as a user runs them: a run's average to Hugging Face files and back, and mistakes said in one line."""

import json

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import tokenizer
from kaiyuan_jax.models.hf import layout, write
from kaiyuan_jax.training import checkpoint
from tests import scripts

MODEL = config.Model(layers=2, width=24, feedforward=16, heads=2, kv_heads=1, head_size=8, vocabulary=300)


def launch(script, **flags):
    """(exit code, output, errors)"""
    return scripts.run(script, *(f"--{name}={value}" for name, value in flags.items()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made = tokenizer.train(["the cat sat on the mat"], 270)
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    experiment = config.Experiment(name="small", model=MODEL, data=config.Data(sequence_length=96))
    (folder / "config.json").write_text(config.to_json(experiment), encoding="utf-8")
    random, size = np.random.default_rng(0), layout.sizes(MODEL)
    leaves = {path: random.random(layout.leaf_shape(path, size), np.float32) for path in write.leaf_paths(MODEL)}
    checkpoint.save_parameters(folder / "averages" / "sma", leaves, {"step": 7})
    return folder


def bits(folder):
    paths, read = checkpoint.leaf_reader(folder)
    return {path: read(path).tobytes() for path in paths}


def test_a_run_goes_to_hugging_face_and_back_with_every_bit(run, tmp_path):
    code, said, errors = launch("export_hf", model=run / "averages/sma", output=tmp_path / "hf", shard_bytes=20_000)
    assert code == 0, errors
    assert f"Gemma3ForCausalLM, float32: {write.count(MODEL):,} parameters in" in said and "gives the bits that were exported" in said
    facts = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert facts["model_type"] == "gemma3_text" and facts["max_position_embeddings"] == 96 and facts["eos_token_id"] == 0
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text())["eos_token_id"] == 0
    assert (tmp_path / "hf" / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    for path in tmp_path.rglob("*"):
        assert path.suffix not in (".py", ".bin", ".pt", ".pkl")  # no code, no pickle

    code, said, errors = launch("import_hf", checkpoint=tmp_path / "hf", output=tmp_path / "back", like=run)
    assert code == 0, errors
    assert "sandwich norm, soft-cap 30, untied" in said
    assert bits(tmp_path / "back/averages/imported") == bits(run / "averages/sma")
    experiment = config.read(tmp_path / "back/config.json")
    assert experiment.model == MODEL and experiment.data.sequence_length == 96 and experiment.name == "back"
    assert (tmp_path / "back" / "tokenizer_config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf"]  # nothing half made is left


@pytest.mark.parametrize(
    ("script", "flags", "said"),
    [
        ("export_hf", dict(model="{run}/averages/sma", output="{tmp}/x", format="qwen3"), "qwen3: model.sandwich_norm = True"),
        ("import_hf", dict(checkpoint="{pickle}", output="{tmp}/x"), "pytorch_model.bin, a pickled checkpoint"),
    ],
)
def test_mistakes_are_said_in_lines_without_a_traceback(run, tmp_path, script, flags, said):
    pickled = tmp_path / "pickle"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    facts = dict(model_type="llama", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9, intermediate_size=4)
    (pickled / "config.json").write_text(json.dumps(facts | dict(rms_norm_eps=1e-6, rope_theta=1e4)))
    filled = {name: value.format(run=run, tmp=tmp_path, pickle=pickled) for name, value in flags.items()}
    code, _, errors = launch(script, **filled)
    assert code == 2 and said in errors and "Traceback" not in errors, errors
    assert not (tmp_path / "x").exists()
