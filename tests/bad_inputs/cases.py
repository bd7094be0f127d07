"""A mistake as a row of a table, and the few ways in which files are spoiled."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    flags: str  # separated by blanks
    says: tuple[str, ...]  # in this order, somewhere in what is printed
    spoil: Callable[[Path], object] = lambda good: None
    tool: str = "train"
    lines: int = 1


def replace(name: str, content: bytes | str):
    """Writes a file of the good folder over."""
    return lambda good: (good / name).write_bytes(content.encode() if isinstance(content, str) else content)


def edit(name: str, **changes):
    """Sets fields of a JSON file; those that are `...` are taken out."""

    def change(good):
        tree = json.loads((good / name).read_text()) | changes
        (good / name).write_text(json.dumps({key: value for key, value in tree.items() if value is not ...}))

    return change


def remove(name: str):
    return lambda good: shutil.rmtree(good / name) if (good / name).is_dir() else (good / name).unlink()


def cut(name: str, keep: float):
    """Leaves the first part of a file."""
    return lambda good: os.truncate(good / name, int((good / name).stat().st_size * keep))


def flip(name: str, at: float):
    """Turns over the bits of one byte."""

    def change(good):
        content = bytearray((good / name).read_bytes())
        content[int(at * (len(content) - 1))] ^= 0xFF
        (good / name).write_bytes(content)

    return change


def both(*steps):
    return lambda good: [step(good) for step in steps]


def tree_of(folder: Path) -> dict[str, str]:
    """Every file of a folder with the hash of its content, and every folder and link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found
