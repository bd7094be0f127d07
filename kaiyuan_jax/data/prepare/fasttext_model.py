"""fastText classifiers (Joulin et al., arXiv 1607.01759): trained here in NumPy, written as .bin, applied by the fastText library itself.

A text is lower-cased, newlines become blanks, and it is cut at blanks into words w_1 .. w_n, the last being </s>, the library's end of
line. Its features are the words of the dictionary and every run of 2 to N words, hashed into buckets:

    h = (...(h(w_i) a + h(w_i+1)) a + ...) mod 2^64,  a = 116049371,  h(w) the 32-bit FNV-1a hash of the UTF-8 bytes, both sign-extended
    hidden = mean of the features' rows of the input matrix;  p = softmax(output hidden)

Training is plain SGD, one document after another, with a rate that falls linearly to 0 over the words. The library's own trainer runs
threads that overwrite one another, so its models differ from run to run; this one gives the same bytes for the same documents, seed and
kind of processor.
Every packaged build of that trainer is also a module named `fasttext`, and so would replace the small one that only predicts.

With two labels the score depends on hidden through one direction alone, so a few dimensions lose nothing: the default is 16, not 100.
Memory: 4 (words + buckets) dimension bytes for the matrix, 16 bytes for each word of the training text and run length.

The library returns p + 1e-5, so a probability may read 1.00001; it is passed on as it is, since published thresholds were set so, and
since cutting it would make ties of the best documents. A text that spells the word </s> ends there, as it does for the library.
"""

import dataclasses
import functools
import itertools
import math
import mmap
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kaiyuan_jax.config import UserError

END = b"</s>"
LABEL = "__label__"
MAGIC, VERSION = 793712314, 12
_SOFTMAX, _SUPERVISED = 3, 3
_MULTIPLIER = np.uint64(116049371)


class FastTextError(UserError):
    """A model file or training set that cannot be used; one line."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a classifier is trained. `rate` is the first learning rate; rarer words than `min_count` count only inside runs of words."""

    dimension: int = 16
    word_ngrams: int = 2
    buckets: int = 1 << 20
    min_count: int = 3
    epochs: int = 5
    rate: float = 0.5
    seed: int = 0

    def problems(self) -> list[str]:
        """Every field out of range, one line each."""
        least = dict(dimension=1, word_ngrams=1, buckets=1, min_count=1, epochs=1, seed=0)
        found = [f"--{name}={getattr(self, name)}: must be at least {low}" for name, low in least.items() if getattr(self, name) < low]
        if not (math.isfinite(self.rate) and self.rate > 0):
            found.append(f"--rate={self.rate}: must be a number above 0")
        return found


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained classifier. W words, K labels, D dimensions."""

    words: list[bytes]
    counts: np.ndarray  # int64[W], in the training text
    labels: list[str]  # without the prefix __label__
    documents: np.ndarray  # int64[K], training documents of each label
    input_FD: np.ndarray  # float32, F = W + buckets
    output_KD: np.ndarray  # float32
    options: Options

    def probabilities(self, texts: Iterable[str]) -> np.ndarray:
        """float64[texts, K]: the softmax, without the library's 1e-5; equal shares for a text with no known feature."""
        index, rows = self._index, []
        for text in texts:
            words = split(text)
            ids = np.array([index.get(word, -1) for word in words], np.int64)
            features = _features(ids, np.array([word_hash(word) for word in words], np.uint32), len(self.words), self.options)
            rows.append(_softmax(self.output_KD @ self.input_FD[features].mean(axis=0)) if len(features) else self._even)
        return np.array(rows, np.float64).reshape(-1, len(self.labels))

    @functools.cached_property
    def _index(self) -> dict[bytes, int]:
        return {word: number for number, word in enumerate(self.words)}

    @property
    def _even(self) -> np.ndarray:
        return np.full(len(self.labels), 1 / len(self.labels))


def preprocess(text: str) -> str:
    """Lower case on one line, as classifiers for pretraining text are published (arXiv 2512.07612; DataComp-LM, arXiv 2406.11794)."""
    return text.replace("\n", " ").lower()


