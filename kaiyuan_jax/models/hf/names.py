"""Which tensor of a checkpoint is which of our parameters: tables, so that another checkpoint's names are a few lines of data.

A row says of one stored tensor which leaf it holds and what its axes are in the letters of our names:

    "layers.{n}.self_attn.q_proj.weight": ("layers/attention/query_NDHC", "HC,D")

is a matrix [H C, D] whose rows run over heads and head sizes. A tensor that holds several leaves joins their rows, one leaf after the
other ("rows"), or by key/value head: the queries of its group, its key, its value ("groups", as Megatron does).

A table is a body (embedding, projections) with a spelling of the norms. Several bodies and spellings are known; a checkpoint is read by
the first pair that accounts for every one of its tensors and every one of our leaves. Prefixes that only wrap a model do not count.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from kaiyuan_jax import json_text
from kaiyuan_jax.config import UserError

QUERY, KEY, VALUE = "layers/attention/query_NDHC", "layers/attention/key_NDKC", "layers/attention/value_NDKC"
OUT = "layers/attention/out_NHCD"
GATE, UP, DOWN = "layers/feedforward/gate_NDF", "layers/feedforward/up_NDF", "layers/feedforward/down_NFD"
QUERY_NORM, KEY_NORM = "layers/attention/query_norm_NC", "layers/attention/key_norm_NC"
NORM, POST_NORM = "layers/attention/norm_ND", "layers/attention/post_norm_ND"
FEEDFORWARD_NORM, FEEDFORWARD_POST_NORM = "layers/feedforward/norm_ND", "layers/feedforward/post_norm_ND"

WRAPPERS = ("module.", "_orig_mod.", "language_model.", "transformer.", "model.")  # taken off the front of names, however many
NOT_PARAMETERS = re.compile(r"rotary_emb\.inv_freq$|\._extra_state$")  # tables that old files keep, and empty bookkeeping

# Hugging Face: Qwen3, Llama, Gemma and most others.
STOCK = {
    "embed_tokens.weight": ("embedding_VD", "V,D"),
    "layers.{n}.self_attn.q_proj.weight": (QUERY, "HC,D"),
    "layers.{n}.self_attn.k_proj.weight": (KEY, "KC,D"),
    "layers.{n}.self_attn.v_proj.weight": (VALUE, "KC,D"),
    "layers.{n}.self_attn.o_proj.weight": (OUT, "D,HC"),
    "layers.{n}.self_attn.q_norm.weight": (QUERY_NORM, "C"),
    "layers.{n}.self_attn.k_norm.weight": (KEY_NORM, "C"),
    "layers.{n}.mlp.gate_proj.weight": (GATE, "F,D"),
    "layers.{n}.mlp.up_proj.weight": (UP, "F,D"),
    "layers.{n}.mlp.down_proj.weight": (DOWN, "D,F"),
    "norm.weight": ("norm_D", "D"),
    "lm_head.weight": ("head_DV", "V,D"),
}
# The same with projections joined, as GLM and Phi keep them.
JOINED = {name: row for name, row in STOCK.items() if not re.search(r"[qkv]_proj|gate_proj|up_proj", name)} | {
    "layers.{n}.self_attn.qkv_proj.weight": (f"{QUERY} {KEY} {VALUE} rows", "D"),
    "layers.{n}.mlp.gate_up_proj.weight": (f"{GATE} {UP} rows", "D"),
}
# MindFormers (Ascend), whose Llama and Qwen models keep the names of Meta's release.
MINDFORMERS = {
    "tok_embeddings.embedding_weight": ("embedding_VD", "V,D"),
    "layers.{n}.attention.wq.weight": (QUERY, "HC,D"),
    "layers.{n}.attention.wk.weight": (KEY, "KC,D"),
    "layers.{n}.attention.wv.weight": (VALUE, "KC,D"),
    "layers.{n}.attention.wo.weight": (OUT, "D,HC"),
    "layers.{n}.attention.q_norm.weight": (QUERY_NORM, "C"),
    "layers.{n}.attention.k_norm.weight": (KEY_NORM, "C"),
    "layers.{n}.feed_forward.w1.weight": (GATE, "F,D"),
    "layers.{n}.feed_forward.w3.weight": (UP, "F,D"),
    "layers.{n}.feed_forward.w2.weight": (DOWN, "D,F"),
    "norm_out.weight": ("norm_D", "D"),
    "lm_head.weight": ("head_DV", "V,D"),
}
META = {
    {"tok_embeddings.embedding_weight": "tok_embeddings.weight", "norm_out.weight": "norm.weight", "lm_head.weight": "output.weight"}.get(
        name, name
    ): row
    for name, row in MINDFORMERS.items()
}
# Megatron-Core, MindSpeed and MindSpore Transformers' mcore models.
MEGATRON = {
    "embedding.word_embeddings.weight": ("embedding_VD", "V,D"),
    "decoder.layers.{n}.self_attention.linear_qkv.weight": (f"{QUERY} {KEY} {VALUE} groups", "D"),
    "decoder.layers.{n}.self_attention.linear_proj.weight": (OUT, "D,HC"),
    "decoder.layers.{n}.self_attention.q_layernorm.weight": (QUERY_NORM, "C"),
    "decoder.layers.{n}.self_attention.k_layernorm.weight": (KEY_NORM, "C"),
    "decoder.layers.{n}.mlp.linear_fc1.weight": (f"{GATE} {UP} rows", "D"),
    "decoder.layers.{n}.mlp.linear_fc2.weight": (DOWN, "D,F"),
    "decoder.final_layernorm.weight": ("norm_D", "D"),
    "output_layer.weight": ("head_DV", "V,D"),
}
BODIES = {"stock": STOCK, "joined": JOINED, "mindformers": MINDFORMERS, "meta": META, "megatron": MEGATRON}

# The norms of a layer: before and after attention, before and after the feed-forward. The same name means different norms in different
# families: `post_attention_layernorm` is Qwen's norm before the feed-forward and Gemma's norm after attention.
SPELLINGS = {
    "qwen": ("input_layernorm", "", "post_attention_layernorm", ""),
    "gemma": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "glm4": ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    "afmoe": ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
    "ouro": ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2"),
    "sandwich": ("input_layernorm", "post_attn_layernorm", "post_attention_layernorm", "post_ffn_layernorm"),
    "pre and post": ("pre_attention_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "short": ("attn_norm", "attn_post_norm", "ffn_norm", "ffn_post_norm"),
    "meta": ("attention_norm", "", "ffn_norm", ""),
    "meta and post": ("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm"),
    "megatron": ("input_layernorm", "", "pre_mlp_layernorm", ""),
    "megatron and post": ("input_layernorm", "post_self_attn_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
    "mindspeed": ("input_layernorm", "post_attn_norm", "pre_mlp_layernorm", "post_mlp_layernorm"),
    "transformer engine": ("self_attention.linear_qkv.layer_norm", "", "mlp.linear_fc1.layer_norm", ""),
    "nemo": (
        "self_attention.linear_qkv.layer_norm",
        "self_attention.linear_proj.post_layernorm",
        "mlp.linear_fc1.layer_norm",
        "mlp.linear_fc2.post_layernorm",
    ),
}
NORM_LEAVES = (NORM, POST_NORM, FEEDFORWARD_NORM, FEEDFORWARD_POST_NORM)


@dataclasses.dataclass(frozen=True)
class Row:
    """One stored tensor: the leaves it holds, and its axes as merged dimensions of theirs."""

    leaves: tuple[str, ...]
    axes: tuple[str, ...]  # of a tensor that joins several leaves: those after the first
    joined: str = ""  # rows | groups


class NamesError(UserError):
    """Names that no table accounts for; the message lists them."""


@functools.cache
def table(body: str, spelling: str) -> dict[str, Row]:
    """Name without wrapping prefixes, {n} for the layer -> row."""
    entries = dict(BODIES[body])
    layer = "decoder.layers.{n}." if body == "megatron" else "layers.{n}."
    for leaf, name in zip(NORM_LEAVES, SPELLINGS[spelling], strict=True):
        if name:
            dotted = "_weight" if name.endswith(".layer_norm") else ".weight"  # Transformer Engine keeps the norm inside the projection
            entries[f"{layer}{name}{dotted}"] = (leaf, "D")
    return parse(entries)


def parse(entries: dict) -> dict[str, Row]:
    """Rows of a table as it is written above; raises `NamesError` for one that cannot be read."""
    rows = {}
    for name, entry in entries.items():
        try:
            leaves, axes = entry
            *parts, last = leaves.split()
            rows[bare(name)] = Row((*parts, last), tuple(axes.split(","))) if not parts else Row(tuple(parts), tuple(axes.split(",")), last)
        except (ValueError, AttributeError, TypeError):
            raise NamesError(f"names: found {name!r}: {entry!r}, must be like ['{QUERY}', 'HC,D']") from None
    return rows


def read_table(path: str | Path) -> dict[str, Row]:
    """A table of the user's, a JSON object of rows."""
    try:
        entries = json_text.read(path)
    except (OSError, ValueError) as error:
        raise NamesError(f"--names={path}: cannot be read as JSON ({error})") from None
    if not isinstance(entries, dict):
        raise NamesError(f"--names={path}: found {type(entries).__name__}, must be an object of names and rows")
    return parse(entries)


