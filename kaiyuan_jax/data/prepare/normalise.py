"""One spelling of a text: canonical Unicode, Unix newlines, no control characters, no blanks at line ends.

Careful with code and mathematics: indentation, tabs, inner spaces, letter case and every visible character stay; NFC is used, not NFKC,
so that x² does not become x2. The hash of the normalised text is a document's identity: duplicates share it, the held-out split and
the order of equal scores come from it.

There are two implementations of the one definition: `normalise_text` for one text, `normalise_array` for an Arrow array. The second looks
first, in one vectorised pass a rule, for the few texts that a rule would change, and rewrites only those.
"""

import hashlib
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# C0 and C1 controls but tab and newline, byte-order marks, and the replacement of what could not be decoded.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_TRAILING = re.compile(r"[ \t\u00a0\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
# The same in RE2, in the order of `normalise_text`: what to look for, what to replace, by what.
_REWRITES_BEFORE_NFC = (
    ("\r", "\r\n", "\n"),
    ("[\r\u2028\u2029]", "[\r\u2028\u2029]", "\n"),
    (_CONTROL_RE2 := "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x{9f}\\x{feff}\\x{fffe}\\x{ffff}]", _CONTROL_RE2 + "+", ""),
)
_REWRITES_AFTER_NFC = (
    ("[ \t\u00a0\u3000](?:\n|\\z)", "(?m)[ \t\u00a0\u3000]+$", ""),
    ("\n\n\n\n", "\n{4,}", "\n\n\n"),
)
# str.isspace, less the controls, which are gone by then.
_SPACES = "\t\n \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
HASH_BYTES = 16


def normalise_text(text: str) -> str:
    """The normalised text; may be empty. Normalising twice changes nothing."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _CONTROL.sub("", text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    text = _TRAILING.sub("", text)
    text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n").rstrip()


def normalise_array(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """`normalise_text` of every text; null stays null."""
    for rewrite in _REWRITES_BEFORE_NFC:
        texts = _rewrite(texts, *rewrite)
    texts = _nfc(texts)
    for rewrite in _REWRITES_AFTER_NFC:
        texts = _rewrite(texts, *rewrite)
    return pc.utf8_rtrim(pc.utf8_ltrim(texts, "\n"), _SPACES)


def _rewrite(texts: pa.LargeStringArray, look_for: str, pattern: str, replacement: str) -> pa.LargeStringArray:
    found = pc.fill_null(pc.match_substring_regex(texts, look_for), False)
    if not found.true_count:
        return texts
    return pc.replace_with_mask(texts, found, pc.replace_substring_regex(texts.filter(found), pattern, replacement))


def _nfc(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Python's NFC, not Arrow's, which may follow another version of Unicode."""
    rows = pc.indices_nonzero(pc.invert(pc.fill_null(pc.string_is_ascii(texts), True)))
    changed = {
        row: unicodedata.normalize("NFC", text)
        for row, text in zip(rows.to_pylist(), texts.take(rows).to_pylist(), strict=True)
        if not unicodedata.is_normalized("NFC", text)
    }
    if not changed:
        return texts
    mask = np.zeros(len(texts), bool)
    mask[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(changed.values(), pa.large_string()))


def text_hash(text: str) -> bytes:
    """16 bytes that name a normalised text."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()
