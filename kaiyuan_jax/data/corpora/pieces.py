"""Long texts cut into documents of a few thousand characters, at places where a reader would cut them."""

import ast
import re
from collections.abc import Iterator

LIMIT = 6000  # characters
_PARAGRAPH = re.compile(r"\n\s*\n")
_TOP_LEVEL = re.compile(r"(?m)^(@|def |class |async def )")
_METHOD = re.compile(r"(?m)^    (@|def |class |async def )")


def paragraphs(text: str, limit: int = LIMIT) -> list[str]:
    """Cuts at blank lines; a paragraph longer than `limit` stays whole."""
    return _join(_PARAGRAPH.split(text), "\n\n", limit)


def definitions(text: str, limit: int = LIMIT) -> list[str]:
    """Cuts Python code before top-level definitions, longer ones before methods, still longer ones at blank lines."""
    parts = [text]
    for place in (_TOP_LEVEL, _METHOD):
        parts = [piece for part in parts for piece in (_before(place, part) if len(part) > limit else [part])]
    return _join([piece for part in parts for piece in _blank_lines(part, limit)], "", limit)


def _before(place: re.Pattern, text: str) -> list[str]:
    """Cuts before each match, but not between decorators and what they decorate."""
    cuts, decorated = [0], False
    for match in place.finditer(text):
        if not decorated:
            cuts.append(match.start())
        decorated = match.group(1) == "@"
    return [text[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _blank_lines(part: str, limit: int) -> list[str]:
    return [part] if len(part) <= limit else [piece + "\n\n" for piece in paragraphs(part, limit)]


def _join(parts: list[str], between: str, limit: int) -> list[str]:
    joined = []
    for part in filter(str.strip, parts):
        if joined and len(joined[-1]) + len(between) + len(part) <= limit:
            joined[-1] += between + part
        else:
            joined.append(part)
    return joined


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of a Python module and its public classes and functions, read but not run.

    A module with syntax errors has none.
    """
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    waiting: list[tuple[str, ast.AST]] = [("", module)]
    while waiting:
        prefix, node = waiting.pop()
        text = ast.get_docstring(node)
        if text:
            yield prefix, text
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
                if isinstance(node, ast.Module | ast.ClassDef):
                    waiting.append((f"{prefix}.{child.name}".strip("."), child))
