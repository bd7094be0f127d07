"""Hugging Face sequence classifiers in ONNX: a folder with model.onnx, tokenizer.json and config.json, as `optimum` and the hub give them.

A score must not depend on the documents that happened to share a batch, else two runs over differently cut files would sort texts
differently. Matrix products of another shape round differently, so shapes are fixed: a text of n tokens is padded to the next multiple of
16 (at most 512) and goes into a batch of exactly max(1, 256 // length) rows, filled up with rows of padding. What a text meets is then a
function of the text alone. Runtimes do not promise that equal rows of equal shapes give equal bits, but on CPUs they do, and a test holds
it. Larger batches are no faster on a core: 25 tokens already keep it busy (docs/scoring.md).
Models quantised dynamically take one scale from the whole batch: they get one text at a time.

Score of a label: its softmax (its sigmoid where config.json says multi_label_classification); of a model with one output: that output
as it is, such as the 0 to 5 of educational classifiers. Texts are cut at 512 tokens, and before that at 64 characters a token.
"""

import dataclasses
import functools
import json
import mmap
import os
from pathlib import Path

import numpy as np

from kaiyuan_jax.config import UserError

TOKENS = 512  # of a text that are looked at
STEP = 16  # texts are padded to multiples of this
BATCH_TOKENS = 256
CHARACTERS = 64  # a token, at most
FILES = ("model.onnx", "tokenizer.json", "config.json")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxError(UserError):
    """A folder that holds no usable classifier; one line."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A loaded model. `inputs` are the names that it asks for, `labels` those of its outputs, in their order."""

    session: object
    inputs: tuple[str, ...]
    tokenizer: object
    labels: tuple[str, ...]
    pad: int
    longest: int  # tokens
    alone: bool  # one text a batch
    sigmoid: bool

    def logits(self, texts: list[str]) -> np.ndarray:
        """float32[texts, labels]."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast([text[: self.longest * CHARACTERS] for text in texts])]
        lengths = np.array([min(self.longest, max(1, -(-len(row) // STEP)) * STEP) for row in ids], np.int64)
        results = np.zeros((len(texts), len(self.labels)), np.float32)
        for length in np.unique(lengths):
            rows, places = 1 if self.alone else max(1, BATCH_TOKENS // int(length)), np.flatnonzero(lengths == length)
            for start in range(0, len(places), rows):
                chosen = places[start : start + rows]
                results[chosen] = self._run([ids[place] for place in chosen], rows, int(length))
        return results

    def scores(self, texts: list[str], label: str) -> np.ndarray:
        """float64[texts]: the score of one label; `label` is not looked at where there is only one."""
        logits = self.logits(texts).astype(np.float64)
        if len(self.labels) == 1:
            return logits[:, 0]
        column = self.labels.index(label)
        if self.sigmoid:
            return 1 / (1 + np.exp(-logits[:, column]))
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials[:, column] / exponentials.sum(axis=1)

    def _run(self, ids: list[list[int]], rows: int, length: int) -> np.ndarray:
        input_ids = np.full((rows, length), self.pad, np.int64)
        mask = np.zeros((rows, length), np.int64)
        mask[len(ids) :, 0] = 1  # a row without any token would divide by zero
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)], mask[row, : max(1, len(tokens))] = tokens, 1
        given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        (logits,) = self.session.run([self.session.get_outputs()[0].name], {name: given[name] for name in self.inputs})
        return logits.reshape(rows, -1)[: len(ids)]


def read_labels(folder: str | Path) -> list[str]:
    """Labels by output number, from config.json (`id2label`; else LABEL_0, LABEL_1, ...). Raises `OnnxError` for an incomplete folder."""
    missing = [name for name in FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise OnnxError(f"{folder}: has no {', '.join(missing)}; expected a folder with {', '.join(FILES)}")
    config = _config(folder)
    names = config.get("id2label")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(map(str, range(len(names)))):
        return [str(names[str(number)]) for number in range(len(names))]
    count = config.get("num_labels", 2)
    return [f"LABEL_{number}" for number in range(count if isinstance(count, int) else 2)]


def _config(folder: str | Path) -> dict:
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise OnnxError(f"{folder}/config.json: not JSON ({error}); copy it again from the model's page") from None
    if not isinstance(config, dict):
        raise OnnxError(f"{folder}/config.json: holds {type(config).__name__}, must be an object of settings")
    return config


def load(folder: str | Path) -> Classifier:
    """The classifier of a folder, once a process, on one thread: the pipeline runs one process a core.

    Raises `OnnxError` where a file is missing or broken, the package is not installed, or the model asks for inputs other than
    input_ids, attention_mask and token_type_ids, or gives another number of outputs than config.json has labels.
    """
    read_labels(folder)
    return _load(str(folder), tuple(os.stat(Path(folder) / name).st_mtime_ns for name in FILES))


@functools.lru_cache(maxsize=2)
def _load(folder: str, changed: tuple[int, ...]) -> Classifier:
    try:
        import onnxruntime
    except ImportError:
        raise OnnxError(f"{folder}: needs the package onnxruntime; install it with pip install 'kaiyuan_jax[engine]'") from None
    from tokenizers import Tokenizer

    path, config, labels = Path(folder), _config(folder), read_labels(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package raises a dozen kinds of its own
        raise OnnxError(f"{path / 'model.onnx'}: cannot be loaded ({_first_line(error)}); export the model again") from None
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the package raises a bare Exception
        raise OnnxError(f"{path / 'tokenizer.json'}: not a tokenizer ({_first_line(error)}); copy it again from the model's page") from None
    inputs = tuple(node.name for node in session.get_inputs())
    unknown = sorted(set(inputs) - set(INPUTS))
    if unknown:
        raise OnnxError(f"{path / 'model.onnx'}: asks for {', '.join(unknown)}; must take only {', '.join(INPUTS)}")
    width = session.get_outputs()[0].shape[-1]
    if isinstance(width, int) and width != len(labels):
        raise OnnxError(f"{path / 'model.onnx'}: gives {width} outputs, config.json has labels {', '.join(labels)}; must be as many")
    positions = config.get("max_position_embeddings")
    longest = min(TOKENS, positions) if isinstance(positions, int) and positions > 0 else TOKENS
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return Classifier(
        session=session,
        inputs=inputs,
        tokenizer=tokenizer,
        labels=tuple(labels),
        pad=config.get("pad_token_id") or 0,
        longest=longest,
        alone=_quantised_dynamically(path / "model.onnx"),
        sigmoid=config.get("problem_type") == "multi_label_classification",
    )


def _quantised_dynamically(path: Path) -> bool:
    """Whether any operator measures its input when it runs (DynamicQuantizeLinear, DynamicQuantizeMatMul, DynamicQuantizeLSTM)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"DynamicQuantize") >= 0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
