"""Checkpoints there and back: bit for bit in every format and dtype, in every form of names, and refused where they are not right."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder
from kaiyuan_jax.models.hf import configs, layout, names, read, safetensors_files, write
from kaiyuan_jax.models.hf.read import CheckpointError
from kaiyuan_jax.models.hf.write import ExportError

SHAPE = dict(layers=3, width=48, feedforward=20, heads=6, kv_heads=2, head_size=8, vocabulary=30)
PLAIN = dict(sandwich_norm=False, logit_softcap=0.0)
MODELS = {
    "llama": config.Model(**SHAPE, **PLAIN, qk_norm=False),
    "qwen3": config.Model(**SHAPE, **PLAIN),
    "qwen3_tied": config.Model(**SHAPE, **PLAIN, tied=True),
    "gemma3": config.Model(**SHAPE),
    "gemma3_tied": config.Model(**SHAPE, tied=True),
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def parameters(model, dtype=np.float32, seed=0):
    random, size = np.random.default_rng(seed), layout.sizes(model)
    made = {path: random.standard_normal(layout.leaf_shape(path, size)) for path in write.leaf_paths(model)}
    return {path: (np.abs(array) if "norm" in path else 0.1 * array).astype(dtype) for path, array in made.items()}


def export(folder, model, leaves, dtype="float32", shard_bytes=3000):
    form = configs.choose(model, "auto")
    folder.mkdir()
    done = write.write(folder, model, form, leaves, leaves.__getitem__, dtype=dtype, shard_bytes=shard_bytes)
    (folder / "config.json").write_text(json.dumps(configs.to_json(model, form, dtype=dtype, length=64, end=0)))
    return done


def flat(tree, prefix=""):
    for name, value in tree.items():
        yield from flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]


def test_paths_of_leaves_are_those_of_the_decoder():
    for model in MODELS.values():
        _, abstract = decoder.abstract(model, config.Precision())
        size = layout.sizes(model)
        assert {path: leaf.shape for path, leaf in flat(abstract)} == {
            path: layout.leaf_shape(path, size) for path in write.leaf_paths(model)
        }
        assert write.count(model) == sum(leaf.size for leaf in jax.tree.leaves(abstract))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_what_is_exported_as_it_is_stored_comes_back_bit_for_bit(tmp_path, model, dtype):
    leaves = parameters(model, DTYPES[dtype])
    done = export(tmp_path / "x", model, leaves, dtype)
    assert done.exact and len(done.files) > 3
    loaded = read.load(tmp_path / "x")
    assert loaded.model == model and loaded.end == 0 and loaded.tokenizer is None
    found = dict(flat(loaded.params))
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        assert found[path].tobytes() == leaf.astype(np.float32).tobytes(), path
    again = export(tmp_path / "y", loaded.model, {path: leaf.astype(DTYPES[dtype]) for path, leaf in found.items()}, dtype)
    for file in [*again.files, *((read.CORRECTIONS,) if done.corrections else ())]:
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_narrower_dtype_rounds_once_and_an_import_gives_what_the_files_hold(tmp_path, model):
    leaves = parameters(model)
    done = export(tmp_path / "x", model, leaves, "bfloat16")
    assert not done.exact and not (tmp_path / "x" / "kaiyuan_jax").exists()
    folded = done.losses.keys()
    assert bool(folded) == model.sandwich_norm
    for path, leaf in flat(read.load(tmp_path / "x").params):
        error = np.abs(leaf - leaves[path])
        if path in folded:
            assert error.max() == pytest.approx(done.losses[path].largest)
            assert np.all(error <= 2.0**-8 * (1 + np.abs(leaves[path])))
        else:
            np.testing.assert_array_equal(leaf, leaves[path].astype(ml_dtypes.bfloat16).astype(np.float32))


def test_gemma_files_hold_what_the_program_makes_of_them(tmp_path):
    model, leaves = MODELS["gemma3_tied"], parameters(MODELS["gemma3_tied"])
    export(tmp_path / "x", model, leaves, shard_bytes=10**6)
    stored = {name: np.array(tensor.read()) for name, tensor in safetensors_files.checkpoint(tmp_path / "x").items()}
    root = np.float32(48**0.5)
    np.testing.assert_allclose(stored["model.embed_tokens.weight"] * root, leaves["embedding_VD"], rtol=1e-7)
    np.testing.assert_allclose(1 + stored["model.layers.1.post_attention_layernorm.weight"], leaves[names.POST_NORM][1], atol=3e-8)
    np.testing.assert_allclose((1 + stored["model.norm.weight"]) / root, leaves["norm_D"], atol=1e-7)
    assert "lm_head.weight" not in stored


def test_bfloat16_parameters_are_those_of_a_bfloat16_checkpoint(tmp_path):
    leaves = parameters(MODELS["qwen3"], ml_dtypes.bfloat16)
    export(tmp_path / "x", MODELS["qwen3"], leaves, "bfloat16")
    for path, leaf in flat(read.load(tmp_path / "x", "bfloat16").params):
        assert leaf.dtype == ml_dtypes.bfloat16 and leaf.tobytes() == leaves[path].tobytes()


@pytest.mark.parametrize("model", ["qwen3", "gemma3"])
@pytest.mark.parametrize("bad", [1e5, np.nan, np.inf])
def test_values_that_a_dtype_cannot_hold_are_refused_by_the_names_of_their_tensors(tmp_path, model, bad):
    leaves = parameters(MODELS[model])
    leaves[names.GATE][2, 5, 5] = leaves["norm_D"][7] = bad
    with pytest.raises(ExportError, match="--dtype=float16") as error:
        export(tmp_path / "x", MODELS[model], leaves, "float16")
    assert "model.layers.2.mlp.gate_proj.weight: 1 of 960" in str(error.value) and "model.norm.weight: 1 of 48" in str(error.value)
    assert len(str(error.value).splitlines()) == 3


def test_leaves_of_another_model_are_refused(tmp_path):
    model = MODELS["qwen3"]
    leaves = parameters(model)
    with pytest.raises(ExportError, match="query_norm_NC"):
        export(tmp_path / "x", dataclasses.replace(model, qk_norm=False), leaves)
    with pytest.raises(ExportError, match="shape"):
        export(tmp_path / "y", dataclasses.replace(model, vocabulary=31), leaves)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), write.appearing(tmp_path / "x") as making:
        (making / "a").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with write.appearing(tmp_path / "x") as making:
        (making / "a").write_text("whole")
        assert not (tmp_path / "x").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def foreign(folder, model, body, spelling, leaves, **facts):
    """A checkpoint as another program would write it: tensors built here from our leaves, without the code under test."""
    folder.mkdir()
    K, C, D, G = model.kv_heads, model.head_size, model.width, model.heads // model.kv_heads
    matrix = {
        names.QUERY: lambda x: x.reshape(D, -1).T,
        names.KEY: lambda x: x.reshape(D, -1).T,
        names.VALUE: lambda x: x.reshape(D, -1).T,
        names.OUT: lambda x: x.reshape(-1, D).T,
        "embedding_VD": lambda x: x,
    }
    tensors = {}
    for template, row in names.table(body, spelling).items():
        for n in range(model.layers if "{n}" in template else 1):
            parts = [leaves[leaf][n] if leaf.startswith("layers/") else leaves[leaf] for leaf in row.leaves]
            if row.joined == "groups":
                queries, key, value = (part.reshape(D, -1).T for part in parts)
                joined = [(queries[k * G * C : (k + 1) * G * C], key[k * C : (k + 1) * C], value[k * C : (k + 1) * C]) for k in range(K)]
                made = np.concatenate([one for group in joined for one in group])
            else:
                made = np.concatenate([matrix.get(leaf, np.transpose)(part) for leaf, part in zip(row.leaves, parts, strict=True)])
            tensors["model." + template.format(n=n)] = np.ascontiguousarray(made)
    safetensors_files.write(folder / "model.safetensors", tensors, {})
    given = configs.to_json(dataclasses.replace(model, window=0), "qwen3", dtype="float32", length=64, end=0)
    (folder / "config.json").write_text(json.dumps(given | {"model_type": "kaiyuan"} | facts))


@pytest.mark.parametrize("body", names.BODIES)
@pytest.mark.parametrize("spelling", ["gemma", "glm4", "mindspeed", "meta and post", "nemo"])
def test_likely_forms_of_the_released_checkpoint_are_read_to_the_bit(tmp_path, body, spelling):
    model = config.Model(**SHAPE)
    leaves = parameters(model)
    foreign(tmp_path / "x", model, body, spelling, leaves, final_logit_softcapping=30.0)
    opened = read.open_folder(tmp_path / "x")
    assert opened.model == model and opened.table == f"{body}, {spelling}" and not opened.folded
    found = dict(opened.leaves())
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def change(folder, **tensors):
    """Writes a checkpoint anew with some tensors changed (or, given as None, left out)."""
    file = folder / "model.safetensors"
    kept = {name: np.array(tensor.read()) for name, tensor in safetensors_files.checkpoint(folder).items()}
    kept |= {name.replace("__", "."): value for name, value in tensors.items()}
    safetensors_files.write(file, {name: value for name, value in kept.items() if value is not None}, {})


@pytest.fixture
def qwen(tmp_path):
    export(tmp_path / "x", MODELS["qwen3"], parameters(MODELS["qwen3"]), shard_bytes=10**6)
    return tmp_path / "x"


def test_a_tensor_of_the_wrong_shape_is_named(qwen):
    change(qwen, model__layers__1__mlp__up_proj__weight=np.zeros((20, 47), np.float32))
    with pytest.raises(CheckpointError, match=r"model.layers.1.mlp.up_proj.weight has shape \[20, 47\], must be \[20, 48\]"):
        read.load(qwen)


def test_a_quantised_tensor_is_refused(qwen):
    change(qwen, model__layers__1__mlp__up_proj__weight=np.zeros((20, 48), np.int8))
    with pytest.raises(CheckpointError, match="up_proj.weight is int8"):
        read.load(qwen)


def test_a_known_architecture_without_its_norms_of_heads_is_refused(qwen):
    change(qwen, **{f"model__layers__{n}__self_attn__{part}_norm__weight": None for n in range(3) for part in "qk"})
    with pytest.raises(CheckpointError, match="qwen3 .* has no norms of queries and keys"):
        read.load(qwen)


def test_a_head_that_is_missing_or_contradicts_the_config_is_refused(qwen):
    facts = json.loads((qwen / "config.json").read_text())
    (qwen / "config.json").write_text(json.dumps(facts | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match="lm_head.weight is not model.embed_tokens.weight"):
        read.load(qwen)
    change(qwen, lm_head__weight=np.array(safetensors_files.checkpoint(qwen)["model.embed_tokens.weight"].read()))
    assert read.load(qwen).model.tied  # a copy of the embedding is what it says
    change(qwen, lm_head__weight=None)
    (qwen / "config.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="there is no output head"):
        read.load(qwen)


def test_corrections_are_not_put_on_weights_that_were_trained_further(tmp_path):
    model = MODELS["gemma3"]
    export(tmp_path / "x", model, parameters(model), shard_bytes=10**6)
    embedding = np.array(safetensors_files.checkpoint(tmp_path / "x")["model.embed_tokens.weight"].read())
    change(tmp_path / "x", model__embed_tokens__weight=embedding * np.float32(1.01))
    with pytest.raises(CheckpointError, match="made for other values of embedding_VD"):
        read.load(tmp_path / "x")


def test_the_end_is_that_of_the_generation_config_and_a_tokenizer_is_found(qwen):
    (qwen / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    (qwen / "tokenizer.json").write_text("{}")
    assert read.load(qwen)[2:] == (qwen / "tokenizer.json", 7)


def test_our_own_run_folders_are_not_taken_for_checkpoints(qwen, tmp_path):
    (tmp_path / "config.json").write_text(config.to_json(config.Experiment()))
    assert read.is_checkpoint(qwen) and not read.is_checkpoint(tmp_path) and not read.is_checkpoint(tmp_path / "nothing")


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="found no config.json"):
        read.load(tmp_path)
