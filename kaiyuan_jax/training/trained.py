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
    """(run folder, folder of the parameters) of checkpoints/STEP or averages/NAME in a run, or of a run: then its newest checkpoint.

    Raises UserError that begins with the flag and says what there is.
    """
    path = storage.path(item)
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
    experiment = config.from_json((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer, _ = tokenizers.load(folder / "tokenizer.json")
    eod = tokenizers.end_of_document(tokenizer, end)
    _, abstract = decoder.abstract(experiment.model, experiment.precision)
    params = checkpoint.load_parameters(parameters, abstract)
    return Trained(experiment.model, experiment.precision, params, tokenizer, eod, experiment.data.sequence_length)