def split(text: str) -> list[bytes]:
    """The words that the library reads from a preprocessed text, with the </s> that ends its line."""
    words = preprocess(text).encode("utf-8", "replace").replace(b"\0", b" ").split()
    if END in words:
        del words[words.index(END) :]
    prefix = LABEL.encode()
    return [word for word in words if not word.startswith(prefix)] + [END]


@functools.lru_cache(maxsize=1 << 18)
def word_hash(word: bytes) -> int:
    """FNV-1a in 32 bits, over bytes that the library takes for signed."""
    value = 2166136261
    for byte in word:
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return value


def train(texts: Iterable[str], labels: Sequence[int], names: Sequence[str], options: Options, progress: bool = False) -> Model:
    """A classifier of `names` from texts and their label numbers; the same bytes for the same texts in the same order.

    Raises `FastTextError` where a label has no text or no word is frequent enough.
    """
    number = defaultdict(itertools.count().__next__)  # of each distinct word, in the order met
    rows = [np.array(list(map(number.__getitem__, split(text))), np.int64) for text in tqdm(texts, "words", disable=not progress or None)]
    documents = np.bincount(labels, minlength=len(names)) if len(labels) else np.zeros(len(names), np.int64)
    if len(rows) != len(labels) or not documents.all():
        empty = [name for name, count in zip(names, documents, strict=True) if not count]
        raise FastTextError(f"training set: no text for {', '.join(empty) or 'some labels'}; give each label a folder with documents")
    vocabulary, counts = list(number), np.bincount(np.concatenate(rows), minlength=len(number))
    frequent = sorted((-int(counts[i]), vocabulary[i], i) for i in np.flatnonzero(counts >= options.min_count))
    if not frequent:
        raise FastTextError(f"--min_count={options.min_count}: no word of the training set is so frequent; lower it or give more text")
    order = np.array([i for _, _, i in frequent])
    final = np.full(len(vocabulary), -1, np.int64)
    final[order] = np.arange(len(order))
    hashes = np.array([word_hash(word) for word in vocabulary], np.uint32)
    sizes = np.array([len(row) for row in rows])
    for place, row in enumerate(rows):  # in place: words give way to features
        features = _features(final[row], hashes[row], len(order), options)
        unique, times = np.unique(features, return_counts=True)
        rows[place] = (unique.astype(np.uint32), (times / max(1, len(features))).astype(np.float32))
    words = [word for _, word, _ in frequent]
    input_FD, output_KD = _descend(rows, sizes, np.asarray(labels), len(words), len(names), options, progress)
    return Model(words, counts[order], list(names), documents, input_FD, output_KD, options)


def _features(ids: np.ndarray, hashes: np.ndarray, words: int, options: Options) -> np.ndarray:
    """int64: row numbers of the input matrix, from word ids (-1: not in the dictionary) and hashes (uint32) of one text."""
    parts = [ids[ids >= 0]]
    signed = hashes.view(np.int32).astype(np.int64).view(np.uint64)
    run = signed
    for length in range(2, min(options.word_ngrams, len(ids)) + 1):
        run = run[:-1] * _MULTIPLIER + signed[length - 1 :]  # wraps, as it does in the library
        parts.append(words + (run % np.uint64(options.buckets)).astype(np.int64))
    return np.concatenate(parts)


