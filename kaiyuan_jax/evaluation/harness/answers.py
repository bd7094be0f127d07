"""A model's answers on disk, each under a hash of its question: a killed evaluation goes on where it was, another task asks nothing twice.

The file is a SQLite database, to which a batch of answers is added whole or not at all. Its name is the fingerprint of the model and of all
else that answers depend on, so that another checkpoint, tokenizer or precision never finds them; how rows were batched is left out, on
which only the last bits depend.
"""

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError

VERSION = 1  # of how questions are put to the model
AT_A_TIME = 500  # keys in one query


def fingerprint(params: dict, model: config.Model, precision: config.Precision, tokenizer: tokenizers.Tokenizer, facts: dict) -> str:
    """32 hexadecimal digits of the values of all parameters (a nested dict of arrays), the model's shape and precision, and `facts`."""
    digest = hashlib.blake2b(digest_size=16)
    described = [VERSION, dataclasses.asdict(model), dataclasses.asdict(precision), tokenizer.to_str(), facts]
    digest.update(json.dumps(described, sort_keys=True).encode())
    for path, leaf in sorted(_leaves(params)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def key(kind: str, *question) -> bytes:
    """The hash of a question: JSON-able values."""
    return hashlib.blake2b(json.dumps([kind, *question], sort_keys=True).encode(), digest_size=16).digest()


class Answers:
    """The file of one model's answers; answers are JSON-able."""

    def __init__(self, flag: str, folder: str | Path, fingerprint: str):
        """Opens or makes <folder>/<fingerprint>.sqlite. Raises UserError that begins with the flag where that cannot be."""
        self.path = Path(folder) / f"{fingerprint}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"{flag}={folder}: answers cannot be kept in {self.path} ({error}); remove it, or name another folder"
            ) from None

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Those of the answers that are there."""
        found = {}
        for first in range(0, len(keys), AT_A_TIME):
            part = keys[first : first + AT_A_TIME]
            marks = ",".join("?" * len(part))
            found |= dict(self._database.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part))
        return {key: json.loads(value) for key, value in found.items()}

    def keep(self, answers: Mapping[bytes, Any]) -> None:
        """Adds answers, all or none of them; they are on disk when this returns."""
        with self._database:
            rows = [(key, json.dumps(value)) for key, value in answers.items()]
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def close(self) -> None:
        self._database.close()


def _leaves(tree: dict, prefix: str = ""):
    for name, value in tree.items():
        yield from _leaves(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]
