"""Plain text out of the formats that documentation comes in: HTML and Mallard pages, manual pages, Perl's POD, dictionaries, Metamath.

Every function takes the text of one file and returns the documents in it, which are then cut at blank lines (`pieces.py`). What a
reader of the page would not read (scripts, navigation, markup) goes, line breaks of preformatted text and code stay.
"""

import html.parser
import re

BLOCKS = frozenset(
    "address article aside blockquote body center dd details div dl dt fieldset figure figcaption footer h1 h2 h3 h4 h5 h6 header hr html "
    "li main ol p pre section summary table tbody tfoot thead tr ul "
    "page title subtitle screen code-block note listing item steps terms".split()  # the last line is Mallard's
)
PARAGRAPHS = BLOCKS - {"li", "tr", "dt", "dd", "thead", "tbody", "tfoot", "item"}  # set off by a blank line
SKIPPED = frozenset("script style head nav svg math form button select template noscript iframe info".split())
SKIPPED_CLASSES = frozenset(
    "headerlink sphinxsidebar sphinxsidebarwrapper related navheader navfooter sidebar nav-chapters nav-wrapper menu-bar footer "
    "search-container mobile-nav-chapters sidebar-elems src-link srclink toc chlinktop chlinkprevnextbot skip-link prev-next-area "
    "bd-sidebar bd-sidebar-primary bd-sidebar-secondary bd-header bd-footer bd-toc header-article globaltoc mathjax_preview nav docnav "
    "leftside rightside dropdowns sidebar-drawer sidebar-tree toc-drawer mobile-header related-pages back-to-top overlay left-details "
    "right-details theme-toggle-container visually-hidden".split()
)
SKIPPED_IDS = frozenset("hd ft banner sidebar TopLeftHeader navbar-main".split())
SKIPPED_ROLES = frozenset({"navigation", "search", "banner"})
VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())


class _Text(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.skipped, self.depth = "", 0  # the element that is left out, and how many of its name are open
        self.preformatted = 0

    def handle_starttag(self, tag, attributes):
        if self.skipped:
            self.depth += tag == self.skipped
            return
        values = dict(attributes)
        unwanted = tag in SKIPPED or values.get("role") in SKIPPED_ROLES or values.get("id") in SKIPPED_IDS
        if tag not in VOID and (unwanted or SKIPPED_CLASSES.intersection((values.get("class") or "").split())):
            self.skipped, self.depth = tag, 1
        elif tag in BLOCKS:
            self.parts.append("\n\n" if tag in PARAGRAPHS else "\n")
            self.preformatted += tag in ("pre", "screen")
            if tag == "li":
                self.parts.append("- ")
        elif tag == "br":
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append("  ")

    def handle_startendtag(self, tag, attributes):
        if tag == "br" and not self.skipped:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        if self.skipped:
            self.depth -= tag == self.skipped
            if not self.depth:
                self.skipped = ""
        elif tag in BLOCKS:
            self.parts.append("\n\n" if tag in PARAGRAPHS else "\n")
            self.preformatted -= tag in ("pre", "screen") and self.preformatted > 0

    def handle_data(self, data):
        if not self.skipped:
            self.parts.append(data if self.preformatted else re.sub(r"\s+", " ", data))


def html_page(text: str) -> list[str]:
    """The running text of an HTML or Mallard page: no scripts, navigation or tables of contents."""
    parser = _Text()
    parser.feed(text)
    parser.close()
    joined = re.sub(r"\n- \s+", "\n- ", "".join(parser.parts).replace("\xa0", " "))
    joined = re.sub(r"(?m)^ (?=\S)|[ \t]+$", "", joined)  # one blank before a line came from the markup
    return [re.sub(r"\n{3,}", "\n\n", joined).strip()]


_ROFF_ESCAPE = re.compile(r"\\(?:f(?:\(..|\[[^]]*\]|.)|s[-+]?\d+|[&|^/,:%)]|\*(?:\(..|\[[^]]*\]|.)|[mF](?:\[[^]]*\]|.))")
_ROFF_CHARACTERS = {"-": "-", "e": "\\", " ": " ", "~": " ", "0": " ", "'": "'", "`": "`", ".": ".", "t": "\t"}
_ROFF_NAMED = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–", "bu": "•", "co": "©", "hy": "-",
               "mi": "-", "rs": "\\", "ti": "~", "ha": "^", "<=": "≤", ">=": "≥", "->": "→", "mu": "×", "+-": "±"}  # fmt: skip
_ROFF_FONTS = ("B", "I", "R", "SM", "SB", "BI", "IB", "BR", "RB", "IR", "RI")
_ROFF_HEADINGS = ("SH", "SS", "Sh", "Ss")
_ROFF_BREAKS = ("PP", "P", "LP", "TP", "IP", "HP", "sp", "Pp", "RS", "RE", "TQ", "It", "Bl", "El")


def manual_page(text: str) -> list[str]:
    """A manual page in roff's man macros, without a formatter: headings, paragraphs and words stay, requests and fonts go.

    Lines are joined to paragraphs, but not where the page sets them as they are (.nf, .EX) or begins one with a blank.
    """
    text = re.sub(r"(?ms)^\.[ \t]*(?:de|ig)\b.*?^\.\.[ \t]*$", "", text)  # definitions of macros
    lines, filled = [""], True
    for line in text.split("\n"):
        match = re.match(r"[.'][ \t]*(\w+|\\\")?[ \t]*(.*)", line)
        macro, rest = match.groups() if match else ("", "")
        words = [_roff(quoted or word) for quoted, word in re.findall(r'"([^"]*)"?|(\S+)', rest)]
        if macro in ("nf", "EX", "fi", "EE"):
            filled = macro in ("fi", "EE")
            lines.append("")
        elif macro in _ROFF_HEADINGS:
            lines += ["", " ".join(words), "", ""]
        elif macro == "TH":
            lines += [" ".join(words[:2]), "", ""]
        elif macro in _ROFF_BREAKS:
            lines += ["", *([words[0]] if macro in ("IP", "It") and words else []), ""]
        elif not match or macro in _ROFF_FONTS:
            running = _roff(line) if not match else ("" if len(macro) == 2 and macro not in ("SM", "SB") else " ").join(words)
            if filled and lines[-1] and running and not running.startswith((" ", "\t")):
                lines[-1] += " " + running
            else:
                lines.append(running)
    return [re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()]


