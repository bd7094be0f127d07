"""Our own jitted train step in a process of its own: python -m kaiyuan_jax.experiments.cpu_step.jax_side SHARED_FOLDER

Writes the initial weights and the batch to SHARED_FOLDER/start.npz, then speaks as `torch_side` does.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import host_memory
from kaiyuan_jax.training import state as states
from kaiyuan_jax.training import step as steps


def main(folder: str) -> None:
    settings = json.loads((Path(folder) / "settings.json").read_text())
    experiment = config.from_json(json.dumps(settings["experiment"]))
    rates_T, B, L = np.full(1, settings["rate"], np.float32), experiment.data.batch_size, experiment.data.sequence_length
    mesh = make_mesh(config.Mesh(data=1), jax.devices()[:1])
    optimizer = adamw.build(experiment.optimizer, lambda count: settings["rate"])
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    train = steps.build(experiment, graphdef, mesh, states.abstract(experiment, optimizer, mesh))
    state, said = states.create(experiment, optimizer, mesh), steps.said(mesh)

    tokens_BL1 = np.random.default_rng(0).integers(0, experiment.model.vocabulary, (B, L + 1)).astype(np.int32)
    positions_BL = np.broadcast_to(np.arange(L, dtype=np.int32), (B, L))
    batch = dict(
        inputs_BL=tokens_BL1[:, :-1], targets_BL=tokens_BL1[:, 1:], segments_BL=np.ones((B, L), np.int32), positions_BL=positions_BL
    )
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    start = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(Path(folder) / "start.npz", inputs=batch["inputs_BL"], targets=batch["targets_BL"], **start)
    count = sum(leaf.size for leaf in start.values())

    losses = []
    for _ in range(settings["warm_up"]):
        state, metrics = train(state, batch, rates_T, said)
        losses.append(float(metrics["objective"]))
    print(json.dumps({"losses": losses, "parameters": count, "version": f"jax {jax.__version__}"}), flush=True)
    for line in sys.stdin:
        seconds, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            state, metrics = train(state, batch, rates_T, said)
        loss = float(metrics["objective"])
        jax.block_until_ready(state)
        print(json.dumps({"seconds": time.perf_counter() - seconds, "cpu": time.process_time() - cpu, "loss": loss}), flush=True)


if __name__ == "__main__":
    host_memory.begin_again_with_huge_pages()  # as launch/train.py does
    main(sys.argv[1])
