"""Rules as data: what to cut out of a text, and which texts to leave out.

A rule has a name, a pattern or a measurement, and a reason in one line. `Edit` replaces what its pattern finds; `Unwanted` drops a text
in which its pattern is found, but keeps a fixed share of them if asked to; `Missing` drops a text in which its pattern is not found;
`Bound` drops a text whose measurement lies outside its limits. Patterns are RE2, so they take time linear in the text; each is first
looked for in all texts at once, and only the texts that have it are touched.

Whether a text belongs to a share that is kept is decided by a hash of the rule's name and the text: the same in every run.
"""

import dataclasses
import hashlib
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaiyuan_jax.data.prepare.measures import Measures
from kaiyuan_jax.data.prepare.tally import Tally

BEFORE, FOUND = 40, 160  # characters of an example: beside what was found, and of it


@dataclasses.dataclass(frozen=True)
class Edit:
    """Replaces every occurrence of a pattern; `look_for`, if given, is a cheaper pattern that finds every text that has one."""

    name: str
    pattern: str
    reason: str
    replacement: str = ""
    look_for: str = ""


@dataclasses.dataclass(frozen=True)
class Unwanted:
    """Drops texts with the pattern, but a share `keep` of them."""

    name: str
    pattern: str
    reason: str
    keep: float = 0.0


@dataclasses.dataclass(frozen=True)
class Missing:
    """Drops texts without the pattern."""

    name: str
    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Bound:
    """Drops texts whose measurement is below `low` or above `high`."""

    name: str
    measure: str  # an attribute of Measures
    reason: str
    low: float = -math.inf
    high: float = math.inf


Drop = Unwanted | Missing | Bound


@dataclasses.dataclass(frozen=True)
class RuleSet:
    """Edits are applied in their order, then drops; a text is dropped by the first that says so."""

    name: str
    edits: tuple[Edit, ...]
    drops: tuple[Drop, ...]


def edit(texts: pa.LargeStringArray, rules: RuleSet, tally: Tally) -> pa.LargeStringArray:
    """The texts after all edits of the set. Counts texts and bytes by rule."""
    some = pc.match_substring_regex(texts, _any(rules.edits)) if rules.edits else None
    if some is None or not some.true_count:
        return texts
    edited = texts.filter(some)
    for rule in rules.edits:
        edited = _edit(edited, rule, f"{rules.name}/{rule.name}", tally)
    return pc.replace_with_mask(texts, some, edited)


def _any(edits: tuple[Edit, ...]) -> str:
    """A pattern found in every text that the edits would change: one look at the others, which are most, in place of one for each edit."""
    return "|".join(f"(?:{rule.look_for or rule.pattern})" for rule in edits)


def _edit(texts: pa.LargeStringArray, rule: Edit, name: str, tally: Tally) -> pa.LargeStringArray:
    found = pc.match_substring_regex(texts, rule.look_for or rule.pattern)
    if not found.true_count:
        return texts
    before = texts.filter(found)
    after = pc.replace_substring_regex(before, rule.pattern, rule.replacement)
    changed = pc.not_equal(before, after)
    if not changed.true_count:
        return texts
    gone = pc.sum(pc.binary_length(before)).as_py() - pc.sum(pc.binary_length(after)).as_py()
    tally.add(f"rule {name}", changed.true_count, _around(before.filter(changed), rule.pattern))
    tally.add(f"bytes {name}", gone)
    return pc.replace_with_mask(texts, found, after)


def drop(measures: Measures, rules: RuleSet, removed: np.ndarray, tally: Tally) -> None:
    """Writes "set/rule" into `removed` [B] object where it is None and a rule drops the text. Counts texts and bytes by rule."""
    for rule in rules.drops:
        rows = _dropped(rule, measures)
        rows = rows[np.equal(removed[rows], None)]
        if isinstance(rule, Unwanted) and rule.keep > 0 and len(rows):
            texts = measures.texts.take(pa.array(rows)).to_pylist()
            rows = rows[[draw(f"{rules.name}/{rule.name}", text) >= rule.keep for text in texts]]
        if not len(rows):
            continue
        gone = measures.texts.take(pa.array(rows))
        examples = _around(gone, rule.pattern) if isinstance(rule, Unwanted) else heads(gone)
        tally.add(f"rule {rules.name}/{rule.name}", len(rows), examples)
        tally.add(f"bytes {rules.name}/{rule.name}", int(measures.bytes[rows].sum()))
        removed[rows] = f"{rules.name}/{rule.name}"


def draw(name: str, text: str) -> float:
    """A number in [0, 1) that hangs on a name and a text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=name.encode()).digest()) / 2**64


def heads(texts: pa.LargeStringArray) -> list[str]:
    """The first 200 characters of each."""
    return pc.utf8_slice_codeunits(texts, 0, BEFORE + FOUND).to_pylist()


def _dropped(rule: Drop, measures: Measures) -> np.ndarray:
    """Rows."""
    if isinstance(rule, Bound):
        values = getattr(measures, rule.measure)
        return np.flatnonzero((values < rule.low) | (values > rule.high))
    found = pc.match_substring_regex(measures.texts, rule.pattern).to_numpy(zero_copy_only=False)
    return np.flatnonzero(found if isinstance(rule, Unwanted) else ~found)


def _around(texts: pa.LargeStringArray, pattern: str) -> list[str]:
    """The first occurrence in each text, in brackets, between its neighbours. Normalised texts hold no control characters."""
    marked = pc.replace_substring_regex(texts, pattern, "\x1e\\0\x1e")
    parts = (text.split("\x1e", 2) for text in marked.to_pylist())
    return [f"{before[-BEFORE:]}[[{found[:FOUND]}]]{after[:BEFORE].replace('\x1e', '')}" for before, found, after in parts]
