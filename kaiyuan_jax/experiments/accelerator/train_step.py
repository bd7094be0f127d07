"""The project's own training step on random tokens: tokens/s, utilisation, memory, at the largest batch that fits.

Memory of a step grows by the same amount with every row, so two quick compilations (without tuning) say how many rows fit; the chosen
batch is then compiled in earnest and its bytes are looked at before it runs. The state is that of training: float32 weights and moments.
"""

import dataclasses
import functools
import gc
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kaiyuan_jax import config
from kaiyuan_jax.experiments.accelerator import shapes, timing
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.kernels.attention import api
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models import decoder
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.sharding import rules
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import state, step

LENGTH = 4096
BATCHES = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)  # rows that are tried
PROBES = (4, 8)  # rows of the two quick compilations
USUAL = 8  # rows, where those fail
ROOM = 0.97  # share of the device's memory that a program may fill
# How memory is spent: on every matrix product's result, so that norms, rotations and SwiGLU's product alone are made again; on a layer's
# input alone; or on whatever JAX's differentiation keeps.
PRODUCTS = ("query_projection", "key_projection", "value", "attention_out", "attention_branch", "feedforward_in")
PRODUCTS += ("gate", "up", "feedforward_branch")
POLICIES = {
    "products": dict(remat="names", remat_names=PRODUCTS),
    "full": dict(remat="full"),
    "none": dict(remat="none"),
}
VARIANTS = {
    "bfloat16": [("2b", "bfloat16", False, "products"), ("2b", "bfloat16", False, "full"), ("2b", "bfloat16", False, "none")],
    "float16": [("2b", "float16", False, "products"), ("2b", "float16", False, "full")],
    "plain": [("2b", "bfloat16", True, "products"), ("2b", "bfloat16", True, "none")],
    "proxies": [("0.5b", "bfloat16", False, "products"), ("0.1b", "bfloat16", False, "products")],
}


def measure(job: Job, variants: str) -> None:
    needs = 2.0 if job.tiny else 20.0
    for size, compute, plain, policy in VARIANTS[variants][:1] if job.tiny else VARIANTS[variants]:
        size = "tiny" if job.tiny else size
        shape = shapes.model(size, plain=plain, **POLICIES[policy])
        row = dict(model=size, shape="Qwen3" if plain else "Kaiyuan", compute=compute, remat=policy)
        for attention in kernels(shape, compute, jax.devices()[0].device_kind):
            begin = time.perf_counter()
            work = functools.partial(_measure, job, shape, compute, policy, attention)
            result = job.attempt(work, needs=needs, **row, attention=attention)
            if "error" not in result:  # else the next kernel: the step is worth more than the kernel that training would take
                needs = max(needs, 0.8 * (time.perf_counter() - begin))  # the next one takes as long, compilation among it
                break


def kernels(shape: config.Model, compute: str, device_kind: str) -> list[str]:
    """Attention's implementations that say they can run here, in the order in which training takes them."""
    case = ((1, LENGTH, shape.heads, shape.head_size), (1, LENGTH, shape.kv_heads, shape.head_size), jnp.dtype(compute), False)
    return api.candidates(Placement(device_kind).platform, *case, shape.attention_softcap, shape.window, device_kind)


def experiment(shape: config.Model, compute: str, batch: int, length: int, attention: str = "") -> config.Experiment:
    """attention: one of config_check.ATTENTION; empty: what training takes."""
    return config.Experiment(
        model=shape,
        data=config.Data(sequence_length=length, batch_size=batch),
        precision=config.Precision(compute=compute),
        mesh=config.Mesh(data=1, fsdp=1, tensor=1),
        kernels=config.Kernels(attention=attention),
    )


class Program:
    """One configuration: its abstract state and its step, compiled for one device."""

    def __init__(self, described: config.Experiment, device, quick: bool = False):
        self.experiment, self.mesh = described, make_mesh(described.mesh, [device])
        self.optimizer = adamw.build(described.optimizer, optax.constant_schedule(0.0))
        self.abstract = state.abstract(described, self.optimizer, self.mesh)
        graphdef, _ = decoder.abstract(described.model, described.precision)
        begin = time.perf_counter()
        lowered = step.build(described, graphdef, self.mesh, self.abstract).lower(
            self.abstract, *step.abstract_inputs(described, self.mesh, 4)
        )
        # sizes do not depend on which of several equal kernels is the fastest
        self.update = lowered.compile({"xla_gpu_autotune_level": 0} if quick and device.platform == "gpu" else None)
        self.compile_seconds = time.perf_counter() - begin

    def smaller(self) -> "Program":
        """The same with the next smaller batch. Raises MemoryError after one row."""
        rows = [candidate for candidate in BATCHES if candidate < self.experiment.data.batch_size]
        if not rows:
            raise MemoryError(f"one row needs {self.bytes() / 2**30:.1f} GiB, more than the device has")
        data = dataclasses.replace(self.experiment.data, batch_size=rows[-1])
        return Program(dataclasses.replace(self.experiment, data=data), self.mesh.devices.flat[0])

    def bytes(self) -> float:
        """Of device memory that a step holds, the state among it; 0 where the backend does not say."""
        return (timing.compiled_bytes(self.update)["total_gib"] or 0.0) * 2**30

    def state(self):
        return state.create(self.experiment, self.mesh)

    def batch(self) -> dict:
        """Random tokens, every row one document."""
        B, L = self.experiment.data.batch_size, self.experiment.data.sequence_length
        tokens = np.random.default_rng(0).integers(0, self.experiment.model.vocabulary, (B, L + 1), np.int32)
        arrays = (tokens[:, :-1], tokens[:, 1:], np.zeros((B, L), np.int32), np.tile(np.arange(L, dtype=np.int32), (B, 1)))
        return {key: jax.device_put(array, rules.batch_sharding(self.mesh, 2)) for key, array in zip(step.BATCH_KEYS, arrays, strict=True)}


