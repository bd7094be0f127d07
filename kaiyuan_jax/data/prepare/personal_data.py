"""Masking of personal data and secrets: each is replaced by a word in angle brackets that says what stood there.

Precision comes before completeness, since texts hold code and mathematics: `@property`, the matrix product `W@x.T`, versions, dates and
long integers stay. So an address of mail needs a known top-level domain and no call behind it, a telephone number its international
prefix, a national grouping or a word such as tel before it, and a key one of the published prefixes of its issuer. What has no such
mark is not found: masking lowers the number of such data, it does not vouch that none is left.
"""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc

from kaiyuan_jax.data.prepare.tally import Tally

_TOP = "(?:com|org|net|edu|gov|mil|int|info|biz|name|pro|dev|app|xyz|site|online|tech|cloud|email|[a-z][a-z])"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_FIRST_OCTET = "(?:1[1-9]|[2-9][0-9]|1[013-9][0-9]|12[0-689]|2[01][0-9]|22[0-3])"


@dataclasses.dataclass(frozen=True)
class Mask:
    """`look_for` finds every text that may match, cheaply; group 1 and 2 of `pattern` are what stays before and after."""

    look_for: str
    pattern: str


_TOKEN = "|".join(
    (
        r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # Amazon
        r"gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
        r"glpat-[A-Za-z0-9_-]{20,}",
        r"sk-(?:proj|svcacct|admin|ant-[a-z0-9]+)-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9]{32,}",  # OpenAI, Anthropic
        r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
        r"hf_[A-Za-z0-9]{30,}",
        r"AIza[0-9A-Za-z_-]{35}",  # Google
        r"[rs]k_live_[0-9A-Za-z]{16,}",  # Stripe
        r"npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{40,}",
        r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web token
    )
)
_PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[^-]*(?:-{1,4}[^-]+)*-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
)
_CALL = r"(?:[Pp]hone|PHONE|[Tt]el|TEL|[Mm]obile|[Cc]all|[Ff]ax|FAX|[Ww]hats[Aa]pp|电话|手机|联系方式|热线|传真|致电|微信)"
MASKS = {
    "email": (
        Mask(
            "[A-Za-z0-9]@[A-Za-z0-9]",
            rf"(^|[^\w.%+/@-])[A-Za-z0-9_][\w.%+-]*@(?:[A-Za-z0-9-]+\.)+{_TOP}(\.*(?:[^\w(\[=.@:-]|:\s|$))",
        ),
    ),
    "phone": (
        Mask(
            r"\+\d",
            r"(^|[\s(:：,，;；\"'<>])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?\d{2,4}[ .-]|\d{1,4}[ .-]\d{2,4}[ .-])\d{2,4}"
            r"(?:[ .-]\d{2,4}){0,2}($|[^\w.-]|\.(?:\s|$))",
        ),
        Mask(
            r"\+\d",
            r"(^|[\s(:：,，;；\"'<>])\+(?:1[2-9]\d{9}|861[3-9]\d{9}|44[127]\d{9}|49[1-9]\d{8,10}|33[1-9]\d{8})($|[^\w.-]|\.(?:\s|$))",
        ),
        Mask(r"\d{3}\) ?\d{3}-\d{4}", r"(^|[^\w)])(?:1[ -])?\([2-9]\d\d\) ?\d{3}-\d{4}($|[^\w-])"),
        Mask(r"\d{3}-\d{3}-\d{4}", r"(^|[^\w.-])(?:1-)?[2-9]\d\d-\d{3}-\d{4}($|[^\w-])"),
        Mask(r"1\d{2}[ -]\d{4}[ -]\d{4}", r"(^|[^\w.+-])1[3-9]\d[ -]\d{4}[ -]\d{4}($|[^\w-])"),
        Mask(_CALL, rf"({_CALL}[^\d\n]{{0,12}})(?:1[3-9]\d{{9}}|0\d{{2,3}}[ -]?\d{{7,8}}|\d{{3}}[ .-]\d{{3}}[ .-]\d{{4}})($|[^\w-])"),
    ),
    "key": (
        Mask("PRIVATE KEY", rf"(){_PRIVATE_KEY}()"),
        Mask(
            "(?:AKIA|ASIA)[0-9A-Z]|gh[opsur]_|github_pat_|glpat-|sk-[a-zA-Z0-9]|xox[abeoprs]-|hf_|AIza|[rs]k_live_|npm_|pypi-A|eyJ",
            rf"(^|[^A-Za-z0-9_-])(?:{_TOKEN})($|[^A-Za-z0-9_-])",
        ),
    ),
    # Addresses that begin with one digit look like versions and section numbers; they and private networks' 10, and 127, stay.
    "ip": (Mask(r"\d\.\d+\.\d+\.\d", rf"(^|[^\w.+-]){_FIRST_OCTET}(?:\.{_OCTET}){{3}}($|[^\w.-]|\.(?:\s|$))"),),
}


def mask(texts: pa.LargeStringArray, kinds: tuple[str, ...], tally: Tally) -> pa.LargeStringArray:
    """Replaces data of these kinds (of `MASKS`) by <kind>; counts replacements, with what stands around them as examples."""
    for kind in kinds:
        placeholder = f"<{kind}>"
        for one in MASKS[kind]:
            texts = _replace(texts, one, placeholder, f"mask {kind}", tally)
    return texts


def _replace(texts: pa.LargeStringArray, one: Mask, placeholder: str, name: str, tally: Tally) -> pa.LargeStringArray:
    found = pc.match_substring_regex(texts, one.look_for)
    if not found.true_count:
        return texts
    before = texts.filter(found)
    after = before
    for _ in range(2):  # what stands between two neighbours is read with the first, so the second needs another look
        after = pc.replace_substring_regex(after, one.pattern, rf"\1{placeholder}\2")
    changed = pc.not_equal(before, after)
    if not changed.true_count:
        return texts
    before, now = before.filter(changed), after.filter(changed)
    count = pc.subtract(pc.count_substring(now, placeholder), pc.count_substring(before, placeholder))
    tally.add(name, pc.sum(count).as_py(), [_around(text, placeholder) for text in now.to_pylist()])
    return pc.replace_with_mask(texts, found, after)


def _around(text: str, placeholder: str) -> str:
    place = text.index(placeholder)
    return text[max(0, place - 60) : place + 60]
