"""Damaged files: bytes cut, flipped, repeated or put in, and JSON in which values are other than they should be."""

import json

from hypothesis import strategies as st

DEEP = "[" * 3000 + "]" * 3000
ODD = (
    None, True, False, -1, 0, 1, 3, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, 10**30, "", "x", "nan", "../../etc/passwd", "/etc/passwd",
    "a\0b", "é\u2028", "https://user:secret@host/x", [], {}, [[]], [None], {"a": None}, [1, 2, 3], ["x"], "9" * 400,
)  # fmt: skip
# As text, because Python has no value for them or does not write them.
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, '"\\ud800"', DEEP, "{" + '"a":{' * 500 + "}" * 501)
_MARK = "\ufff9mark\ufff9"


def _places(tree, path=()):
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _changed(tree, path, value):
    """The tree with another value at a path; no value: without what is there."""
    if not path:
        return value
    key, *rest = path
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if rest:
        copy[key] = _changed(copy[key], rest, value)
    elif value is ...:
        del copy[key]
    else:
        copy[key] = value
    return copy


@st.composite
def json_of(draw, good: bytes) -> bytes:
    """The bytes of a JSON file with one to three values changed, taken out, or written as no value of Python's."""
    tree, raw = json.loads(good), []
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(tree))))
        kind = draw(st.integers(0, 5))
        if kind == 0 and path:
            tree = _changed(tree, path, ...)
        elif kind == 1:
            raw.append(draw(st.sampled_from(RAW)))
            tree = _changed(tree, path, _MARK)
        else:
            tree = _changed(tree, path, draw(st.sampled_from(ODD)))
        if not isinstance(tree, (dict, list)):
            break
    text = json.dumps(tree)
    for value in raw:
        text = text.replace(json.dumps(_MARK), value, 1)
    return text.replace(json.dumps(_MARK), "null").encode()


@st.composite
def bytes_of(draw, good: bytes) -> bytes:
    """The bytes of a file after one to four cuts, flips, repetitions and insertions; now and then nothing of the file is left."""
    content = bytearray(good) if draw(st.integers(0, 20)) else bytearray(draw(st.binary(max_size=200)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, max(len(content) - 1, 0))), draw(st.integers(1, 64))
        match draw(st.integers(0, 5)):
            case 0:
                del content[at:]
            case 1:
                del content[at : at + length]
            case 2:
                content[at:at] = draw(st.binary(min_size=1, max_size=16))
            case 3:
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 4:
                content[at:at] = content[at : at + length]
            case _:
                replacement = draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, b"-1", b"nan", b"1e309", b"\n", b"9" * 30, b"\xed\xa0\x80"]))
                content[at : at + len(replacement)] = replacement
    return bytes(content)


def damaged(good: bytes, is_json: bool):
    return st.one_of(bytes_of(good), json_of(good), json_of(good)) if is_json else bytes_of(good)
