"""config.json of a Hugging Face checkpoint <-> our `config.Model`: Llama, Qwen3 and Gemma3's text model, and what comes near them.

    llama         the plain decoder                                          no QK-norm, no sandwich norm, no soft-cap
    qwen3         QK-norm                                                    no sandwich norm, no soft-cap
    gemma3_text   QK-norm, sandwich norm, soft-capped logits (Kaiyuan-2B)    gains as 1 + w, embedding times sqrt(D), see folding.py

`obstacles` says why a model of ours is not one of them. In the other direction every field that changes what the network computes must
have the value that our decoder computes with, or the checkpoint is refused; a type that is not known is read as a plain decoder with the
fields that Qwen3 has, which is what the released Kaiyuan checkpoint most likely is.
"""

import dataclasses
import reprlib
from pathlib import Path

from kaiyuan_jax import config, json_text
from kaiyuan_jax.config import UserError

FORMATS = ("llama", "qwen3", "gemma3")  # as the flag says it; in the order in which `auto` tries them
TYPES = {"llama": "llama", "qwen3": "qwen3", "gemma3": "gemma3_text"}
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "gemma3": "Gemma3ForCausalLM"}

# Under what name other checkpoints give the cap of the output logits; the value is the cap, or nothing for none.
LOGIT_CAPS = ("final_logit_softcapping", "final_logit_softcap", "logit_softcap", "logit_soft_cap", "logits_soft_cap", "output_softcap")
ATTENTION_CAPS = ("attn_logit_softcapping", "attention_softcap", "attn_logit_softcap")

# Fields that change what is computed, and the values that our decoder computes with.
SAME = {
    "hidden_act": ("silu", "swish", None),
    "hidden_activation": ("silu", "swish", None),
    "attention_bias": (False, None),
    "qkv_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "rotary_pct": (1, None),
    "no_rope_layers": ([], None),
    "use_bidirectional_attention": (False, None),
    "quantization_config": (None,),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "n_routed_experts": (0, None),
    "residual_multiplier": (1, None),
    "embedding_multiplier": (1, None),
    "scale_emb": (1, None),
    "logits_scaling": (1, None),
    "logit_scale": (1, None),
    "attention_multiplier": (None,),
    "pretraining_tp": (1, None),
}
# What fields that are not plain counts hold, where they are given.
KINDS = {
    "model_type": (str,),
    "rope_parameters": (dict,),
    "rope_scaling": (dict,),
    "rope_theta": (int, float),
    "rope_local_base_freq": (int, float),
    "layer_types": (list,),
    "sliding_window": (int,),
    "sliding_window_pattern": (int,),
    "max_window_layers": (int,),
    "tie_word_embeddings": (bool,),
}
MOST_LAYERS, MOST = 4096, 1 << 30  # layers; any other count
# Types whose names and fields could pass for ours while they compute something else.
DIFFERENT = {
    "gemma3": "is the model with images; its text part alone, gemma3_text, can be read",
    "gemma": "has a GELU and no QK-norm",
    "gemma2": "has a GELU and no QK-norm",
    "glm4": "rotates neighbouring pairs",
    "cohere2": "has layers without positions and a parallel block",
}


class FormatError(UserError):
    """A model that is not what a format, or our decoder, computes; the message lists what stands in the way."""


def obstacles(model: config.Model, form: str) -> list[str]:
    """What of a model of ours an architecture cannot represent, one line each; empty when it can."""
    lines = []
    if form == "gemma3":
        for field, what in (("qk_norm", "normalises queries and keys"), ("sandwich_norm", "normalises what each sub-layer returns")):
            if not getattr(model, field):
                lines.append(f"model.{field} = False: Gemma3 always {what}")
        if model.attention_softcap:
            lines.append(f"model.attention_softcap = {model.attention_softcap:g}: transformers' Gemma3 has the field and does not apply it")
        return lines
    if model.qk_norm != (form == "qwen3"):
        lines.append(f"model.qk_norm = {model.qk_norm}: {form} {'always' if form == 'qwen3' else 'never'} normalises queries and keys")
    if model.sandwich_norm:
        lines.append(f"model.sandwich_norm = True: {form} has no norm after a sub-layer")
    for field in ("logit_softcap", "attention_softcap"):
        if getattr(model, field):
            lines.append(f"model.{field} = {getattr(model, field):g}: {form} has no soft-cap")
    if model.window and form == "llama":
        lines.append(f"model.window = {model.window}: llama has no sliding window")
    return lines


def choose(model: config.Model, wanted: str) -> str:
    """The format to export to: the one wanted if it is exact, the first exact one for `auto`. Raises `FormatError` where there is none."""
    if wanted not in ("auto", *FORMATS):
        raise FormatError(f"--format: found {wanted!r}, must be one of auto, {', '.join(FORMATS)}")
    tried = {form: obstacles(model, form) for form in (FORMATS if wanted == "auto" else (wanted,))}
    for form, lines in tried.items():
        if not lines:
            return form
    reasons = "; ".join(f"{form}: {line}" for form, found in tried.items() for line in found)
    subject = "no format computes" if wanted == "auto" else f"{wanted} does not compute"
    message = f"--format={wanted}: {subject} what this model does ({reasons})"
    exact = [form for form in FORMATS if not obstacles(model, form)]
    if exact:
        message += f"; export it with --format={exact[0]}"
    elif "soft-cap" in reasons:
        message += (
            "; a soft-cap does not change which token is likeliest: to export the model without it, set model.logit_softcap to 0 in a "
            "copy of the run's config.json"
        )
    raise FormatError(message)


