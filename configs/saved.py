"""Runs a saved experiment again: `--config=configs/saved.py:runs/x/config.json`."""

from kaiyuan_jax import config as c


def get_config(path: str) -> c.Experiment:
    with open(path, encoding="utf-8") as file:
        return c.from_json(file.read())
