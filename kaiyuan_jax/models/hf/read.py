"""A Hugging Face checkpoint as a model of ours: `load(folder)` gives the model, its parameters and its tokenizer.

Only JSON and safetensors are read; code that comes with a checkpoint is not run. Which tensor is which is found by the tables of `names`;
what the architecture folds into its values is undone. Tensors are mapped from disk and go into their leaf one by one, so memory holds
the parameters once.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import tqdm

from kaiyuan_jax import config, storage
from kaiyuan_jax.models.hf import configs, folding, layout, names, safetensors_files
from kaiyuan_jax.models.hf.safetensors_files import CheckpointError, Tensor

CORRECTIONS = "kaiyuan_jax/corrections.safetensors"  # below the checkpoint, where programs that take every *.safetensors do not look
FLOATS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
PARAMETERS = ("float32", "bfloat16")


class Loaded(NamedTuple):
    """A checkpoint in memory."""

    model: config.Model
    params: dict  # nested dict of numpy arrays: the tree of `models.decoder.split`
    tokenizer: Path | None  # its tokenizer.json
    end: int | None  # id of the token that ends a text


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint whose files, names and shapes agree; no value has been read yet."""

    folder: Path
    model: config.Model
    table: str  # which table accounts for the names
    paths: tuple[str, ...]  # of our leaves, such as layers/attention/query_NDHC
    held: dict[str, list[tuple[int, Tensor, names.Row]]]  # leaf -> layer, tensor and row, by layer
    folded: bool  # gains are stored as 1 + w, the embedding divided by the root of the width
    tokenizer: Path | None
    end: int | None
    length: int  # tokens, the longest sequence it is made for
    notes: tuple[str, ...]  # what a user should know of how it was understood

    def leaves(self, parameters: str = "float32") -> Iterator[tuple[str, np.ndarray]]:
        """Yields path and array of every leaf, in the dtype named, read one at a time.

        Raises `CheckpointError` where the tensors were changed after the corrections beside them were made.
        """
        size, dtype, fixes = layout.sizes(self.model), FLOATS[parameters], _Corrections(self.folder)
        for leaf in tqdm.tqdm(self.paths, desc="reading", unit="leaf", disable=None, leave=False):
            made = np.empty(layout.leaf_shape(leaf, size), dtype)
            undo = self._undo(leaf)
            fix = fixes.of(leaf, [tensor for _, tensor, _ in self.held[leaf]])
            for layer, tensor, row in self.held[leaf]:
                target, values = made[layer] if layer >= 0 else made, tensor.read()
                if undo is None:
                    target[...] = layout.ours(row, values, size)[leaf]
                else:
                    _elementwise(target, values, undo, fix if fix is None or layer < 0 else fix[layer], fixes.dtype)
            yield leaf, made

    def _undo(self, leaf: str) -> Callable | None:
        if not self.folded:
            return None
        stored = self.held["embedding_VD"][0][1].dtype
        fold = fold_of(leaf, self.model, stored)
        return fold and fold.undo


def fold_of(leaf: str, model: config.Model, dtype: np.dtype) -> folding.Fold | None:
    """How Gemma3's files hold a leaf of ours; `dtype` is that of the stored embedding. None: as it is."""
    if leaf == "embedding_VD":
        return folding.times_root(model.width, dtype)
    if leaf == "norm_D" and model.tied:
        return folding.plus_one(folding.root(model.width, dtype))
    return folding.plus_one() if "norm" in leaf else None


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a local folder is a Hugging Face checkpoint: its config.json names a model_type, which ours never does."""
    if storage.is_remote(folder):
        return False
    path = Path(folder) / "config.json"
    with contextlib.suppress(configs.FormatError):  # what cannot be read is said by who reads it
        return path.is_file() and "model_type" in configs.load(path)
    return False


def load(
    folder: str | Path, parameters: str = "float32", table: dict[str, names.Row] | None = None, logit_softcap: float | None = None
) -> Loaded:
    """Reads a checkpoint whole. float32 parameters are exact, whatever float dtype it is stored in; so is bfloat16 from bfloat16.

    table: names of a checkpoint that no known table accounts for (`names.read_table`); logit_softcap: overrides its config.json.
    Raises `UserError` for files, fields or names that cannot be read; see `open_folder`.
    """
    opened, params = open_folder(folder, table, logit_softcap), {}
    for path, leaf in opened.leaves(parameters):
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return Loaded(opened.model, params, opened.tokenizer, opened.end)


def open_folder(folder: str | Path, table: dict[str, names.Row] | None = None, logit_softcap: float | None = None) -> Opened:
    """Checks a checkpoint's config, files, names and shapes against one another, and reads no value.

    Raises `CheckpointError` for damaged, missing or pickled files and for shapes, `FormatError` for fields that our decoder does not
    compute with, `NamesError` for names that no table accounts for.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: found no config.json, must be the folder of a Hugging Face checkpoint")
    found = configs.load(folder / "config.json")
    said = configs.from_json(found, str(folder / "config.json"), logit_softcap)
    tensors = safetensors_files.checkpoint(folder)
    matched = names.match(tensors, said.model.layers, table)
    model, leaves = said.model, matched.leaves
    model.qk_norm = names.QUERY_NORM in leaves
    model.sandwich_norm = {names.POST_NORM, names.FEEDFORWARD_POST_NORM} <= leaves
    _check_kind(folder, found.get("model_type"), model)
    _check_shapes(folder, tensors, matched, layout.sizes(model))
    model.tied = _tied(folder, said.tied, tensors, matched)
    held: dict[str, list] = {}
    for name, (row, layer) in matched.places.items():
        for leaf in row.leaves:
            held.setdefault(leaf, []).append((layer, tensors[name], row))
    if model.tied:
        held.pop("head_DV", None)
    generation = folder / "generation_config.json"
    end = configs.load(generation).get("eos_token_id") if generation.is_file() else None
    end = end[0] if isinstance(end, list) and end else end
    tokenizer = folder / "tokenizer.json"
    return Opened(
        folder=folder,
        model=model,
        table=matched.form,
        paths=tuple(sorted(held)),
        held={leaf: sorted(places, key=lambda place: place[0]) for leaf, places in held.items()},
        folded=said.form == "gemma3",
        tokenizer=tokenizer if tokenizer.is_file() else None,
        end=end if isinstance(end, int) else said.end,
        length=said.length,
        notes=said.notes,
    )


