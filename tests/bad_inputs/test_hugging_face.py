"""Hugging Face folders: damaged, of models that we do not compute, or made to do harm."""

import json
import struct

import pytest

from tests.bad_inputs.cases import Case, both, cut, edit, remove, replace

IMPORT = "--checkpoint=hf --output=runs/imported"
TENSORS = "hf/model.safetensors"


def header(change, padding=0):
    """The header of the safetensors file changed; its data stays."""

    def spoil(good):
        content = (good / TENSORS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        tree = change(json.loads(content[8 : 8 + length]))
        text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        (good / TENSORS).write_bytes(struct.pack("<Q", len(text) + padding) + text + content[8 + length :])

    return spoil


def tensor(**changes):
    """Fields of the first tensor of the header changed."""

    def change(tree):
        name = next(name for name in tree if name != "__metadata__")
        return tree | {name: tree[name] | changes}

    return header(change)


def index(places):
    return both(
        lambda good: (good / TENSORS).rename(good / "hf/a.safetensors"), replace("hf/model.safetensors.index.json", json.dumps(places))
    )


def pickled(good):
    (good / TENSORS).unlink()
    (good / "hf/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")


CASES = [
    Case("no folder", "--checkpoint=none --output=runs/imported", ("none",)),
    Case("an output that exists", "--checkpoint=hf --output=runs/trained", ("--output=runs/trained: must not exist",)),
    Case("no config", IMPORT, ("hf: found no config.json",), remove("hf/config.json")),
    Case("a config that is not JSON", IMPORT, ("hf/config.json: cannot be read",), cut("hf/config.json", 0.3)),
    Case(
        "a config nested too deep", IMPORT, ("hf/config.json: cannot be read (brackets more than",), replace("hf/config.json", "[" * 99999)
    ),
    Case("a config that is a list", IMPORT, ("found list, must be a JSON object",), replace("hf/config.json", "[]")),
    Case(
        "a config with a list for its type", IMPORT, ("model_type = ['llama'], must be str",), edit("hf/config.json", model_type=["llama"])
    ),
    Case(
        "a model of a billion layers",
        IMPORT,
        ("not a model that our decoder computes", "num_hidden_layers = 1000000000"),
        edit("hf/config.json", num_hidden_layers=10**9),
        lines=2,
    ),
    Case(
        "a model with another activation",
        IMPORT,
        ("not a model", "hidden_activation = 'gelu'"),
        edit("hf/config.json", hidden_activation="gelu"),
        lines=2,
    ),
    Case("a window of words", IMPORT, ("sliding_window = 'wide', must be int",), edit("hf/config.json", sliding_window="wide")),
    Case("no tensors", IMPORT, ("hf: found no model.safetensors",), remove(TENSORS)),
    Case("a pickled checkpoint", IMPORT, ("pytorch_model.bin, a pickled checkpoint, which can run any code",), pickled),
    Case("tensors cut short", IMPORT, ("model.safetensors", "cut short or damaged"), cut(TENSORS, 0.7)),
    Case("an empty file of tensors", IMPORT, ("not a safetensors file (a header of 0 bytes in a file of 0)",), replace(TENSORS, b"")),
    Case(
        "a header longer than the file",
        IMPORT,
        ("not a safetensors file (a header of 18,446,744,073,709,551,615",),
        replace(TENSORS, b"\xff" * 64),
    ),
    Case("a header that is not JSON", IMPORT, ("header of a safetensors file cannot be read",), header(lambda tree: b"{]")),
    Case(
        "a header nested too deep",
        IMPORT,
        ("header of a safetensors file cannot be read (brackets more",),
        header(lambda tree: b"[" * 50000),
    ),
    Case("a tensor that reaches beyond", IMPORT, ("is said to lie at bytes",), tensor(data_offsets=[0, 10**15])),
    Case("a tensor of a petabyte", IMPORT, ("must be 4,000,000,000,000,000 bytes",), tensor(shape=[10**15])),
    Case("a tensor of negative size", IMPORT, ("entry of tensor",), tensor(shape=[-1, -8])),
    Case("a tensor of a dtype unknown", IMPORT, ("has dtype F64, must be one of",), tensor(dtype="F64")),
    Case("a tensor of another shape", IMPORT, ("must be",), tensor(shape=[1, 1])),
    Case(
        "a tensor under another name",
        IMPORT,
        ("no table of names accounts for this checkpoint",),
        header(lambda tree: {("odd" if name == next(reversed(tree)) else name): entry for name, entry in tree.items()}),
        lines=3,
    ),
    Case(
        "an index that leaves the folder",
        IMPORT,
        ("names the file '../../etc/passwd', must be a plain name",),
        index({"weight_map": {"a": "../../etc/passwd"}}),
    ),
    Case(
        "an index that names a pickle",
        IMPORT,
        ("names the file 'a.bin', must be a plain name that ends in .safetensors",),
        index({"weight_map": {"a": "a.bin"}}),
    ),
    Case("an index of missing shards", IMPORT, ("1 of 1 shards missing: b.safetensors",), index({"weight_map": {"a": "b.safetensors"}})),
    Case("an index that does not agree", IMPORT, ("does not agree with the shards",), index({"weight_map": {"a": "a.safetensors"}})),
    Case("an index without a map", IMPORT, ("no weight_map of names and files",), index({"metadata": {}})),
    Case("no tokenizer", IMPORT, ("holds no tokenizer.json",), remove("hf/tokenizer.json")),
    Case("a tokenizer that is none", IMPORT, ("not a tokenizer.json",), replace("hf/tokenizer.json", '{"version": "1.0"}')),
    Case("a tokenizer_config that is not JSON", IMPORT, ("tokenizer_config.json",), replace("hf/tokenizer_config.json", "{")),
    Case("a table of names that is none", f"{IMPORT} --names=text.jsonl", ("--names=text.jsonl: cannot be read as JSON",)),
    Case("an export over a folder", "--model=runs/trained --output=hf", ("--output=hf: exists",), tool="export_hf"),
    Case("an export to nowhere", "--model=runs/trained --output=none/hf", ("none is no folder",), tool="export_hf"),
    Case("an export of a form that does not fit", "--model=runs/trained --output=new --format=llama", ("llama",), tool="export_hf"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_checkpoint_is_said_and_leaves_nothing(case, refused):
    import dataclasses

    refused(case if case.tool != "train" else dataclasses.replace(case, tool="import_hf"))
