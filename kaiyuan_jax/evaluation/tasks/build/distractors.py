"""What the builders share: wrong choices that are near without any model, and an item with its choices in random order.

Nearness is shared words, each with the weight log(N / n) of its rarity: of N texts, n hold it. A word is a run of letters in lower case, or
one character of an unsegmented script, so the same rule serves both.
"""

import collections
import math
import re
from collections.abc import Sequence

import numpy as np

from kaiyuan_jax.evaluation.tasks.files import Item

CHOICES = 4
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


class Nearness:
    """Shared words of a text with each of some others, weighted by their rarity among those."""

    def __init__(self, texts: Sequence[str]):
        self.found = [words(text) for text in texts]
        counts = collections.Counter(word for found in self.found for word in found)
        self.weight = {word: math.log(len(texts) / count) for word, count in counts.items()}

    def rank(self, text: str, among: Sequence[int]) -> list[int]:
        """The numbers `among`, nearest first, ties in the order given."""
        wanted = words(text)
        return sorted(among, key=lambda number: -sum(self.weight[word] for word in self.found[number] & wanted))


def differing(gold: str, candidates: Sequence[str], count: int = CHOICES - 1) -> list[str] | None:
    """The first `count` candidates that differ from the right choice and from one another; None where there are fewer."""
    kept = dict.fromkeys(one for one in candidates if one != gold)
    return list(kept)[:count] if len(kept) >= count else None


def item(random: np.random.Generator, name: str, context: str, gold: str, wrong: Sequence[str], level: int) -> Item:
    """A choice whose right answer stands anywhere."""
    place = int(random.integers(len(wrong) + 1))
    choices = [*wrong[:place], gold, *wrong[place:]]
    return Item(f"{name}/{level}", context, tuple(choices), place, level)
