"""Definition choice, both ways round, from WordNet.

    definition   The word "otter" means | freshwater carnivorous mammal having webbed and clawed feet ...
    word         Freshwater carnivorous mammal having ...: this is the meaning of the word | otter

A word is asked for in the meaning that is tagged most in WordNet's corpus, so that it is a word people use. Wrong choices:

    level 1   other such meanings, at random
    level 2   of the same part of speech, with a definition (a word) of about the same length
    level 3   sisters: kinds of the same thing, of about the same length; nouns and verbs
"""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from kaiyuan_jax.data.corpora.evaluation_packages import Synset
from kaiyuan_jax.evaluation.tasks.build import distractors
from kaiyuan_jax.evaluation.tasks.files import Item

LEVELS = {1: "other meanings", 2: "same part of speech and length", 3: "kinds of the same thing, of like length"}
SHORTEST, LONGEST = 20, 120  # characters of a definition
NEAR = 1.6  # like lengths differ by at most this factor
TRIES = 200


def definition(synsets: Sequence[Synset], random: np.random.Generator) -> Iterator[Item]:
    """Candidates, level by level in turn, in random order."""
    yield from _items(synsets, random, lambda synset: f'The word "{_word(synset)}" means', lambda synset: f" {synset.definition}")


def word(synsets: Sequence[Synset], random: np.random.Generator) -> Iterator[Item]:
    """Candidates, level by level in turn, in random order."""

    def context(synset):
        return f"{synset.definition[0].upper()}{synset.definition[1:]}: this is the meaning of the word"

    yield from _items(synsets, random, context, lambda synset: f" {_word(synset)}")


def asked(synsets: Sequence[Synset]) -> list[Synset]:
    """Meanings to ask for: the first word is one word in lower case, tagged, and in no other meaning more often, nor in the definition."""
    most = collections.Counter()
    for synset in synsets:
        for spelled, tags in zip(synset.words, synset.tags, strict=True):
            most[spelled] = max(most[spelled], tags)
    return [one for one in synsets if _plain(one) and 0 < one.tags[0] == most[_word(one)] and _word(one)[:4] not in one.definition.lower()]


def _plain(synset: Synset) -> bool:
    spelled = _word(synset)
    return spelled.isalpha() and spelled.islower() and len(spelled) > 2 and SHORTEST <= len(synset.definition) <= LONGEST


def _word(synset: Synset) -> str:
    return synset.words[0]


def _items(synsets, random, context, choice) -> Iterator[Item]:
    pool = asked(synsets)
    sisters, speech = collections.defaultdict(list), collections.defaultdict(list)
    for synset in pool:
        speech[synset.speech].append(synset)
    for synset in filter(_plain, synsets):
        for kind in synset.kinds:
            sisters[kind].append(synset)
    for number in random.permutation(len(pool)).tolist():
        gold = pool[number]
        like = [one for kind in gold.kinds for one in sisters[kind] if _alike(choice(one), choice(gold))]
        same = [one for one in _some(random, speech[gold.speech], TRIES) if _alike(choice(one), choice(gold))]
        for level, others in ((1, _some(random, pool, TRIES)), (2, same), (3, _some(random, like, TRIES))):
            others = [one for one in others if not set(one.words) & set(gold.words)]
            wrong = distractors.differing(choice(gold), [choice(one) for one in others])
            if wrong:
                yield distractors.item(random, gold.id, context(gold), choice(gold), wrong, level)


def _alike(one: str, other: str) -> bool:
    return max(len(one), len(other)) <= NEAR * min(len(one), len(other))


def _some(random: np.random.Generator, items: list, count: int) -> list:
    return [items[number] for number in random.choice(len(items), min(count, len(items)), replace=False)] if items else []