def _check_kind(folder: Path, kind: str, model: config.Model) -> None:
    """Raises where tensors that a known architecture always has are absent."""
    for needs, has, what in (
        (("qwen3", "gemma3_text"), model.qk_norm, "norms of queries and keys"),
        (("gemma3_text",), model.sandwich_norm, "norms after its sub-layers"),
    ):
        if kind in needs and not has:
            raise CheckpointError(f"{folder}: is a {kind} by its config.json, and has no {what}; download the whole checkpoint again")


def _check_shapes(folder: Path, tensors: dict[str, Tensor], matched: names.Match, size: layout.Sizes) -> None:
    for name, (row, _) in matched.places.items():
        tensor = tensors[name]
        if tensor.dtype not in FLOATS.values():
            raise CheckpointError(f"{tensor.file}: tensor {name} is {tensor.dtype}, must be a float; quantised checkpoints are not read")
        if tensor.shape != (wanted := layout.shape(row, size)):
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}, must be {list(wanted)} by {folder / 'config.json'}"
            )


def _tied(folder: Path, said: bool | None, tensors: dict[str, Tensor], matched: names.Match) -> bool:
    """Whether the output head is the embedding, by the config or, where it does not say, by the tensors."""
    heads = [name for name, (row, _) in matched.places.items() if "head_DV" in row.leaves]
    if not heads:
        if said is False:
            raise CheckpointError(f"{folder}: tie_word_embeddings is false, and there is no output head such as lm_head.weight")
        return True
    if not said:
        return False
    (embedding,) = (name for name, (row, _) in matched.places.items() if "embedding_VD" in row.leaves)
    head, rows = tensors[heads[0]].read(), tensors[embedding].read()
    if head.dtype != rows.dtype or any(
        not np.array_equal(head[start : start + 4096], rows[start : start + 4096]) for start in range(0, len(rows), 4096)
    ):
        raise CheckpointError(
            f"{folder}: tie_word_embeddings is true, but {heads[0]} is not {embedding}; set it to false in config.json if the head counts"
        )
    return True


def _elementwise(target: np.ndarray, values: np.ndarray, undo: Callable, fix: np.ndarray | None, exact: np.dtype | None) -> None:
    """target = undo(values), with corrections in the dtype in which they are exact; a piece at a time."""
    target, values = target.reshape(-1), values.reshape(-1)
    for start in range(0, values.size, folding.PIECE):
        piece = slice(start, start + folding.PIECE)
        undone = undo(values[piece])
        target[piece] = undone if fix is None else folding.correct(undone.astype(exact), fix.reshape(-1)[piece])


class _Corrections:
    """What our export left beside the checkpoint so that it comes back bit for bit; empty for a checkpoint of anybody else."""

    def __init__(self, folder: Path):
        self.path = folder / CORRECTIONS
        self.tensors, self.facts = safetensors_files.tensors(self.path) if self.path.is_file() else ({}, {})
        self.dtype = FLOATS.get(self.facts.get("dtype", "float32"))

    def of(self, leaf: str, stored: list[Tensor]) -> np.ndarray | None:
        """The corrections of a leaf. Raises `CheckpointError` where the tensors are not those it was made for."""
        if leaf not in self.tensors:
            return None
        if self.facts.get(leaf) != str(checksum(tensor.read() for tensor in stored)):
            raise CheckpointError(
                f"{self.path}: made for other values of {leaf} than those in {stored[0].file.name}; if the checkpoint was changed on "
                f"purpose, delete {self.path.parent}"
            )
        return self.tensors[leaf].read()


def checksum(arrays: Iterable[np.ndarray], total: int = 0) -> int:
    """CRC-32 of the bytes of arrays one after another, going on from `total`."""
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data, total)
    return total
