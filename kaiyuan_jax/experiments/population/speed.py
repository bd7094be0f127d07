"""How fast a population trains, beside the same members one after the other.

Both do the same updates on the same random tokens: the population by its one program, the others by the ordinary training step, called for
one member after another, each with a state of its own. Rounds alternate between the two, so that what else the machine does meets both, and
the ratio is the median over rounds.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kaiyuan_jax import config
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.experiments.population import program
from kaiyuan_jax.models import decoder, flops
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding import mesh as meshes
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.training import state, step

RATE = 1e-4
STEPS = 4  # rates that the programs hold


def compare(experiment: Experiment, count: int, *, devices=None, at_once: int = 0, rounds: int = 5) -> dict:
    """Tokens a second of `count` members together and one after the other (on the first device), and what each took to compile.

    ratio: together over one after the other, wall time, the median over rounds; ratio_low and ratio_high are the extremes. cpu_ratio: the
    same of processor seconds, which on a busy machine says more.
    """
    experiment = dataclasses.replace(experiment, mesh=config.Mesh(data=1))
    laid = program.layout(count, devices, at_once)
    together, compiling = _together(experiment, laid)
    apart, compiling_one = _apart(experiment, count, laid.mesh.devices.flat[0])
    together(), apart()
    seconds = np.array([[_timed(apart), _timed(together)] for _ in range(rounds)])  # [rounds, 2, wall and processor]
    tokens = count * experiment.data.batch_size * experiment.data.sequence_length
    ratios, cpu = (seconds[:, 0, clock] / seconds[:, 1, clock] for clock in (0, 1))
    wall = np.median(seconds[:, :, 0], axis=0)
    return {
        "members": count,
        "parameters": flops.parameters(experiment.model),
        "rows": experiment.data.batch_size,
        "length": experiment.data.sequence_length,
        "compute": experiment.precision.compute,
        "devices": laid.mesh.size,
        "at_once": laid.at_once,
        "one_after_another": float(tokens / wall[0]),
        "tokens_per_second": float(tokens / wall[1]),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "cpu_ratio": float(np.median(cpu)),
        "compile_one": compiling_one,
        "compile_seconds": compiling,
    }


def _timed(work) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _batch(experiment: Experiment, count: int) -> dict[str, np.ndarray]:
    """Random tokens, int32 [count, B, L], every row one document."""
    M, B, L = count, experiment.data.batch_size, experiment.data.sequence_length
    tokens = np.random.default_rng(0).integers(0, experiment.model.vocabulary, (M, B, L + 1), np.int32)
    positions = np.broadcast_to(np.arange(L, dtype=np.int32), (M, B, L))
    return dict(zip(step.BATCH_KEYS, (tokens[..., :-1], tokens[..., 1:], np.ones((M, B, L), np.int32), positions), strict=True))


def _together(experiment: Experiment, laid: program.Layout):
    """(a function that trains every member for one step and waits, seconds of compilation)."""
    begin = time.perf_counter()
    update = program.update(experiment, laid, STEPS)
    compiling, count = time.perf_counter() - begin, laid.count
    batch = {key: laid.put(x) for key, x in _batch(experiment, count).items()}
    rates_PT, decay_P = laid.put(np.full((count, STEPS), RATE, np.float32)), laid.put(np.full(count, 0.1, np.float32))
    held = [program.create(experiment, range(count), laid), laid.put(np.zeros(count, np.int32))]

    def work():
        held[0], held[1], measured = update(*held, batch, rates_PT, decay_P, np.int32(0))
        jax.block_until_ready((held, measured))

    return work, compiling


def _apart(experiment: Experiment, count: int, device):
    """The same by the ordinary step, one member after another; a call waits for the last."""
    mesh, optimizer = meshes.make_mesh(experiment.mesh, [device]), adamw.build(experiment.optimizer, optax.constant_schedule(0.0))
    abstract, (graphdef, _) = state.abstract(experiment, optimizer, mesh), decoder.abstract(experiment.model, experiment.precision)
    begin = time.perf_counter()
    update = step.build(experiment, graphdef, mesh, abstract).lower(abstract, *step.abstract_inputs(experiment, mesh, STEPS)).compile()
    compiling = time.perf_counter() - begin
    stacked = _batch(experiment, count)
    batches = [{key: jax.device_put(x[i], rules.batch_sharding(mesh, 2)) for key, x in stacked.items()} for i in range(count)]
    rates_T, said = jax.device_put(jnp.full((STEPS,), RATE, jnp.float32), device), step.said(mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    first = jax.jit(lambda key: state.initial(experiment, optimizer, key), out_shardings=shardings)(jax.random.key(0))
    held = [jax.tree.map(jnp.copy, first) for _ in range(count)]

    def work():
        for i, batch in enumerate(batches):
            held[i], _ = update(held[i], batch, rates_T, said)
        jax.block_until_ready(held)

    return work, compiling
