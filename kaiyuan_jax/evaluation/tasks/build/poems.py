"""The next line of a classical Chinese poem.

A verse of two halves, such as 可惜一片清歌，都付与黄昏。, is cut before its comma: the context is the poem up to there, at most
`CONTEXT` characters before the verse, and the choices begin with the comma, where tokenizers cut too. Wrong choices are such halves:

    level 1   of any other poems
    level 2   with as many characters
    level 3   with as many characters, and of `POOL` such those that share most characters with the context and the right line
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from kaiyuan_jax.data.corpora.evaluation_packages import Poem
from kaiyuan_jax.evaluation.tasks.build import distractors
from kaiyuan_jax.evaluation.tasks.files import Item

LEVELS = {1: "lines of other poems", 2: "lines of as many characters", 3: "lines of as many characters that share most characters"}
CONTEXT, POOL = 60, 300
_VERSE = re.compile(r"([\u3400-\u9fff]{4,9})(，[\u3400-\u9fff]{4,9}[。！？])")


def poem(poems: Sequence[Poem], random: np.random.Generator) -> Iterator[Item]:
    """Candidates, level by level in turn, in random order; one verse, not the first, of a poem."""
    lines = []  # id, context, the second half
    for one in poems:
        verses = [(number, match) for number, verse in enumerate(one.verses) if number and (match := _VERSE.fullmatch(verse))]
        if verses:
            number, match = verses[int(random.integers(len(verses)))]
            before = "".join(one.verses[:number])[-CONTEXT:]
            lines.append((f"{one.id}.{number}", before + match[1], match[2]))
    nearness = distractors.Nearness([choice for _, _, choice in lines])
    lengths = np.array([len(choice) for _, _, choice in lines])
    for number in random.permutation(len(lines)).tolist():
        name, context, gold = lines[number]
        same = np.flatnonzero(lengths == lengths[number])
        same = [other for other in random.permutation(same)[:POOL].tolist() if other != number]
        orders = {1: random.integers(len(lines), size=20).tolist(), 2: same, 3: nearness.rank(context + gold, same)}
        for level, order in orders.items():
            wrong = distractors.differing(gold, [lines[other][2] for other in order])
            if wrong:
                yield distractors.item(random, name, context, gold, wrong, level)
