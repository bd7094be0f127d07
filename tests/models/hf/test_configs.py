"""config.json: what is exported comes back, and what our decoder does not compute is refused by field."""

import dataclasses
import json

import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models.hf import configs
from kaiyuan_jax.models.hf.configs import FormatError, choose, from_json, to_json

PLAIN = dict(sandwich_norm=False, logit_softcap=0.0)
MODELS = {
    "llama": config.Model(**PLAIN, qk_norm=False),
    "qwen3": config.Model(**PLAIN),
    "gemma3": config.Model(),
}


def made(form, **changes):
    return to_json(MODELS[form], form, dtype="float32", length=512, end=3) | changes


@pytest.mark.parametrize("form", configs.FORMATS)
def test_auto_takes_the_architecture_that_is_exact_and_no_other_is(form):
    assert choose(MODELS[form], "auto") == choose(MODELS[form], form) == form
    for other in set(configs.FORMATS) - {form}:
        with pytest.raises(FormatError, match=f"--format={other}: {other} does not compute .*; export it with --format={form}$"):
            choose(MODELS[form], other)


CHANGES = [{}, {"tied": True}, {"rope_base": 1e6, "norm_epsilon": 1e-5}, {"window": 16}]


@pytest.mark.parametrize(
    ("form", "changes"), [(form, changes) for form in configs.FORMATS for changes in CHANGES if (form, changes) != ("llama", CHANGES[3])]
)
def test_a_config_comes_back_as_the_model_it_was_made_of(form, changes):
    model = dataclasses.replace(MODELS[form], **changes)
    assert not configs.obstacles(model, form)
    text = json.dumps(to_json(model, form, dtype="bfloat16", length=512, end=3))
    found = from_json(json.loads(text), "config.json")
    told_by_tensors = dict(tied=model.tied, qk_norm=model.qk_norm, sandwich_norm=model.sandwich_norm)
    assert dataclasses.replace(found.model, **told_by_tensors) == model
    assert (found.tied, found.length, found.end, found.notes) == (model.tied, 512, 3, ())
    assert found.form == ("gemma3" if form == "gemma3" else "plain")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention_softcap": 50.0}, "gemma3: model.attention_softcap = 50"),
        ({"sandwich_norm": False}, "qwen3: model.logit_softcap = 30"),
        ({"qk_norm": False}, "gemma3: model.qk_norm = False"),
    ],
)
def test_a_model_that_no_stock_architecture_computes_is_refused_with_all_that_stands_in_the_way(changes, said):
    with pytest.raises(FormatError) as error:
        choose(config.Model(**changes), "auto")
    message = str(error.value)
    assert said in message and "\n" not in message
    assert all(f"{form}: " in message for form in configs.FORMATS)


@pytest.mark.parametrize("form", configs.FORMATS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("hidden_activation", "gelu_pytorch_tanh"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"bits": 4}),
        ("num_experts", 8),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("query_pre_attn_scalar", 7),
        ("num_key_value_heads", 3),
        ("num_attention_heads", 7),
        ("hidden_size", 0),
        ("hidden_size", "many"),
        ("num_hidden_layers", None),
        ("logit_scale", 0.5),
    ],
)
def test_a_field_that_changes_what_is_computed_is_refused_by_name(form, field, value):
    given = made(form, **{field: value})
    if field == "rope_scaling":
        del given["rope_parameters"]
    with pytest.raises(FormatError, match="config.json: not a model that our decoder computes") as error:
        from_json(given, "config.json")
    assert field.replace("rope_scaling", "yarn") in str(error.value)


def test_a_config_as_transformers_4_wrote_it_is_read():
    given = made("qwen3", rope_scaling=None)
    del given["rope_parameters"], given["layer_types"]
    assert from_json(given, "config.json").model.rope_base == 10_000.0
    given = made("gemma3", sliding_window=1024)
    del given["rope_parameters"], given["layer_types"]
    assert from_json(given, "config.json").model.rope_base == 10_000.0
    with pytest.raises(FormatError, match=r"rope_theta = 10000.0, 1000000.0, our decoder has one base"):
        from_json(given | {"rope_theta": 1e6}, "config.json")


def test_layers_of_two_kinds_are_refused_unless_the_window_covers_every_sequence():
    mixed = made("gemma3", layer_types=["sliding_attention", "full_attention"] * 2)
    assert from_json(mixed | {"sliding_window": 512}, "config.json").model.window == 0
    with pytest.raises(FormatError, match="layer_types mixes"):
        from_json(mixed | {"sliding_window": 100}, "config.json")


@pytest.mark.parametrize("name", configs.LOGIT_CAPS)
def test_an_unknown_type_is_read_as_a_plain_decoder_and_said_to_be(name):
    given = made("qwen3", model_type="kaiyuan", auto_map={"AutoModel": "modeling_kaiyuan.Kaiyuan"})
    found = from_json(given | {name: 12.0}, "config.json")
    assert found.model.logit_softcap == 12.0 and found.form == "plain"
    assert "'kaiyuan' is not known" in found.notes[0] and "auto_map" in found.notes[1] and len(found.notes) == 2
    bare = from_json(given, "config.json")
    assert bare.model.logit_softcap == 0 and "--logit_softcap" in bare.notes[-1]
    assert from_json(given, "config.json", 30.0).model.logit_softcap == 30.0


@pytest.mark.parametrize("kind", configs.DIFFERENT)
def test_architectures_that_look_alike_and_compute_otherwise_are_refused(kind):
    with pytest.raises(FormatError, match=f"model_type = '{kind}'"):
        from_json(made("gemma3", model_type=kind), "config.json")


def test_the_first_of_several_ends_is_taken():
    assert from_json(made("qwen3", eos_token_id=[5, 6]), "config.json").end == 5