def to_json(model: config.Model, form: str, *, dtype: str, length: int, end: int | None) -> dict:
    """config.json of an exported model; `length` is the longest sequence it was trained on, `end` the id that ends a document."""
    rope = {"rope_type": "default", "rope_theta": model.rope_base}
    made = {
        "architectures": [ARCHITECTURES[form]],
        "model_type": TYPES[form],
        "dtype": dtype,
        "torch_dtype": dtype,  # the same, for transformers before version 5
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "intermediate_size": model.feedforward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": length,
        "rms_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied,
        "rope_parameters": rope,
        "rope_theta": model.rope_base,  # as before version 5
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,  # an id here would stop the gradient of its embedding
    }
    if form == "llama":
        return made | {"mlp_bias": False}
    kind = "sliding_attention" if model.window else "full_attention"
    made["layer_types"] = [kind] * model.layers
    if form == "qwen3":
        window = {"sliding_window": model.window or None, "max_window_layers": 0 if model.window else model.layers}
        return made | {"use_sliding_window": bool(model.window)} | window
    return made | {
        "hidden_activation": made.pop("hidden_act"),
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
        "rope_local_base_freq": model.rope_base,
        "query_pre_attn_scalar": model.head_size,
        "sliding_window": model.window or length,  # transformers asks for one though no layer slides
        "final_logit_softcapping": model.logit_softcap or None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }


@dataclasses.dataclass(frozen=True)
class Read:
    """What a config.json says. Whether heads and sub-layers are normalised is told by the tensors, not by it."""

    model: config.Model  # tied, qk_norm and sandwich_norm are still to be set
    form: str  # "gemma3" where gains and embedding are folded, else "plain"
    tied: bool | None  # None: not said
    length: int
    end: int | None
    notes: tuple[str, ...]  # what a reader should know of how the fields were understood


def load(path: Path) -> dict:
    """config.json, or generation_config.json; raises `FormatError` for a file that is not a JSON object."""
    try:
        found = json_text.read(path)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read ({error}); name the folder of a Hugging Face checkpoint") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path}: found {type(found).__name__}, must be a JSON object")
    return found