def _descend(rows, sizes, labels, words: int, kinds: int, options: Options, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """SGD over rows of (features, shares of the mean); returns input_FD and output_KD, float32."""
    random = np.random.default_rng(options.seed)
    bound = 1 / options.dimension
    input_FD = random.random((words + options.buckets, options.dimension), np.float32)
    input_FD *= np.float32(2 * bound)
    input_FD -= np.float32(bound)
    output_KD = np.zeros((kinds, options.dimension), np.float32)
    done, total = 0, int(sizes.sum()) * options.epochs
    bar = tqdm(total=total, desc="training", unit=" words", unit_scale=True, disable=not progress or None)
    for _ in range(options.epochs):
        for place in random.permutation(len(rows)):
            features, share = rows[place]
            taken = input_FD[features]
            hidden_D = share @ taken
            error_K = -_softmax(output_KD @ hidden_D)
            error_K[labels[place]] += 1
            error_K *= options.rate * (1 - done / total)
            gradient_D = error_K @ output_KD
            output_KD += np.outer(error_K, hidden_D)
            taken += np.outer(share, gradient_D)
            input_FD[features] = taken
            done += int(sizes[place])
            bar.update(int(sizes[place]))
    bar.close()
    return input_FD, output_KD


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def measure(scores: np.ndarray, labels: np.ndarray) -> dict:
    """How well probabilities of label 1 (float64[n]) find the texts of label 1: accuracy at one half, and the area under the ROC curve.

    The area is the chance that a text of label 1 scores above one of label 0, ties counting half; null where one of them is absent.
    """
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below, upto = (np.searchsorted(negative, positive, side).sum() for side in ("left", "right"))
    pairs = len(positive) * len(negative)
    return {
        "documents": len(scores),
        "accuracy": float(((scores > 0.5) == labels).mean()) if len(scores) else None,
        "auc": float((below + upto) / (2 * pairs)) if pairs else None,
        "majority": max(len(positive), len(negative)) / len(scores) if len(scores) else None,  # accuracy of always naming one label
    }


def save(model: Model, path: str | Path) -> None:
    """Writes the library's binary format, version 12; whole or not at all."""
    options, path = model.options, Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    entries = [(word, int(count), 0) for word, count in zip(model.words, model.counts, strict=True)]
    entries += [(f"{LABEL}{name}".encode(), int(count), 1) for name, count in zip(model.labels, model.documents, strict=True)]
    try:
        with open(temporary, "wb") as file:
            # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
            file.write(struct.pack("<2i", MAGIC, VERSION))
            file.write(struct.pack("<6i", options.dimension, 5, options.epochs, options.min_count, 5, options.word_ngrams))
            file.write(struct.pack("<6id", _SOFTMAX, _SUPERVISED, options.buckets, 0, 0, 100, 1e-4))
            tokens = int(model.counts.sum() + model.documents.sum())
            file.write(struct.pack("<3i2q", len(entries), len(model.words), len(model.labels), tokens, -1))
            for word, count, kind in entries:
                file.write(word + b"\0" + struct.pack("<qb", count, kind))
            for matrix in (model.input_FD, model.output_KD):
                file.write(struct.pack("<?2q", False, *matrix.shape))
                matrix.astype("<f4", copy=False).tofile(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_labels(path: str | Path) -> list[str]:
    """The labels of a supervised model, .bin or .ftz, without their prefix. Raises `FastTextError` for anything else."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            magic, version, *arguments = struct.unpack_from("<14id", data, 0)
            if magic != MAGIC or not 11 <= version <= VERSION:
                raise FastTextError(f"{path}: not a fastText model of version 11 or 12; expected .bin or .ftz")
            if arguments[7] != _SUPERVISED:
                raise FastTextError(f"{path}: holds word vectors, no classifier; give a supervised model")
            entries, place, labels = struct.unpack_from("<i", data, 64)[0], 64 + 28, []
            for _ in range(entries):
                end = data.find(b"\0", place)
                if end < 0 or end + 10 > len(data):
                    raise struct.error
                if data[end + 9]:
                    labels.append(data[place:end].decode("utf-8", "replace").removeprefix(LABEL))
                place = end + 10
            return labels
    except OSError as error:
        raise FastTextError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (struct.error, ValueError):
        raise FastTextError(f"{path}: not a fastText model, or cut off; expected .bin or .ftz") from None


def library():
    """The module that applies models; raises `FastTextError` where it is not installed."""
    try:
        import fasttext
    except ImportError:
        raise FastTextError("fastText models need fasttext-predict; install it with pip install 'kaiyuan_jax[engine]'") from None
    return fasttext


@functools.lru_cache(maxsize=4)
def _load(path: str, changed: int):
    return library().load_model(path)


def apply(path: str, label: str, texts: Iterable[str]) -> list[float | None]:
    """What the fastText library gives for one label of a model file; null for a text none of whose features the model knows.

    The model is loaded once a process. `label` comes without its prefix.
    """
    model, wanted = _load(path, os.stat(path).st_mtime_ns).f, LABEL + label
    scores = []
    for text in texts:
        found = {name: probability for probability, name in model.predict(preprocess(text) + "\n", -1, 0.0, "strict")}
        scores.append(found.get(wanted) if found else None)
    return scores
