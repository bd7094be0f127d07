"""Finds and opens raw text: files, folders, globs and URLs (`gs://`, `s3://`, `hf://` and whatever else fsspec speaks).

Files are taken in the order of their names, never in the order in which a file system lists them. A name is relative to the folder that
was given; files of one name get as many folders above it as tell them apart. A folder downloaded from the Hugging Face hub, or written by
`save_to_disk`, holds descriptions of the data beside the data; they are no documents.
"""

import collections
import dataclasses
import glob
import hashlib
import io
import os
import re
from pathlib import Path
from typing import BinaryIO

from kaiyuan_jax import secrets
from kaiyuan_jax.config import UserError

JSON_LINES = tuple(f".{name}{packed}" for name in ("jsonl", "json", "ndjson") for packed in ("", ".gz", ".zst"))
# Written by the `datasets` package beside the data.
DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}
HEAD = 1 << 16  # bytes that tell text from other files
_MAGIC = re.compile(r"[*?\[]")


class ReadError(UserError):
    """Input that cannot be read; one line with the file, what was found and what to do."""


class Damaged(ReadError):
    """A file that cannot be read to its end, through no fault of the settings; `reason` without the name of the file."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both, so that the error can be pickled
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Unreachable(ReadError):
    """A file, or the server that holds it, that cannot be reached now: trying again may succeed."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One file. `name` is what the manifest records: unique among those found, and relative, so that it does not depend on the machine."""

    name: str
    path: str  # or a URL
    kind: str  # parquet | json | arrow | text
    bytes: int  # as stored


def find(inputs: list[str]) -> tuple[list[Input], list[str]]:
    """Files named by the inputs, ordered by name, each once, and the names of the files of folders that are not text.

    Raises `ReadError` for an input that does not exist, a file that is not text, or nothing found; `Unreachable` if a server fails.
    """
    found: dict[str, Input] = {}
    skipped = []
    for item in inputs:
        if kind := secrets.found(item):
            raise ReadError(f"--input={secrets.redact(item)}: holds {kind}, which reports and messages would repeat; take it out, and give "
                            "credentials by the environment or the files of the service's own tools")  # fmt: skip
        files, named = _remote(item) if "://" in item else _local(item)
        # Descriptions are told from documents by the data beside them.
        is_dataset = any(name.lower().endswith((".parquet", ".arrow")) for name, _, _ in files)
        has_rows = any(name.lower().endswith((".parquet", ".arrow", *JSON_LINES)) for name, _, _ in files)
        for name, path, size in files:
            last = name.rsplit("/", 1)[-1]
            description = not named and (
                (is_dataset and (last in DESCRIPTIONS or last.startswith("cache-") and last.endswith(".arrow")))
                or (has_rows and last == "README.md" and _head(path)[:4] == b"---\n")  # the card of a dataset
            )
            kind = "" if description else _kind(path)
            if kind:
                key = path if "://" in path else os.path.realpath(path)
                found.setdefault(key, Input(name, path, kind, size))
            elif named:
                raise ReadError(f"--input={item}: not UTF-8 text, Parquet, Arrow or JSON lines; convert it first")
            else:
                skipped.append(name)
    if not found:
        raise ReadError(f"--input={','.join(inputs)}: no text files found; expected Parquet, Arrow, JSON lines or text")
    return sorted(_told_apart(list(found.values())), key=lambda input: (input.name, input.path)), sorted(set(skipped))


def checksum(input: Input) -> str:
    """sha256 of the bytes as stored, in hexadecimal; raises `Unreachable`."""
    digest = hashlib.sha256()
    with opened(input.path) as file:
        try:
            while chunk := file.read(4 << 20):
                digest.update(chunk)
        except OSError as error:
            raise unreachable(input.path, error) from None
    return digest.hexdigest()