def bare(name: str) -> str:
    """A name without the prefixes that only wrap a model."""
    while wrapper := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), ""):
        name = name.removeprefix(wrapper)
    return name


@dataclasses.dataclass(frozen=True)
class Match:
    """A table that accounts for a checkpoint: for every stored name its row and its layer (-1: outside the layers)."""

    form: str
    places: dict[str, tuple[Row, int]]

    @property
    def leaves(self) -> set[str]:
        return {leaf for row, _ in self.places.values() for leaf in row.leaves}


def match(names: Iterable[str], layers: int, given: dict[str, Row] | None = None) -> Match:
    """The table for these names of a model of so many layers, among those known or the one given.

    Raises `NamesError` with every name that the nearest table does not know and every one it misses.
    """
    templates = {name: _template(name) for name in names if not NOT_PARAMETERS.search(name)}
    candidates = {"--names": given} if given else {f"{b}, {s}": table(b, s) for b, s in itertools.product(BODIES, SPELLINGS)}
    nearest = None
    for form, rows in candidates.items():
        found, unknown = {}, []
        for name, (template, layer) in templates.items():
            if template in rows and -1 <= layer < layers:
                found[name] = (rows[template], layer)
            else:
                unknown.append(name)
        missing = _missing(rows, found, layers)
        if not unknown and not missing:
            return Match(form, found)
        if nearest is None or len(unknown) + len(missing) < len(nearest[1]) + len(nearest[2]):
            nearest = (form, unknown, missing)
    form, unknown, missing = nearest
    lines = [f"no table of names accounts for this checkpoint; the nearest is {form!r}"]
    lines += [f"  not known to it: {line}" for line in _by_layer(unknown)] + [
        f"  missing from the checkpoint: {line}" for line in _by_layer(missing)
    ]
    lines.append("give a table of this checkpoint's names with --names=names.json (docs/hugging_face.md shows one)")
    raise NamesError("\n".join(lines))