def _roff(text: str) -> str:
    text = _ROFF_ESCAPE.sub("", text)
    text = re.sub(r"\\\((..)|\\\[([^]]*)\]", lambda match: _ROFF_NAMED.get(match[1] or match[2], ""), text)
    return re.sub(r"\\(.)", lambda match: _ROFF_CHARACTERS.get(match[1], match[1]), re.sub(r'\\".*', "", text))


def pod(text: str) -> list[str]:
    """Perl's plain old documentation: commands and formatting codes go, code stays."""
    if not text.startswith("="):
        text = text[text.find("\n=") + 1 :] if "\n=" in text else ""
    text = re.sub(r"(?ms)^=(begin|for)\b.*?(^=end.*?$|\n\n)|^=(cut|pod|encoding|back|over).*$", "", text)
    text = re.sub(r"(?m)^=(?:head\d|item)[ \t]*", "", text)
    for _ in range(3):  # codes nest
        text = re.sub(r"\b[BCFIS]<([^<>]*)>|\bL<(?:([^<>|]*)\|)?([^<>]*)>", lambda match: match[1] or match[2] or match[3] or "", text)
        text = re.sub(r"\b[XZ]<[^<>]*>", "", text)
    named = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}
    return [re.sub(r"\n{3,}", "\n\n", re.sub(r"\bE<(\w+)>", lambda match: named.get(match[1], ""), text)).strip()]


def info(text: str) -> list[str]:
    """The nodes of an Info file, each without its line of links."""
    nodes = [node.lstrip("\n").partition("\n")[2].strip() for node in text.split("\x1f")[1:]]
    return [node for node in nodes if node and not node.startswith(("Tag Table", "Ref:", "Node:"))]


def dictionary(text: str, limit: int = 4000) -> list[str]:
    """Neighbouring entries of a dictionary in dictd's format (head words at the line's start, definitions indented), up to `limit`."""
    documents = [""]
    for entry in re.split(r"\n(?=\S)", text):
        if len(documents[-1]) + len(entry) > limit and documents[-1]:
            documents.append("")
        documents[-1] += entry + "\n"
    return [document.strip() for document in documents if document.strip() and not document.startswith("00-database")]


def wordnet(text: str, counts: dict[str, int], group: int = 20) -> list[tuple[str, int]]:
    """(text, tags): neighbouring synsets of a WordNet data file as "words: gloss" lines, and how often their senses were tagged.

    `counts` are the tags of the semantic concordance by sense key, as `wordnet_counts` reads them.
    """
    lines = []
    for line in text.split("\n"):
        fields, _, gloss = line.partition(" | ")
        parts = fields.split()
        if line.startswith("  ") or not gloss:
            continue
        words = [(parts[4 + 2 * i], int(parts[5 + 2 * i], 16)) for i in range(int(parts[3], 16))]
        kind = "nvars".index(parts[2]) + 1
        tags = sum(counts.get(f"{re.sub(r'[(].*', '', word).lower()}%{kind}:{parts[1]}:{number:02d}", 0) for word, number in words)
        lines.append((", ".join(word.replace("_", " ") for word, _ in words) + ": " + gloss.strip(), tags))
    groups = [lines[i : i + group] for i in range(0, len(lines), group)]
    return [("\n".join(line for line, _ in part), sum(tags for _, tags in part)) for part in groups]


def wordnet_counts(text: str) -> dict[str, int]:
    """Tags by sense key (without a satellite's head word), from cntlist.rev."""
    rows = (line.split() for line in text.split("\n") if line)
    return {":".join(key.split(":")[:3]): int(count) for key, _, count in rows}


_METAMATH = re.compile(r"(\$\((?:(?!\$\)).)*\$\))?\s*(\S+)\s+(\$[ap])\s(.*?)\$\.", re.DOTALL)


def metamath(text: str) -> list[tuple[str, int]]:
    """(text, citations): every axiom, definition and theorem with its comment and proof, and how many proofs in the file cite it."""
    found = [(match[2], match[0].strip()) for match in _METAMATH.finditer(text)]
    cited: dict[str, int] = {}
    for _, statement in found:
        labels = re.search(r"\$=\s*\(([^)]*)\)", statement)
        for label in set(labels[1].split()) if labels else ():
            cited[label] = cited.get(label, 0) + 1
    return [(statement, cited.get(label, 0)) for label, statement in found]


def fortunes(text: str) -> list[str]:
    """The entries of a fortune file, colours removed."""
    return [entry.strip() for entry in re.split(r"(?m)^%$", re.sub(r"\x1b\[[\d;]*m", "", text)) if entry.strip()]


def tagged(text: str) -> list[str]:
    """Chinese whose words stand as "word/tag", names as "[word/tag word/tag]tag": the words, a paragraph a line."""
    words = ([word.rpartition("/")[0] or word for word in line.split()] for line in text.split("\n"))
    return ["\n\n".join("".join(line).replace("[", "") for line in words if line)]
