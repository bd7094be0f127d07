"""One spelling of a text: canonical Unicode, Unix newlines, no control characters, no blanks at line ends.

Careful with code and mathematics: indentation, tabs, inner spaces, letter case and every visible character stay; NFC is used, not NFKC,
so that x² does not become x2. The hash of the normalised text is a document's identity: duplicates share it, the held-out split and
the order of equal scores come from it.
"""

import hashlib
import re
import unicodedata

import pyarrow as pa

# C0 and C1 controls but tab and newline, byte-order marks, and the replacement of what could not be decoded.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_TRAILING = re.compile(r"[ \t\u00a0\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
HASH_BYTES = 16
COLUMNS = pa.schema(
    [("id", pa.large_string()), ("text", pa.large_string()), ("quality", pa.float64()), ("hash", pa.binary(HASH_BYTES))]
)


def normalise_text(text: str) -> str:
    """The normalised text; may be empty. Normalising twice changes nothing."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _CONTROL.sub("", text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    text = _TRAILING.sub("", text)
    text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n").rstrip()


def text_hash(text: str) -> bytes:
    """16 bytes that name a normalised text."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def normalise(table: pa.Table) -> pa.Table:
    """Normalises the texts of a table of (id, text, quality), drops empty ones and adds `hash`; a missing id becomes the hash."""
    rows = []
    for name, text, quality in zip(*(table.column(column).to_pylist() for column in ("id", "text", "quality")), strict=True):
        text = normalise_text(text)
        if text:
            digest = text_hash(text)
            rows.append((digest.hex() if name is None else name, text, quality, digest))
    return pa.table([list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []], schema=COLUMNS)
