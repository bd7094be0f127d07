"""A population on disk: its members, its stacked checkpoints, and their weights.

folder: members.json  tokenizer.json  metrics/<name>.jsonl  speed.jsonl  checkpoints/<step>/ (arrays [M, ...])
        members/<name>/ (after the end: a run folder of its own, which launch/evaluate.py, export_hf.py, generate.py read)
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from kaiyuan_jax import config, json_text
from kaiyuan_jax.config import Experiment, UserError
from kaiyuan_jax.data import loader
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint

MEMBERS = "members.json"


@dataclasses.dataclass(frozen=True)
class Population:
    """What `train` leaves in a folder."""

    folder: Path
    members: tuple[Experiment, ...]

    @property
    def steps(self) -> list[int]:
        """Steps of the complete stacked checkpoints, ascending."""
        return checkpoint.steps(self.folder / "checkpoints")

    @property
    def names(self) -> list[str]:
        return [experiment.name for experiment in self.members]

    @property
    def diverged(self) -> dict[str, int]:
        """Name -> the update at which a member diverged, as the newest checkpoint says; its weights are those before it."""
        marks = self._marks(self.steps[-1]) if self.steps else []
        return {name: step for name, step in zip(self.names, marks, strict=False) if step}

    @functools.cached_property
    def graphdef(self):
        """With `models.decoder.merge` and what `solo` gives: a member as a decoder."""
        return self._abstract[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the tokenizer of all members."""
        return loader.open_stores(dataclasses.replace(self.members[0].data, sources=self.members[0].data.sources[:1]))[0].fingerprint

    def parameters(self, weights: Mapping[int, float]) -> dict:
        """float32 arrays [M, ...]: the sum of weight times checkpoint over steps; {step: 1.0} is that checkpoint.

        A member that had diverged by one of the steps has NaN throughout. Raises CheckpointError for a step that is not there.
        """
        if not weights:
            raise UserError(f"{self.folder}: no steps given; it has checkpoints {', '.join(map(str, self.steps)) or '(none)'}")
        M, total = len(self.members), None
        stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((M, *leaf.shape), leaf.dtype), self._abstract[1])
        alive_M = jnp.ones(M, bool)
        for step, weight in weights.items():
            params = checkpoint.load_parameters(self.folder / "checkpoints" / str(step), stacked)
            total = _scaled(params, weight) if total is None else _added(total, params, weight)
            alive_M &= jnp.array([mark == 0 for mark in self._marks(step)])
        return jax.tree.map(lambda leaf: jnp.where(alive_M.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.nan), total)

    @staticmethod
    def solo(params_M, index: int) -> dict:
        """The parameters of one member out of arrays [M, ...]."""
        return jax.tree.map(lambda leaf: leaf[index], params_M)

    @functools.cached_property
    def _abstract(self):
        return decoder.abstract(self.members[0].model, self.members[0].precision)

    def _marks(self, step: int) -> list[int]:
        return checkpoint.progress(self.folder / "checkpoints" / str(step))["diverged"]


@jax.jit
def _scaled(params, weight):
    return jax.tree.map(lambda leaf: weight * leaf.astype(jnp.float32), params)


@jax.jit
def _added(total, params, weight):
    return jax.tree.map(lambda sum_, leaf: sum_ + weight * leaf.astype(jnp.float32), total, params)


def open_population(folder) -> Population:
    """The population in a folder that `train` has written. Raises UserError where there is none."""
    path = Path(folder) / MEMBERS
    if not path.is_file():
        raise UserError(f"{folder}: holds no population ({MEMBERS}); train one first")
    return Population(Path(folder), read_members(path))


def read_members(path: Path) -> tuple[Experiment, ...]:
    return tuple(config.from_json(json.dumps(entry)) for entry in json_text.read(path))
