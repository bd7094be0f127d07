"""A model of ours as a Hugging Face checkpoint of a stock architecture: config.json, sharded safetensors, and what undoes the folding.

Leaves come one at a time, so memory holds one leaf; the folder appears under its name when every file is complete. Values are rounded
once, to the dtype of the files; where no rounding was asked for, an import gives the same bits (folding.py says how).
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tqdm

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.models.hf import folding, layout, names, read, safetensors_files

# Of the four norms of a layer as STOCK's architectures spell them.
SPELLING = {"llama": "qwen", "qwen3": "qwen", "gemma3": "gemma"}


class ExportError(UserError):
    """Parameters that the files asked for cannot hold; the message names them."""


@dataclasses.dataclass
class Written:
    """What an export put on disk."""

    files: list[str]  # of tensors
    bytes: int = 0  # of tensors
    losses: dict[str, folding.Loss] = dataclasses.field(default_factory=dict)  # leaf -> what folding could not keep
    exact: bool = True  # whether an import gives the bits that were exported
    spoilt: list[str] = dataclasses.field(default_factory=list)  # tensors whose values the dtype cannot hold
    corrections: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)


def stored_rows(model: config.Model, form: str) -> dict[str, tuple[names.Row, int]]:
    """Full name of every tensor of the architecture, in the order of the network -> its row and layer (-1: outside the layers)."""
    wanted = set(leaf_paths(model))
    rows = {name: row for name, row in names.table("stock", SPELLING[form]).items() if set(row.leaves) <= wanted}
    first, last = "embed_tokens.weight", ("norm.weight", "lm_head.weight")
    inside = [name for name in rows if "{n}" in name]
    places = {f"model.{first}": (rows[first], -1)}
    places |= {f"model.{name.format(n=n)}": (rows[name], n) for n in range(model.layers) for name in inside}
    return places | {(name if name == "lm_head.weight" else f"model.{name}"): (rows[name], -1) for name in last if name in rows}


def leaf_paths(model: config.Model) -> list[str]:
    """Paths of all leaves of a model's parameter tree."""
    matrices = [names.QUERY, names.KEY, names.VALUE, names.OUT, names.GATE, names.UP, names.DOWN]
    found = ["embedding_VD", "norm_D", names.NORM, names.FEEDFORWARD_NORM, *matrices]
    found += [] if model.tied else ["head_DV"]
    found += [names.QUERY_NORM, names.KEY_NORM] if model.qk_norm else []
    return found + ([names.POST_NORM, names.FEEDFORWARD_POST_NORM] if model.sandwich_norm else [])


def count(model: config.Model) -> int:
    """Parameters of a model."""
    size = layout.sizes(model)
    return sum(math.prod(layout.leaf_shape(path, size)) for path in leaf_paths(model))


def write(
    folder: Path, model: config.Model, form: str, paths: Iterable[str], leaf: Callable[[str], np.ndarray], *, dtype: str, shard_bytes: int
) -> Written:
    """Writes the tensors of a model into a folder, one leaf after another, and beside them the corrections that an import needs.

    paths, leaf: every leaf's path and a function that reads it, [N, ...] where it has layers. dtype: float32, bfloat16 or float16.
    Raises `ExportError` for leaves that are not this model's, and for values that are not finite, or too large for float16, by tensor.
    """
    size, kept, paths = layout.sizes(model), read.FLOATS[dtype], list(paths)
    if wrong := set(paths) ^ set(leaf_paths(model)):
        raise ExportError(f"the parameters are not those of this config.json: {', '.join(sorted(wrong))} on one side only")
    places = stored_rows(model, form)
    writer = safetensors_files.Writer(folder, {name: layout.shape(row, size) for name, (row, _) in places.items()}, kept, shard_bytes)
    done = Written(writer.files)
    for path in tqdm.tqdm(paths, desc="exporting", unit="leaf", disable=None, leave=False):
        array = leaf(path)
        if array.shape != (shape := layout.leaf_shape(path, size)):
            raise ExportError(f"{path} has shape {list(array.shape)}, must be {list(shape)} by this config.json")
        holders = [(name, row, layer) for name, (row, layer) in places.items() if path in row.leaves]
        fold = read.fold_of(path, model, kept) if form == "gemma3" else None
        _plain(done, writer, array, holders, size) if fold is None else _folded(done, writer, path, array, holders, fold)
        done.exact &= array.dtype == kept
    if done.spoilt:
        raise ExportError(
            "\n".join(
                [
                    f"--dtype={dtype}: cannot hold every value; choose a wider one, if it is not the model that diverged",
                    *(f"  {line}" for line in done.spoilt),
                ]
            )
        )
    if done.corrections:
        target = folder / read.CORRECTIONS
        target.parent.mkdir(exist_ok=True)
        safetensors_files.write(target, dict(sorted(done.corrections.items())), {"dtype": dtype} | dict(sorted(done.checksums.items())))
    done.bytes = sum((folder / name).stat().st_size for name in writer.files)
    return done


def _plain(done: Written, writer: safetensors_files.Writer, array: np.ndarray, holders: list, size: layout.Sizes) -> None:
    """A leaf that is stored as it is."""
    for name, row, layer in holders:
        one = array[layer] if layer >= 0 else array
        made = folding.cast(one, writer.dtype)
        if _finite(done, name, one) and _finite(done, name, made):
            writer.put(name, layout.stored(row, made, size))


def _folded(done: Written, writer: safetensors_files.Writer, path: str, array: np.ndarray, holders: list, fold: folding.Fold) -> None:
    """A leaf that is folded into what the architecture expects, elementwise; its layout is ours."""
    loss, fixes, check = done.losses.setdefault(path, folding.Loss()), [], 0
    for name, _, layer in holders:
        one = array[layer] if layer >= 0 else array
        if not _finite(done, name, one):
            return
        made, fix = folding.store(one, fold, writer.dtype, loss)
        if not _finite(done, name, made):
            return
        writer.put(name, made)
        check = read.checksum([made], check)
        fixes.append(fix)
    if any(fix is not None for fix in fixes):
        widest = max((fix.dtype for fix in fixes if fix is not None), key=lambda dtype: dtype.itemsize)
        shape = array.shape if holders[0][2] < 0 else array.shape[1:]
        filled = [np.zeros(shape, widest) if fix is None else fix.astype(widest, copy=False) for fix in fixes]
        done.corrections[path] = filled[0] if holders[0][2] < 0 else np.stack(filled)
        done.checksums[path] = str(check)


def _finite(done: Written, name: str, array: np.ndarray) -> bool:
    """Whether every value of a tensor is finite; notes it where not."""
    broken = array.size - int(np.count_nonzero(np.isfinite(array)))
    if broken:
        done.spoilt.append(f"{name}: {broken:,} of {array.size:,} values are not finite in {array.dtype}")
    return not broken


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name `target` when the block ends, and vanishes when it fails."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
