"""Tables of names: every known form is recognised, and what is not known is said in full."""

import itertools
import json
import re

import pytest

from kaiyuan_jax.models.hf import names
from kaiyuan_jax.models.hf.names import NamesError, match

LAYERS = 3
FORMS = list(itertools.product(names.BODIES, names.SPELLINGS))


def stored(body, spelling, prefix=""):
    """All names of a checkpoint of this form."""
    return [
        prefix + template.format(n=n) for template in names.table(body, spelling) for n in (range(LAYERS) if "{n}" in template else (0,))
    ]


@pytest.mark.parametrize(("body", "spelling"), FORMS)
def test_every_form_is_recognised_and_each_name_found_its_leaf(body, spelling):
    found = match(stored(body, spelling, "model."), LAYERS)
    table = names.table(body, spelling)
    assert found.leaves == {leaf for row in table.values() for leaf in row.leaves}
    for name, (row, layer) in found.places.items():
        bare = name.removeprefix("model.")
        assert row == table[re.sub(r"\d+", "{n}", bare, count=1) if layer >= 0 else bare]


def test_the_same_name_is_another_norm_in_qwen_and_gemma():
    leaf = {
        spelling: match(stored("stock", spelling), LAYERS).places["layers.0.post_attention_layernorm.weight"][0].leaves[0]
        for spelling in ("qwen", "gemma", "glm4")
    }
    assert leaf == {"qwen": names.FEEDFORWARD_NORM, "gemma": names.POST_NORM, "glm4": names.FEEDFORWARD_NORM}


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "_orig_mod.model.", "language_model.model.", "transformer."])
def test_prefixes_that_only_wrap_a_model_do_not_count(prefix):
    assert len(match(stored("stock", "gemma", prefix), LAYERS).places) == len(stored("stock", "gemma"))


@pytest.mark.parametrize("absent", ["q_norm|k_norm", "lm_head", "q_norm|k_norm|lm_head"])
def test_norms_of_heads_and_the_output_head_may_be_absent_altogether(absent):
    kept = [name for name in stored("stock", "qwen") if not re.search(absent, name)]
    assert len(match(kept, LAYERS).places) == len(kept)


@pytest.mark.parametrize("lost", ["layers.1.mlp.up_proj.weight", "norm.weight", "layers.2.self_attn.k_norm.weight"])
def test_a_name_that_is_missing_is_listed(lost):
    with pytest.raises(NamesError) as error:
        match([name for name in stored("stock", "qwen") if name != lost], LAYERS)
    said = re.sub(r"\d", r"{\g<0>}", lost)
    assert f"missing from the checkpoint: {said}" in str(error.value) and "not known" not in str(error.value)


def test_one_of_two_norms_of_heads_is_not_enough():
    with pytest.raises(NamesError, match="k_norm"):
        match([name for name in stored("stock", "qwen") if "k_norm" not in name], LAYERS)


def test_names_that_nobody_knows_are_listed_once_for_all_layers():
    made = stored("stock", "qwen") + [f"layers.{n}.mlp.router.weight" for n in range(LAYERS)] + ["score.weight"]
    with pytest.raises(NamesError) as error:
        match(made, LAYERS)
    lines = str(error.value).splitlines()
    assert "  not known to it: layers.{0-2}.mlp.router.weight" in lines and "  not known to it: score.weight" in lines
    assert "missing" not in str(error.value) and "'stock, qwen'" in lines[0] and "--names" in lines[-1]


def test_a_layer_beyond_the_last_is_not_known():
    with pytest.raises(NamesError, match=r"not known to it: layers\.\{2\}\."):
        match(stored("stock", "qwen"), LAYERS - 1)


def test_tables_of_positions_in_old_files_are_passed_over():
    kept = stored("stock", "qwen")
    assert match([*kept, "layers.0.self_attn.rotary_emb.inv_freq"], LAYERS).places.keys() == set(kept)


def test_a_table_of_the_users_is_read_from_json(tmp_path):
    mine = {re.sub("self_attn", "mixer", name): [" ".join((*row.leaves, row.joined)).strip(), ",".join(row.axes)]
            for name, row in names.table("joined", "ouro").items()}  # fmt: skip
    (tmp_path / "names.json").write_text(json.dumps(mine))
    given = names.read_table(tmp_path / "names.json")
    made = [name.replace("self_attn", "mixer") for name in stored("joined", "ouro", "model.")]
    with pytest.raises(NamesError, match="mixer"):
        match(made, LAYERS)
    assert match(made, LAYERS, given).leaves == match(stored("joined", "ouro"), LAYERS).leaves


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": 5}', '{"a": ["x"]}', '{"a": ["x", 3]}'])
def test_a_table_that_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(NamesError, match="names"):
        names.read_table(tmp_path / "names.json")
