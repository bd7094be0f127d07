"""Counts by name and a few examples of each, gathered by many workers.

Merging is commutative and associative, so the result does not depend on how the input was cut or who read which part: counts add up,
and of all examples the ten whose hash is smallest stay.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

EXAMPLES = 10
SHOWN = 300  # characters of an example


@dataclasses.dataclass
class Tally:
    """`counts` by name; `examples`: name -> at most `EXAMPLES` texts, in the order of their hashes."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, count: int = 1, examples: Iterable[str] = ()) -> None:
        """Adds to a count, and examples to choose from (cut to `SHOWN` characters)."""
        self.counts[name] = self.counts.get(name, 0) + int(count)
        chosen = {text[:SHOWN] for text in examples} | set(self.examples.get(name, ()))
        if chosen:
            self.examples[name] = sorted(chosen, key=_hash)[:EXAMPLES]

    def merge(self, other: "Tally") -> None:
        for name, count in other.counts.items():
            self.add(name, count, other.examples.get(name, ()))

    def to_json(self) -> dict:
        return {"counts": dict(sorted(self.counts.items())), "examples": dict(sorted(self.examples.items()))}

    @classmethod
    def from_json(cls, fields: dict) -> "Tally":
        return cls(dict(fields["counts"]), {name: list(texts) for name, texts in fields["examples"].items()})


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