def _template(name: str) -> tuple[str, int]:
    """A name without wrapping prefixes and with {n} for its layer, and that layer; -1 where it has none."""
    layer = re.search(r"(?:^|(?<=\.))\d+(?=\.)", name := bare(name))
    return (f"{name[: layer.start()]}{{n}}{name[layer.end() :]}", int(layer.group())) if layer else (name, -1)


def _missing(rows: dict[str, Row], found: dict, layers: int) -> list[str]:
    """Names that a complete checkpoint of this table would have too; norms of heads and an output head may be absent altogether."""
    there = {(bare(name), layer) for name, (_, layer) in found.items()}
    held = {leaf for row, _ in found.values() for leaf in row.leaves}
    missing = []
    for template, row in rows.items():
        if set(row.leaves) <= {QUERY_NORM, KEY_NORM, "head_DV"} and not held & set(row.leaves):
            continue
        numbers = range(layers) if "{n}" in template else (-1,)
        missing += [name for n in numbers if ((name := template.replace("{n}", str(n))), n) not in there]
    if (QUERY_NORM in held) != (KEY_NORM in held):
        missing += [template for template, row in rows.items() if set(row.leaves) & {QUERY_NORM, KEY_NORM} and not held & set(row.leaves)]
    return missing


def _by_layer(names: list[str]) -> list[str]:
    """Names with the layers of equal ones together: layers.{0, 1, 27}.x, or {0-27}."""
    groups: dict[str, list[int]] = {}
    for name in names:
        layer = re.search(r"\.(\d+)\.", "." + name)
        template = re.sub(r"(^|\.)(\d+)\.", r"\g<1>{}.", name, count=1) if layer else name
        groups.setdefault(template, []).extend([int(layer.group(1))] if layer else [])
    lines = []
    for template, numbers in groups.items():
        numbers = sorted(numbers)
        run = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
        text = f"{numbers[0]}-{numbers[-1]}" if run else ", ".join(map(str, numbers))
        lines.append(template.replace("{}", "{" + text + "}") if numbers else template)
    return lines
