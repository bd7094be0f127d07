"""Credentials stay where they are: in the environment and in the files of their own tools, never in a config, a log or a message.

A secret is recognised by its place or by its shape: a user or password in a URL, the signature or token of a signed one, an assignment to
a name such as `password` or `HF_TOKEN`, a key of a known form, and the value of any environment variable that is named like a secret.
`found` is for what a user gives (refuse it: what is saved beside a run is read by others), `redact` for what is about to be said or
written. Neither can know a password that stands alone in a text.
"""

import os
import re
from collections.abc import Mapping

REDACTED = "[redacted]"
_NAME = (
    r"(?:secret|password|passwd|pwd|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|secret[_-]?(?:access[_-]?)?key|private[_-]?key|"
    r"credentials?)"
)
_SIGNED = (
    r"x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|googleaccessid|access_token|auth|key|" + _NAME
)

# What it is called, and where it lies: group 1, where there is one, is kept, the rest goes.
_KINDS = (
    ("a user or password in a URL", re.compile(r"((?!ssh:)\b[a-z][a-z0-9+.-]+:/{1,2})[^/\s'\"<>@?#]+@", re.I)),
    ("a signed URL", re.compile(rf"([?&](?:{_SIGNED})=)(?!\[redacted)[^&\s'\"<>#]+", re.I)),
    ("a secret by its name", re.compile(rf"((?:^|[\s'\"(,;_.-]){_NAME}(?:=['\"]?|['\"]:\s*['\"]))(?!\[redacted)[^\s'\",;)&]{{6,}}", re.I)),
    ("a bearer token", re.compile(r"(\bbearer\s+)[\w.~+/=-]{12,}", re.I)),
    (
        "a key",
        re.compile(
            r"\b(?:(?:hf|gh[pousr])_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|"
            r"sk-(?:[\w-]*[-_])?[A-Za-z0-9]{20,}[\w-]*|ya29\.[\w-]{20,}|xox[abprs]-\d[\w-]{9,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
        ),
    ),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*)", re.S)),
)
_SECRET_WORDS = {"SECRET", "PASSWORD", "PASSWD", "TOKEN", "APIKEY", "KEY", "CREDENTIAL", "CREDENTIALS"}
_SHORTEST = 8  # characters of an environment variable's value that is taken for a secret


def found(text: str) -> str:
    """What kind of secret a text holds, such as "a signed URL"; empty if none is seen."""
    return next(iter(kinds(text)), "")


def kinds(text: str) -> list[str]:
    """All kinds of secrets that a text holds."""
    return [kind for kind, pattern in _KINDS if pattern.search(text)] + [f"the value of {name}" for name in _hidden(text).values()]


def redact(text: str) -> str:
    """The text with every secret that is seen replaced by `[redacted]`; doing it again changes nothing."""
    for value in _hidden(text):
        text = text.replace(value, REDACTED)
    for _, pattern in _KINDS:
        text = pattern.sub(lambda match: (match.group(1) if match.re.groups else "") + REDACTED + "@" * match.group().endswith("@"), text)
    return text


def of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """value -> name of the variables that are named like secrets, the longest value first; paths to files that hold one are none."""
    named = {value: name for name, value in environment.items() if _SECRET_WORDS & set(name.upper().split("_"))}
    values = [value for value in named if len(value) >= _SHORTEST and not value.startswith(("/", "."))]
    return {value: named[value] for value in sorted(values, key=len, reverse=True)}


def _hidden(text: str) -> dict[str, str]:
    return {value: name for value, name in of_environment(os.environ).items() if value in text}
