"""Which checkpoints a run folder holds, from the names of its files alone: a plan asks too, and imports no jax."""

from pathlib import Path

COMPLETE = "commit_success.txt"  # Orbax's marker, written last


def steps(folder: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a `checkpoints/` folder, ascending; empty where there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and (path / COMPLETE).exists())