def opened(path: str) -> BinaryIO:
    """The bytes of a local path or a URL, for reading; raises `Unreachable` if they cannot be reached, also later from `read` of a URL."""
    if "://" in path:
        return _Reached(path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise unreachable(path, error) from None


def unreachable(path: str, error: Exception) -> Unreachable:
    """The error for a path that failed with another one."""
    return Unreachable(f"{path}: cannot be reached ({_first(error)}); check that it still exists and may be read, and the network")


class _Reached(io.RawIOBase):
    """A file of a service. Every service raises its own kinds of errors, many of them as if the file were damaged."""

    def __init__(self, url: str):
        self.url, self.file = url, None
        system, inner = _system(url)
        try:
            self.file = system.open(inner, "rb")
        except Exception as error:
            raise unreachable(url, error) from None

    def read(self, size: int = -1) -> bytes:
        try:
            return self.file.read(size)
        except Exception as error:
            raise unreachable(self.url, error) from None

    def seek(self, offset: int, whence: int = 0) -> int:
        if not whence and offset < 0:
            raise OSError(f"no byte {offset}")  # where a damaged file points to
        try:
            return self.file.seek(offset, whence)
        except Exception as error:
            raise unreachable(self.url, error) from None

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        super().close()


def _told_apart(found: list[Input]) -> list[Input]:
    """The inputs, those of one name with as many of the folders above as make it unique."""
    above = dict.fromkeys(range(len(found)), 0)
    paths = [[part for part in (input.path if "://" in input.path else os.path.abspath(input.path)).split("/") if part] for input in found]

    def name(index: int) -> str:
        own = found[index].name
        return "/".join(paths[index][-(own.count("/") + 1 + above[index]) :]) if above[index] else own

    while True:
        names = [name(index) for index in above]
        times = collections.Counter(names)
        same = [index for index in above if times[names[index]] > 1 and found[index].name.count("/") + 1 + above[index] < len(paths[index])]
        if not same:
            return [dataclasses.replace(input, name=name) for input, name in zip(found, names, strict=True)]
        for index in same:
            above[index] += 1


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _local(item: str):
    """((name, path, bytes) of every file, whether the input named one file)."""
    if item.startswith("hf:"):
        name = item.removeprefix("hf:").split(":")[0] or "OWNER/NAME"
        raise ReadError(f"--input={item}: write the address of the files, hf://datasets/{name} or a folder or glob below it, "
                        f"for example hf://datasets/{name}/data/train-*.parquet")  # fmt: skip
    path = Path(item)
    if path.is_dir():
        return _walk(path, path), False
    if path.is_file():
        return [(path.name, item, path.stat().st_size)], True
    if _MAGIC.search(item):
        parts = path.parts
        fixed = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
        root = Path(*parts[:fixed])
        files = []
        for match in sorted(glob.glob(item, recursive=True)):
            match = Path(match)
            files += _walk(match, root) if match.is_dir() else [(match.relative_to(root).as_posix(), str(match), match.stat().st_size)]
        if files:
            return files, False
    raise ReadError(f"--input={item}: no such file or folder (a dataset of the Hugging Face hub is written hf://datasets/OWNER/NAME)")


def _walk(folder: Path, root: Path) -> list[tuple[str, str, int]]:
    files = []
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and file.is_file():
            files.append((file.relative_to(root).as_posix(), str(file), file.stat().st_size))
    return files


def _remote(item: str):
    """As `_local`, of a URL."""
    system, path = _system(item)
    try:
        if _MAGIC.search(path):
            root = path[: _MAGIC.search(path).start()].rpartition("/")[0]
            matches = [facts for facts in system.glob(path, detail=True).values() if facts["type"] == "file"]
            named = False
        elif system.isdir(path):
            root, named = path.rstrip("/"), False
            matches = list(system.find(path, detail=True).values())
        else:
            facts = system.info(path)
            root, named, matches = path.rpartition("/")[0], True, [facts]
    except FileNotFoundError:
        matches = []
    except Exception as error:  # every service raises its own kinds
        message = f"--input={item}: cannot be listed ({_first(error)}); check the address, the network and the credentials"
        raise Unreachable(message) from None
    files = []
    for facts in matches:
        name = facts["name"].removeprefix(root).lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")):
            files.append((name, system.unstrip_protocol(facts["name"]), int(facts["size"] or 0)))
    if not files:
        hint = "; datasets start with hf://datasets/" if item.startswith("hf://") and not item.startswith("hf://datasets/") else ""
        raise ReadError(f"--input={item}: no such file or folder there{hint}")
    return files, named


def _system(url: str):
    """(file system, path inside it) of a URL."""
    protocol = url.split("://")[0]
    try:
        import fsspec
    except ImportError:
        raise ReadError(f"{url}: needs the package fsspec; install it with pip install 'kaiyuan_jax[engine]'") from None
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError:
        package = PACKAGES.get(protocol, f"that speaks {protocol}://")
        raise ReadError(f"{url}: needs the package {package}; pip install {package}") from None
    except ValueError as error:
        raise ReadError(f"{url}: {_first(error)}; use a local path, gs://, s3:// or hf://") from None


def _head(path: str) -> bytes:
    with opened(path) as file:
        return file.read(HEAD)


def _kind(path: str) -> str:
    """The kind of a file, by its name or else by its first bytes; empty if it is not text."""
    name = path.lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith(".arrow"):
        return "arrow"
    if name.endswith(JSON_LINES):
        return "json"
    if name.endswith((".txt", ".text", ".md")):
        return "text"  # whatever is in it: reading says what is wrong
    head = _head(path)
    if b"\0" in head:
        return ""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut by the end of what was read.
        return "text" if len(head) == HEAD and error.start > HEAD - 4 else ""
    return "text"
