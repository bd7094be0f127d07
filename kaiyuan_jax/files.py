"""A file is written whole or not at all."""

import os
from pathlib import Path


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
