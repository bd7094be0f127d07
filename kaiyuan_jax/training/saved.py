"""Which checkpoints a run folder holds, from the names of its files alone: a plan asks too, and imports no jax."""

from kaiyuan_jax import storage

COMPLETE = "commit_success.txt"  # Orbax's marker, written last


def steps(folder) -> list[int]:
    """Steps of the complete checkpoints in a `checkpoints/` folder, local or remote, ascending; empty where there is no folder."""
    folder = storage.path(folder)
    return sorted(int(name) for name in storage.names(folder) if name.isdigit() and (folder / name / COMPLETE).exists())
