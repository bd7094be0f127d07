"""A trained model by the name a user gives it: a run, a checkpoint or an average inside one, or a Hugging Face checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kaiyuan_jax import config, storage
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.models import decoder
from kaiyuan_jax.models.hf import read
from kaiyuan_jax.training import checkpoint

AVERAGE = "average"  # item of a checkpoint


@dataclasses.dataclass(frozen=True)
class Trained:
    """What it takes to compute with a model."""

    model: config.Model
    precision: config.Precision
    params: dict[str, Any]  # the tree of `models.decoder.split`
    tokenizer: Tokenizer
    eod: int  # id of the token that ends a document
    length: int  # tokens, the longest sequence it has been trained on


def find(flag: str, item: str | Path) -> tuple[Path, Path]:
    """(run folder, folder of the parameters) of checkpoints/STEP, checkpoints/STEP/average or averages/NAME in a run, or of a run: then its
    newest checkpoint. `place` and `weights` take what it found.

    Raises UserError that begins with the flag and says what there is.
    """
    path = storage.path(item)
    if path.name == AVERAGE and path.parent.parent.name == "checkpoints":  # an item inside a checkpoint
        folder, _ = find(flag, path.parent)
        if not path.is_dir():
            raise config.UserError(f"{flag}={item}: this checkpoint holds no running average; leave out /{AVERAGE}, or name a later one")
        return folder, path
    folder = path.parents[1] if path.parent.name in ("checkpoints", "averages") else path
    if not ((folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()) or read.is_checkpoint(folder):
        raise config.UserError(
            f"{flag}={item}: must be a run (a folder that launch/train.py made), or checkpoints/STEP or averages/NAME inside one"
        )
    if path != folder:
        return folder, checkpoint.complete(path)
    steps = checkpoint.steps(folder / "checkpoints")
    if not steps:
        raise config.UserError(f"{flag}={item}: holds no complete checkpoint; train first (launch/train.py)")
    return folder, checkpoint.complete(folder / "checkpoints" / str(steps[-1]))


def place(found) -> tuple[Path, str]:
    """(checkpoint or average, item in it) of the second of what `find` gives."""
    running = found.name == AVERAGE and found.parent.parent.name == "checkpoints"
    return (found.parent, AVERAGE) if running else (found, "parameters")


def weights(found, abstract: dict) -> dict:
    """The parameters in the second of what `find` gives, as checkpoint.load_parameters reads them."""
    folder, item = place(found)
    return checkpoint.load_parameters(folder, abstract, item)


def load(flag: str, item: str | Path, *, end: str = "") -> Trained:
    """The model in memory, of a run or of a Hugging Face folder, which computes in float32.

    end: special token that ends documents; empty: the one the folder names, or the first usual one of the tokenizer. Raises UserError.
    """
    item = storage.path(item)
    if read.is_checkpoint(item):
        opened = read.open_folder(item)
        if opened.tokenizer is None:
            raise config.UserError(f"{flag}={item}: holds no tokenizer.json; save the model's tokenizer there")
        tokenizer, _ = tokenizers.load(str(opened.tokenizer))
        eod = tokenizers.end_of_document(tokenizer, end) if end or opened.end is None else opened.end
        return Trained(opened.model, config.Precision(), read.load(item).params, tokenizer, eod, opened.length)
    if not item.is_dir():
        raise config.UserError(f"{flag}={item}: must be a run, a checkpoint or average of one, or a Hugging Face folder; found none")
    folder, parameters = find(flag, item)
    experiment = config.read(folder / "config.json")
    tokenizer, _ = tokenizers.load(folder / "tokenizer.json")
    eod = tokenizers.end_of_document(tokenizer, end)
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    params = weights(parameters, abstract)
    return Trained(experiment.model, experiment.precision, params, tokenizer, eod, experiment.data.sequence_length)
