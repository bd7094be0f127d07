"""A part of the page: a title, paragraphs, tables and lines to copy, as text for a terminal (at most 120 columns) and as HTML."""

import dataclasses
import textwrap

from kaiyuan_jax import page


@dataclasses.dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    align: str  # < or > for every column


@dataclasses.dataclass(frozen=True)
class Code:
    """Flags of a command, each on lines of its own, to be put behind a command that ends in a backslash."""

    flags: list[str]

    @property
    def lines(self) -> list[str]:
        """A shell takes them as they are; a long tuple goes on in a second line inside its quotes."""
        ended = [*(f"{flag} \\" for flag in self.flags[:-1]), *self.flags[-1:]]
        return [line for flag in ended for line in _folded(flag)]


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    parts: list[str | Table | Code]


def text(section: Section) -> str:
    """For a terminal."""
    return "\n".join([section.title, *map(_text, section.parts)])


def html(section: Section) -> str:
    return page.section(section.title, *map(_html, section.parts))


def _text(part) -> str:
    if isinstance(part, Table):
        return table(part.head, part.rows, part.align)
    if isinstance(part, Code):
        return "\n".join(f"    {line}" for line in part.lines)
    return textwrap.fill(part, 118, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _html(part) -> str:
    if isinstance(part, Table):
        words = len(part.align) - len(part.align.lstrip("<"))
        return page.table(list(part.head), [([(cell, "") for cell in row], "", False) for row in part.rows], words)
    if isinstance(part, Code):
        return page.preformatted("\n".join(part.lines))
    return page.paragraph(part)


def _folded(flag: str) -> list[str]:
    lines = [flag]
    while len(lines[-1]) > 110 and "," in lines[-1][:110]:
        cut = lines[-1].rindex(",", 0, 110) + 1
        lines[-1:] = [lines[-1][:cut], "  " + lines[-1][cut:]]
    return lines


def table(head, rows, align: str) -> str:
    """Columns side by side, indented by two; without a head when it is empty."""
    cells = [head, *rows] if head else rows
    widths = [max(len(row[i]) for row in cells) for i in range(len(align))]
    return "\n".join("  " + "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)).rstrip() for row in cells)


def human(count: float) -> str:
    """A count in three digits and a unit, such as 614k, 3.36B or 2.2T; small ones in full."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size and count >= 1e5:
            return f"{count / size:.3g}{unit}"
    return f"{count:,}"


def short(value: float) -> str:
    """A number in at least three digits, none behind the point of large ones: 198,746, 30.8 or 0.00012."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
