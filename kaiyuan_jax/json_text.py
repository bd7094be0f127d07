"""JSON that anybody may have written: a value, or one line that says why not.

Python's parser fails in four different ways (`JSONDecodeError`; `UnicodeDecodeError`; `ValueError` for a number of more than 4,300 digits;
`RecursionError` for brackets ten thousand deep), and what it lets through can fail later: a value nested a thousand deep cannot be printed,
half a surrogate pair cannot be written. Here all of them are a `JSONError`, whose message has one line.

Memory is bounded by the size of the file, which is at most `LIMIT`: parsed values take at most about 30 times the bytes of their text.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

LIMIT = 64 << 20  # bytes; the largest descriptions in use, indexes and tokenizers of large models, have 10 to 40 MB
DEPTH = 64  # brackets inside one another; ours have a dozen


class JSONError(ValueError):
    """Text that is not the JSON of a description; one line, without the name of the file."""


def parse(text: str | bytes, pairs: Callable[[list], dict] | None = None):
    """The value of a text; `pairs` makes an object out of its pairs, as for `json.loads`. Raises `JSONError`."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=pairs)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise JSONError(f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise JSONError("a string holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise JSONError(f"brackets more than {DEPTH} deep") from None
    except ValueError as error:
        raise JSONError(" ".join(str(error).split())[:200]) from None
    if text.count("[") + text.count("{") > DEPTH and _depth(value) > DEPTH:
        raise JSONError(f"brackets more than {DEPTH} deep")
    return value


def read(path: str | os.PathLike):
    """The value in a file, the name of a local one or a path object. Raises `JSONError`, and OSError where there is no file to read."""
    with (Path(path) if isinstance(path, str) else path).open("rb") as file:
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise JSONError(f"larger than {LIMIT >> 20} MiB")
    return parse(text.removeprefix(b"\xef\xbb\xbf"))  # editors put a byte order mark in front


def _depth(value) -> int:
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > DEPTH:
            break
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth
