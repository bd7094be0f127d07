"""Cleaning of one table: personal data masked, rules applied, languages named; what is to go is marked, and every reason counted.

The order is fixed: mask, edits of all rule sets, white space again, drops of all rule sets, language. A text is removed by the first that
says so, and `removed` says by which: "set/rule", "empty" or "language". Every row stays. The outcome for a row depends on its text alone,
so any cut of the input into tables gives the same rows and, merged, the same counts.
"""

import dataclasses
import difflib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaiyuan_jax.data.prepare import language, normalise, personal_data, rules
from kaiyuan_jax.data.prepare.measures import Measures
from kaiyuan_jax.data.prepare.rule_sets import RULE_SETS
from kaiyuan_jax.data.prepare.tally import Tally


@dataclasses.dataclass(frozen=True)
class Options:
    """Names of rule sets, of kinds of personal data, and of languages to keep (ISO 639-1); empty: none is applied."""

    rules: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    min_language_probability: float = 0.5


def problems(options: Options) -> list[str]:
    """One line for each mistake in the options."""
    lines = [*_unknown("--rules", options.rules, RULE_SETS), *_unknown("--mask", options.mask, personal_data.MASKS)]
    if options.languages:
        try:
            lines += _unknown("--languages", options.languages, language.languages())
        except language.LanguageModelError as error:
            lines.append(f"--languages={','.join(options.languages)}: {str(error).removeprefix('languages: ')}")
    if not 0 <= options.min_language_probability <= 1:
        lines.append(f"min_language_probability: found {options.min_language_probability}, must be between 0 and 1")
    return lines


def clean(table: pa.Table, options: Options, tally: Tally) -> pa.Table:
    """The table with its `text` rewritten, and columns `removed` (null: kept) and `language` (null: not asked for) added.

    `text` holds normalised texts without nulls. Counts documents removed and edited, and bytes, by rule.
    """
    before = pc.fill_null(_array(table["text"]), "")
    texts = personal_data.mask(before, options.mask, tally)
    chosen = [RULE_SETS[name] for name in options.rules]
    for rule_set in chosen:
        texts = rules.edit(texts, rule_set, tally)
    texts = _trimmed(before, texts)
    measures = Measures(texts)
    removed = np.full(len(texts), None, object)
    empty = np.flatnonzero(measures.bytes == 0)
    removed[empty] = "empty"
    tally.add("rule empty", len(empty))
    for rule_set in chosen:
        rules.drop(measures, rule_set, removed, tally)
    codes = pa.nulls(len(texts), pa.large_string())
    if options.languages:
        codes = _languages(texts, options, removed, tally)
    table = table.set_column(table.column_names.index("text"), "text", texts)
    return table.append_column("removed", pa.array(removed, pa.large_string())).append_column("language", codes)


def _languages(texts: pa.LargeStringArray, options: Options, removed: np.ndarray, tally: Tally) -> pa.LargeStringArray:
    """Languages of the texts that are still kept; marks those that are not wanted."""
    rows = np.flatnonzero(np.equal(removed, None))
    kept = texts.take(pa.array(rows))
    codes, probabilities = language.identify(kept)
    for code, count in zip(*np.unique(codes.to_numpy(zero_copy_only=False).astype(str), return_counts=True), strict=True):
        tally.add(f"language {code}", count)
    wanted = pc.is_in(codes, pa.array(options.languages, pa.large_string())).to_numpy(zero_copy_only=False)
    gone = ~(wanted & (probabilities >= options.min_language_probability))
    removed[rows[gone]] = "language"
    left_out = kept.filter(pa.array(gone))
    tally.add("rule language", len(left_out), rules.heads(left_out))
    tally.add("bytes language", pc.sum(pc.binary_length(left_out)).as_py() or 0)
    found = np.full(len(texts), None, object)
    found[rows] = codes.to_numpy(zero_copy_only=False)
    return pa.array(found, pa.large_string())


def _trimmed(before: pa.LargeStringArray, after: pa.LargeStringArray) -> pa.LargeStringArray:
    """White space brought in order again where something was cut out."""
    changed = pc.not_equal(before, after)
    if not changed.true_count:
        return after
    return pc.replace_with_mask(after, changed, normalise.normalise_array(after.filter(changed)))


def _array(column: pa.ChunkedArray) -> pa.LargeStringArray:
    column = column.cast(pa.large_string())
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    )


def _unknown(flag: str, names: tuple[str, ...], known) -> list[str]:
    lines = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), known, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            allowed = ", ".join(sorted(known)) if len(known) < 20 else "codes of ISO 639-1 such as en, zh, de"
            lines.append(f"{flag}={name}: not known; there are {allowed}{hint}")
    return lines
