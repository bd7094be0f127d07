"""Runs a saved experiment again: `--config=configs/saved.py:runs/x/config.json`, with the schedule and law that its folder keeps."""

from kaiyuan_jax import config as c
from kaiyuan_jax import storage


def get_config(path: str = "") -> c.Experiment:
    if not path:
        raise ValueError("configs/saved.py needs the file to run again: --config=configs/saved.py:runs/x/config.json")
    return c.read(storage.path(path))
