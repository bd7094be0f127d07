"""Bytes that a compiled program moves through device memory, counted from its text: what can be said of speed without the device.

Every instruction of the entry computation that runs as a kernel reads its operands and writes its results once; a fusion's inner
values never leave the chip. Arrays in on-chip memory (layout suffix S(1) on TPUs) cost nothing, their copies in and out do. Programs with
loops are refused, because a body's trip count is not in the text.
"""

import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "copy-done", "slice-done", "after-all"}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*)")


def kernels(text: str) -> list[tuple[str, int]]:
    """(name, bytes) of every kernel of the optimised HLO `text`, in order. Raises ValueError for a program with a loop."""
    entry = text[text.index("\nENTRY") :]
    entry = entry[: entry.index("\n}")]
    sizes, found = {}, []
    for line in entry.splitlines()[2:]:
        match = _LINE.match(line)
        name, rest = match.groups()
        kind, rest = _type(rest)
        operation, operands = re.match(r"([\w-]+)\((.*)", rest).groups()
        if operation in ("while", "conditional", "call"):
            raise ValueError(f"{name}: a {operation} in the program; only straight programs can be counted")
        arrays = [_size(*array) for array in _ARRAY.findall(kind)]
        names = re.findall(r"%([\w.-]+)", operands[: _closing(operands)])
        sizes[name] = sum(arrays)
        if operation == "get-tuple-element":
            sizes[name] = sum(arrays)
        if operation in ("copy-start", "slice-start"):  # (destination, source, semaphore), or in the other order
            found.append((name, max(arrays[:2]) if min(arrays[:2]) == 0 else sum(arrays[:2])))
        elif operation == "custom-call" and "ConcatBitcast" in line:
            continue
        elif operation not in _FREE:
            found.append((name, sum(arrays) + sum(sizes.get(operand, 0) for operand in names)))
    return found


def total(text: str) -> int:
    """Bytes of all kernels together."""
    return sum(size for _, size in kernels(text))


def _size(dtype: str, shape: str, layout: str) -> int:
    if "S(" in layout or dtype not in BYTES:
        return 0
    count = 1
    for extent in shape.split(","):
        count *= int(extent or 1)
    return count * BYTES[dtype]


def _type(rest: str) -> tuple[str, str]:
    """Splits "type operation(...)" at the end of the type, which may be a tuple."""
    if rest.startswith("("):
        end = _closing(rest[1:]) + 2
        return rest[:end], rest[end:].strip()
    kind, _, rest = rest.partition(" ")
    return kind, rest


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the one before `text`."""
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return index
    return len(text)
