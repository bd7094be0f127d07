"""A file is written whole or not at all."""

import os
from pathlib import Path

from kaiyuan_jax.config import UserError


def check_target(flag: str, path: str | Path, suffix: str) -> None:
    """Raises UserError where no file of that name could be written; for before the work. An empty path is none."""
    target = Path(path)
    if str(path) and (target.suffix != suffix or target.is_dir() or not target.parent.is_dir()):
        raise UserError(f"--{flag}={path}: must end in {suffix}, be no folder, and lie in a folder that exists")


def replace(path: str | Path, content: str | bytes) -> None:
    """Puts text (as UTF-8) or bytes where `path` says: under a temporary name beside it, on disk, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