def from_json(found: dict, where: str, logit_softcap: float | None = None) -> Read:
    """Our model for a config.json; raises `FormatError` listing every field that our decoder does not compute with.

    `logit_softcap` overrides what the file says of it, for a checkpoint whose config does not.
    """
    _check_kinds(found, where)
    kind, notes = found.get("model_type") or "", []
    problems = [f"model_type = {kind!r} {DIFFERENT[kind]}"] if kind in DIFFERENT else []
    folded = kind == "gemma3_text"
    if kind not in (*TYPES.values(), *DIFFERENT):
        notes.append(f"model_type {kind!r} is not known: read as a decoder with plain RMSNorm gains, rotary pairs (i, i + C/2) and SwiGLU")
    if found.get("auto_map"):
        notes.append("the checkpoint brings code of its own (auto_map), which is not run")
    for field, allowed in SAME.items():
        if field in found and found[field] not in allowed:
            problems.append(f"{field} = {found[field]!r}, our decoder has {allowed[0]!r}")
    get = _getter(found, problems)
    D, H = get("hidden_size", int), get("num_attention_heads", int)
    made = config.Model(
        layers=get("num_hidden_layers", int),
        width=D,
        feedforward=get("intermediate_size", int),
        heads=H,
        kv_heads=get("num_key_value_heads", int, H),
        head_size=get("head_dim", int, max(D // H, 1)),
        vocabulary=get("vocab_size", int),
        rope_base=_rope_base(found, folded, problems),
        norm_epsilon=get("rms_norm_eps", float),
        init_std=get("initializer_range", float, 0.02) or 0.02,
        attention_softcap=_cap(found, ATTENTION_CAPS, get),
    )
    if folded and made.attention_softcap:
        problems.append(f"attn_logit_softcapping = {made.attention_softcap:g}: Gemma3 names it and does not apply it; remove the field")
    cap = _cap(found, LOGIT_CAPS, get)
    made.logit_softcap = cap if logit_softcap is None else logit_softcap
    if kind not in TYPES.values() and logit_softcap is None and not cap:
        notes.append("no soft-cap of the logits is named: read as having none; --logit_softcap gives one")
    length = get("max_position_embeddings", int, 4096)
    made.window = _window(found, made.layers, length, folded, problems)
    scalar = get("query_pre_attn_scalar", float, 256.0 if folded else float(made.head_size))
    if scalar != made.head_size:
        problems.append(f"query_pre_attn_scalar = {scalar:g}, our decoder divides scores by the root of head_dim = {made.head_size}")
    if made.heads % made.kv_heads:
        problems.append(f"num_key_value_heads = {made.kv_heads}, must divide num_attention_heads = {made.heads}")
    if made.width % made.heads:
        problems.append(f"num_attention_heads = {made.heads}, must divide hidden_size = {made.width}")
    if problems:
        raise FormatError("\n".join([f"{where}: not a model that our decoder computes", *(f"  {problem}" for problem in problems)]))
    end = found.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    tied = found.get("tie_word_embeddings", {"qwen3": False, "llama": False, "gemma3_text": True}.get(kind))
    return Read(made, "gemma3" if folded else "plain", tied, length, end if isinstance(end, int) else None, tuple(notes))


def _check_kinds(found: dict, where: str) -> None:
    rope = found.get("rope_parameters") or found.get("rope_scaling")
    tables = [table for table in rope.values() if isinstance(table, dict)] if isinstance(rope, dict) else []
    for table in (found, *([rope] if isinstance(rope, dict) else []), *tables):
        for field, kinds in KINDS.items():
            value = table.get(field)
            good = isinstance(value, kinds) and (kinds == (bool,) or not isinstance(value, bool))
            good = good and not (isinstance(value, list) and not all(isinstance(item, str) for item in value))
            good = good and not (isinstance(value, (int, float)) and not abs(value) <= 1e15)
            if value is not None and not good:
                names = " or ".join(kind.__name__ for kind in kinds)
                raise FormatError(f"{where}: {field} = {reprlib.repr(value)}, must be {names}; download config.json again")
    if (found.get("sliding_window_pattern") or 1) < 1:
        raise FormatError(f"{where}: sliding_window_pattern = {found['sliding_window_pattern']}, must be above 0")


def _getter(found: dict, problems: list[str]):
    """get(field, type, default): a field's value, or 1 and a problem noted where it is missing, of another type, or a count below 1."""

    def get(field: str, kind: type, default=None):
        value = found.get(field)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
            problems.append(f"{field} = {reprlib.repr(value)}, must be a number" if field in found else f"{field} is missing")
            return kind(1)
        most = MOST_LAYERS if field == "num_hidden_layers" else MOST
        if kind is int and not 1 <= value <= most:
            problems.append(f"{field} = {reprlib.repr(value)}, must be above 0 and at most {most:,}")
            return 1
        if kind is float and not 0 <= value <= 1e15:
            problems.append(f"{field} = {reprlib.repr(value)}, must be a number of 0 or more")
            return 1.0
        return kind(value)

    return get


def _cap(found: dict, names: tuple[str, ...], get) -> float:
    return next((get(name, float) for name in names if found.get(name)), 0.0)


def _rope_base(found: dict, folded: bool, problems: list[str]) -> float:
    """The one base of the rotary embedding; scaled kinds, and a base that differs between the kinds of layers in use, are problems."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    kinds = set(found.get("layer_types") or ("full_attention", "sliding_attention")) & {"full_attention", "sliding_attention"}
    tables = [rope[kind] or {} for kind in sorted(kinds) if kind in rope] if kinds & set(rope) else [rope]
    bases = set()
    for one in tables:
        if one.get("rope_type", one.get("type", "default")) not in ("default", None):
            problems.append(f"rope_parameters = {one!r}, our decoder has the default kind")
        base = one.get("rope_theta", found.get("rope_theta"))
        if base is not None:
            bases.add(base)
    if folded and "rope_parameters" not in found and kinds == {"full_attention", "sliding_attention"}:
        bases |= {found.get("rope_theta", 1_000_000.0), found.get("rope_local_base_freq", 10_000.0)}
    if len(bases) != 1 or not all(isinstance(base, (int, float)) and base > 0 for base in bases):
        problems.append(
            f"rope_theta = {', '.join(map(str, sorted(bases, key=str))) or 'missing'}, our decoder has one base above 0 for all layers"
        )
        return 1.0
    return float(bases.pop())


def _window(found: dict, layers: int, length: int, folded: bool, problems: list[str]) -> int:
    """The sliding window of all layers; 0 where there is none, or none that is shorter than the model's longest sequence."""
    window, kinds = found.get("sliding_window"), found.get("layer_types")
    if not window or window >= length or (not folded and found.get("use_sliding_window") is False):
        return 0
    if kinds is None and folded:
        pattern = found.get("sliding_window_pattern", 6)
        kinds = ["sliding_attention" if (n + 1) % pattern else "full_attention" for n in range(layers)]
    if kinds is None:
        full = found.get("max_window_layers", 0) if found.get("use_sliding_window") else 0
        kinds = ["full_attention" if n < full else "sliding_attention" for n in range(layers)]
    if len(set(kinds)) > 1:
        problems.append(f"layer_types mixes {', '.join(sorted(set(kinds)))}, our decoder has one kind; sliding_window = {window}")
        return 0
    return int(window) if kinds and kinds[0] == "sliding_attention" else 0
