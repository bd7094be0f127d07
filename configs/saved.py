"""Runs a saved experiment again: `--config=configs/saved.py:runs/x/config.json`."""

from kaiyuan_jax import config as c


def get_config(path: str = "") -> c.Experiment:
    if not path:
        raise ValueError("configs/saved.py needs the file to run again: --config=configs/saved.py:runs/x/config.json")
    with open(path, encoding="utf-8") as file:
        return c.from_json(file.read())
