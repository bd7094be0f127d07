"""A run folder for every member of a finished population, as training it alone would have left it.

`members/<name>/` holds config.json, tokenizer.json, metrics.jsonl and the last checkpoint with moments and all, so that what takes a run
takes a member: launch/evaluate.py, export_hf.py, generate.py, a run that starts from it. The checkpoint of a member that diverged has
the number of the last update that was made.
"""

import contextlib
import dataclasses

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from kaiyuan_jax import config, storage
from kaiyuan_jax.experiments.population import program
from kaiyuan_jax.experiments.population.members import Members
from kaiyuan_jax.experiments.population.trained import Population
from kaiyuan_jax.sharding import mesh as meshes
from kaiyuan_jax.training import checkpoint
from kaiyuan_jax.training.checkpoints import Checkpoints


def write(population: Population, group: Members) -> None:
    """Writes those that are not there yet, out of the last stacked checkpoint."""
    missing = [i for i, name in enumerate(group.names) if not checkpoint.steps(population.folder / "members" / name / "checkpoints")]
    if not missing:
        return
    laid = program.layout(1, jax.devices()[:1])
    with contextlib.closing(Checkpoints(population.folder / "checkpoints", group.first.checkpoint, len(population.steps))) as stacked:
        restored, progress = stacked.restore(group.steps, program.abstract(group.first, len(group), laid.everywhere))
    whole = NamedSharding(meshes.make_mesh(config.Mesh(data=1), jax.devices()[:1]), PartitionSpec())
    restored = jax.device_get(restored)
    for i in tqdm(missing, desc="run folders", unit="member", leave=False, disable=None):
        name, diverged = group.names[i], progress["diverged"][i]
        folder, done = population.folder / "members" / name, diverged - 1 if diverged else group.steps
        experiment = dataclasses.replace(group.experiments[i], output=str(folder))
        storage.make_folder(folder)
        storage.copy(population.folder / "tokenizer.json", folder / "tokenizer.json")
        storage.copy(population.folder / "metrics" / f"{name}.jsonl", folder / "metrics.jsonl")
        for field, kept in config.kept_files(experiment.schedule).items():
            storage.copy(storage.path(getattr(experiment.schedule, field)), folder / kept)
        storage.replace(folder / "config.json", config.to_json(experiment))
        one = jax.tree.map(lambda leaf, i=i: jax.device_put(leaf[i], whole), restored)
        one = dataclasses.replace(one, step=jax.device_put(np.int32(done), whole))
        plan = group.plans[i]
        facts = {
            "step": done,
            "position": plan.skipped + done * plan.batch_size,
            "seen": progress["seen"][i],
            "order": progress["order"][i],
        }
        with contextlib.closing(Checkpoints(folder / "checkpoints", experiment.checkpoint)) as own:
            own.save_now(done, one, facts)
