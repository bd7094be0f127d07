"""The next passage of a held-out document, of any store.

A document is cut at blanks or before marks of Chinese punctuation: about `CONTEXT` bytes of context, then passages of `PASSAGE` or a few
more; in bytes, so that English, code and Chinese ask for about as many tokens. Of the right passage the first `PASSAGE` bytes are kept (one
or two fewer where a character lies across the end), and of wrong ones exactly as many, in the middle of a word if need be; one that has no
whole number of characters there is not taken. Choices of unlike lengths would tell the right one, most of all between scripts whose blanks
and marks lie unlike far apart. Wrong choices:

    level 1   passages at the same place of documents of any of the stores
    level 2   of other documents of the same store: of `POOL` of them, the ones that share most words with the context and the right passage
    level 3   other passages of the same document, which no reader of single words can tell from the right one
"""

import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from kaiyuan_jax.data.store import Store
from kaiyuan_jax.evaluation.tasks.build import distractors
from kaiyuan_jax.evaluation.tasks.files import Item

LEVELS = {1: "passages of any document", 2: "passages of its source that share most words", 3: "other passages of the same document"}
CONTEXT, PASSAGE = 240, 96  # bytes
SLACK = 1.5  # how much more than that it may be
POOL = 300
MOST = 4000  # documents of a store that are read
_CUT = re.compile(r"(?<=[^\s，。；：、！？])(?=[\s，。；：、！？])")


def texts(store: Store, random: np.random.Generator) -> dict[str, str]:
    """The texts of at most `MOST` documents by id, in random order."""
    offsets, lengths = store.documents.offset, store.documents.length
    chosen = random.permutation(len(store.documents))[:MOST]
    decoded = store.tokenizer().decode_batch([store.read(int(offsets[d]), int(offsets[d] + lengths[d]) - 1).tolist() for d in chosen])
    return {f"{store.documents.id(int(document))}@{document}": text for document, text in zip(chosen, decoded, strict=True)}


def cut(text: str) -> tuple[str, list[str]]:
    """(context, the passages after it, one after the other); no passages where the text is too short or cannot be cut near those sizes."""
    places = [0, *(match.start() for match in _CUT.finditer(text)), len(text)]
    sizes = np.cumsum([0, *(len(text[begin:end].encode()) for begin, end in itertools.pairwise(places))])

    def after(place: int, size: int) -> int | None:
        """The first place at least `size` bytes further on, if it is not much further."""
        found = int(np.searchsorted(sizes, sizes[place] + size))
        return found if found < len(sizes) and sizes[found] - sizes[place] <= SLACK * size else None

    begin, passages = after(0, CONTEXT), []
    context = "" if begin is None else text[: places[begin]]
    while begin is not None and (end := after(begin, PASSAGE)) is not None:
        passages.append(text[places[begin] : places[end]])
        begin = end
    return context, passages


def beginning(text: str, size: int) -> str:
    """As many whole characters as `size` bytes of UTF-8 hold."""
    return text.encode()[:size].decode(errors="ignore")


def next_passage(documents: Mapping[str, Mapping[str, str]], source: str, random: np.random.Generator) -> Iterator[Item]:
    """Candidates about one source, level by level in turn; documents: source -> id -> text."""
    cuts = {name: [(id, *cut(text)) for id, text in some.items()] for name, some in documents.items()}
    cuts = {name: [(id, context, passages) for id, context, passages in some if passages] for name, some in cuts.items()}
    own, every = cuts[source], [passages[0] for name in sorted(cuts) for _, _, passages in cuts[name]]
    nearness = distractors.Nearness([beginning(passages[0], PASSAGE) for _, _, passages in own])
    for number, (id, context, (first, *later)) in enumerate(own):
        gold = beginning(first, PASSAGE)
        size = len(gold.encode())
        pool = [other for other in random.permutation(len(own))[:POOL].tolist() if other != number]
        near = [own[other][2][0] for other in nearness.rank(context + gold, pool)]
        anywhere = [every[other] for other in random.integers(len(every), size=20).tolist()]
        for level, candidates in ((1, anywhere), (2, near), (3, later)):
            fitted = (beginning(one, size) for one in candidates)
            wrong = distractors.differing(gold, [one for one in fitted if len(one.encode()) == size])
            if wrong:
                yield distractors.item(random, id, context, gold, wrong, level)
