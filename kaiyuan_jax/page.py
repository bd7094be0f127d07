"""The HTML page: one file with its pictures inside, plain enough for a phone, without scripts or anything fetched from elsewhere."""

import base64
import dataclasses
import html

CSS = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1.2rem; max-width: 62rem; color: #222; background: #fff; line-height: 1.5;
       font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
       sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4rem 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 1px solid #ddd; }
p, li { max-width: 46rem; }
li { margin: .35rem 0; }
figure { margin: 1rem 0; }
img { width: 100%; height: auto; display: block; }
figcaption, .small { color: #555; font-size: .88rem; max-width: 46rem; }
.lead { font-size: 1.05rem; }
.notice { background: #fff6df; border-left: 4px solid #e0a800; padding: .6rem .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e6e6e6; white-space: nowrap; vertical-align: top; }
th { text-align: right; font-weight: 600; border-bottom: 2px solid #999; }
th.word, td.word { text-align: left; }
td small { display: block; color: #777; font-size: .74rem; }
tr.recipe td { border-top: 2px solid #bbb; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
.sample { margin: .8rem 0; padding: .6rem .8rem; background: #f6f6f6; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .86rem; }
.prompt { color: #888; }
.verdict-holds { border-left: 4px solid #2a7d2a; padding-left: .7rem; list-style: none; }
.verdict-open { border-left: 4px solid #bbb; padding-left: .7rem; list-style: none; }
pre { font-size: .8rem; line-height: 1.3; background: #f6f6f6; padding: .6rem .8rem; }
ul.verdicts { padding-left: 0; }
summary { cursor: pointer; font-weight: 600; margin: .4rem 0; }
"""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture with what to see in it."""

    name: str  # file name without suffix
    title: str
    caption: str
    png: bytes


def page(title: str, parts: list[str]) -> str:
    """The whole document around finished parts of HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}\n<style>{CSS}</style></head>\n<body>\n{chr(10).join(parts)}\n</body>\n</html>\n'
    )


def text(words) -> str:
    """Text made safe for HTML."""
    return html.escape(str(words))


def section(title: str, *parts: str) -> str:
    return f"<h2>{text(title)}</h2>\n" + "\n".join(parts)


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def bullets(items: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"


def verdicts(items) -> str:
    """Comparisons (title, text, holds): the ones that hold are marked."""
    lines = [
        f'<li class="verdict-{"holds" if holds else "open"}"><strong>{text(title)}</strong><br>{text(words)}</li>'
        for title, words, holds in items
    ]
    return f'<ul class="verdicts">{"".join(lines)}</ul>'


def figure(picture: Figure) -> str:
    data = base64.b64encode(picture.png).decode()
    alt = text(f"{picture.title}. {picture.caption}")
    return (
        f'<figure id="{picture.name}"><img alt="{alt}" src="data:image/png;base64,{data}">'
        f"<figcaption><strong>{text(picture.title)}.</strong> {text(picture.caption)}</figcaption></figure>"
    )


def table(header: list[str], rows: list[tuple[list[tuple[str, str]], str, bool]], words: int) -> str:
    """rows: ([(value, interval)], colour of the swatch, starts a recipe); the first `words` columns are text."""
    kinds = ['class="word"' if i < words else "" for i in range(len(header))]
    lines = ["<tr>" + "".join(f"<th {kind}>{text(name)}</th>" for name, kind in zip(header, kinds, strict=True)) + "</tr>"]
    for cells, colour, first in rows:
        inner = []
        for i, ((value, below), kind) in enumerate(zip(cells, kinds, strict=True)):
            swatch = f'<span class="swatch" style="background:{colour}"></span>' if i == 0 and colour else ""
            inner.append(f"<td {kind}>{swatch}{text(value)}{f'<small>{text(below)}</small>' if below else ''}</td>")
        lines.append(f"<tr{' class=recipe' if first else ''}>{''.join(inner)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def preformatted(words: str) -> str:
    return f'<pre class="scroll">{text(words)}</pre>'


def sample(source: str, prompt: str, continuation: str) -> str:
    return f'<div class="sample"><strong>{text(source)}</strong>\n<span class="prompt">{text(prompt)}</span>{text(continuation)}</div>'


def details(title: str, *parts: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{text(title)}</summary>{''.join(parts)}</details>"
