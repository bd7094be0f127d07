"""What the processes of test_many_processes.py do; run by tests/processes.py."""

import contextlib
import hashlib
import math

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kaiyuan_jax import config
from kaiyuan_jax.data import loader, recipe
from kaiyuan_jax.sharding import mesh as meshes
from kaiyuan_jax.sharding import processes, rules
from kaiyuan_jax.training import job, loop, state
from kaiyuan_jax.training.checkpoints import Checkpoints


def train(experiment: str) -> dict:
    """Trains an experiment (JSON); what this process saw of it, and what it holds."""
    experiment = config.from_json(experiment)
    done, mesh = loop.train(experiment), meshes.make_mesh(experiment.mesh)
    return {"step": done.step, "shares": _shares(experiment, mesh), "batches": batches(experiment, mesh), "words": words()}


def train_both(*experiments: str) -> dict:
    """Trains two experiments with the same mesh and data, one after the other."""
    both = [config.from_json(text) for text in experiments]
    return {"steps": [loop.train(experiment).step for experiment in both], "batches": batches(both[0])}


def batches(experiment: config.Experiment, mesh=None) -> list[str]:
    """SHA-256 of the first three global batches, brought together by the devices."""
    mesh = mesh or meshes.make_mesh(experiment.mesh)
    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    rows = rules.process_rows(mesh, plan.batch_size)
    source = loader.dataset(plan, loader.open_stores(experiment.data), rows=rows, mask_documents=True)
    whole = jax.jit(lambda batch: batch, out_shardings=NamedSharding(mesh, PartitionSpec()))
    digests = []
    for step in range(3):
        local = source[step]
        assert all(len(x) == len(rows) for x in local.values())  # no process reads more
        found = jax.device_get(whole(rules.global_batch(local, mesh, rows, plan.batch_size)))
        digests.append(hashlib.sha256(b"".join(np.ascontiguousarray(found[key]).tobytes() for key in sorted(found))).hexdigest())
    return digests


def _shares(experiment: config.Experiment, mesh) -> list[float]:
    """The largest part of any matrix that this process holds, of a state just created and of the last checkpoint restored."""
    begun = job.prepare(experiment)
    with contextlib.closing(Checkpoints(begun.folder / "checkpoints", experiment.checkpoint)) as checkpoints:
        restored, _ = checkpoints.newest(begun.abstract)
    return [_largest_share(now) for now in (state.create(experiment, mesh), restored)]


def _largest_share(now: state.TrainState) -> float:
    def share(leaf):
        parts = {str(shard.index): math.prod(shard.data.shape) for shard in leaf.addressable_shards}
        return sum(parts.values()) / leaf.size

    return max(share(leaf) for leaf in jax.tree.leaves(now) if leaf.size > 100)


def words() -> list:
    """What the host-side exchanges return on this process."""
    i = processes.index()
    exact = np.array([1 / 3 + i, 2**60 + i, np.pi])
    return [
        processes.gather(exact).tolist(),
        processes.gather(np.int64(2**60 + i)).tolist(),
        processes.agree({"step": i, "text": "x" * (1000 * i + 1)}),
        [len(value) for value in processes.gather_values("y" * i)],
    ]