def largest(first: tuple[int, float], second: tuple[int, float], limit: float, candidates: Iterable[int]) -> int:
    """The largest candidate whose bytes stay within `limit`, on the line through two (rows, bytes); the smallest when none does."""
    slope = max((second[1] - first[1]) / (second[0] - first[0]), 0.0)
    fits = [rows for rows in candidates if first[1] + slope * (rows - first[0]) <= limit]
    return max(fits, default=min(candidates))


def fitting(described: config.Experiment, device, limit: float) -> Program:
    """The program of the largest batch that fits `limit` bytes, compiled. Raises MemoryError when not even one row does."""

    def sized(rows: int, **options) -> Program:
        return Program(dataclasses.replace(described, data=dataclasses.replace(described.data, batch_size=rows)), device, **options)

    first = (0, 0.0)
    try:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda rows: (rows, sized(rows, quick=True).bytes()), PROBES)
        rows = largest(first, second, limit, BATCHES)
    except jax.errors.JaxRuntimeError as error:  # an untuned compilation is a means only: without it a usual batch is taken
        print(f"no estimate of memory: {error}", file=sys.stderr)
        rows = USUAL
    program = sized(rows)
    while program.bytes() > limit:  # what was tuned is on the line too, and a compilation is too long to go down row by row
        fewer = [candidate for candidate in BATCHES if candidate < rows]
        if not fewer or rows <= first[0]:
            program = program.smaller()
            rows = program.experiment.data.batch_size
        else:
            rows = largest(first, (rows, program.bytes()), limit, fewer)
            program = sized(rows)
    return program


def _measure(job: Job, shape: config.Model, compute: str, policy: str, attention: str) -> dict:
    device = jax.devices()[0]
    length = 64 if job.tiny else LENGTH
    limit = ROOM * (device.memory_stats() or {}).get("bytes_limit", 0)
    gc.collect()  # what the variant before has left
    described = experiment(shape, compute, 2, length, attention)
    program = fitting(described, device, limit) if limit else Program(described, device)
    while True:
        try:
            seconds, objectives = timed(program, longest=min(8.0, 0.3 * job.left()))
            break
        except jax.errors.JaxRuntimeError as error:  # memory was enough, but not in one piece
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
        program = program.smaller()
    tokens = program.experiment.data.batch_size * length / seconds
    return {
        "batch": program.experiment.data.batch_size,
        "tokens_per_second": tokens,
        **shapes.utilisation(shape, length, tokens, device.device_kind, full_remat=policy == "full"),
        "ms": seconds * 1e3,
        "compiled_gib": program.bytes() / 2**30,
        "compile_seconds": program.compile_seconds,
        "objective": objectives[0],
        "objective_last": objectives[-1],
    }


def timed(program: Program, longest: float) -> tuple[float, list[float]]:
    """Median seconds of a step in rounds of three, and the objective of every step; the first two are not timed."""
    now, batch, rates, said = program.state(), program.batch(), jnp.full((4,), 1e-4, jnp.float32), step.said(program.mesh)
    metrics = []
    for _ in range(2):
        now, measured = program.update(now, batch, rates, said)
        metrics.append(measured)
    jax.block_until_ready(now)
    rounds, begin = [], time.perf_counter()
    while len(rounds) < 5 and (not rounds or time.perf_counter() - begin + 3 * rounds[-1] < longest):
        start = time.perf_counter()
        for _ in range(3):
            now, measured = program.update(now, batch, rates, said)
            metrics.append(measured)
        jax.block_until_ready(now)
        rounds.append((time.perf_counter() - start) / 3)
    objectives = [float(measured["objective"]) for measured in metrics]
    if not all(bool(measured["finite"]) for measured in metrics):
        raise FloatingPointError(f"a step was not finite; objectives {objectives}")
    return float(np.median(rounds)), objectives
