"""Curves over steps as SVG: drawn by hand, so that a page needs no plotting package and no picture files."""

import dataclasses
from collections.abc import Sequence

from kaiyuan_jax.page import text

WIDTH, HEIGHT = 920, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 22, 34
INK, FAINT, LINE, BAND, SHADES = "#222222", "#8A8A8A", "#0072B2", "#0072B2", ("#F3F3F3", "#E4EBF2")


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A named part of the axis of steps."""

    first: float
    after: float
    name: str


def chart(
    label: str,
    steps: Sequence[float],
    values: Sequence[float],
    *,
    last: float,
    stretches: Sequence[Stretch] = (),
    marked: Stretch | None = None,
    band: tuple[Sequence[float], Sequence[float]] | None = None,
    zero: bool = True,
) -> str:
    """One curve over steps 0 to `last`, with a band around it, parts of the axis shaded in turn, and one stretch marked."""
    low, high = [*values, *(band[0] if band else ())], [*values, *(band[1] if band else ())]
    bottom, top = 0.0 if zero else min(low), max(high)
    top += 0.16 * (top - bottom) or 1.0

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)

    def y(value):
        return TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom)

    parts = []
    for number, one in enumerate(stretches):
        width = x(one.after) - x(one.first)
        parts.append(_box(x(one.first), width, SHADES[number % 2]))
        if width > 8 * len(one.name):
            parts.append(_words(x(one.first) + 4, TOP + 13, one.name, FAINT))
    if marked:
        parts.append(_box(x(marked.first), max(2.0, x(marked.after) - x(marked.first)), "#F2C14E"))
        parts.append(_words(x(marked.first) - 4, HEIGHT - BOTTOM - 6, marked.name, INK, "end"))
    for i in range(5):
        value = bottom + (top - bottom) * i / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#DDDDDD"/>')
        parts.append(_words(LEFT - 6, y(value) + 4, f"{value:.3g}", FAINT, "end"))
        parts.append(_words(x(last * i / 4), HEIGHT - BOTTOM + 16, f"{round(last * i / 4):,}", FAINT, "middle" if i < 4 else "end"))
    if band:
        around = [*zip(steps, band[1], strict=True), *reversed(list(zip(steps, band[0], strict=True)))]
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in around)
        parts.append(f'<polygon points="{points}" fill="{BAND}" opacity="0.18"/>')
    points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, values, strict=True))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    parts.append(_words(LEFT, TOP - 8, label, INK))
    style = "width:100%;height:auto;font-family:system-ui,sans-serif"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}" style="{style}">{"".join(parts)}</svg>'


def _box(left, width, colour):
    return f'<rect x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}" fill="{colour}"/>'


def _words(left, height, words, colour, anchor="start"):
    return f'<text x="{left:.1f}" y="{height:.1f}" font-size="12" fill="{colour}" text-anchor="{anchor}">{text(words)}</text>'
