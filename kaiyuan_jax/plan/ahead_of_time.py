"""The whole training step of an experiment, compiled for accelerators that are not here, and what the compiled program says of itself.

Runs in the process of one target (`topology.call`): sizes are those of one device, a chip but where JAX lists a chip as two.
"""

import math
import re
import resource
import time
from pathlib import Path

import jax

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder, flops
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.plan import roofline
from kaiyuan_jax.sharding import hlo, rules, topology
from kaiyuan_jax.sharding import mesh as meshes
from kaiyuan_jax.training import state, step

STEPS = 1000  # length of the table of learning rates that the step is given


def measure(target: topology.Target, experiment: str, rows: int = 0, text: str = "") -> dict:
    """Everything that can be known of the step without the hardware.

    experiment: its JSON; rows: sequences of a device in a step instead of its batch_size, 0 for that; text: file for the compiled
    program's HLO, empty for none.
    """
    experiment = config.from_json(experiment)
    devices = topology.devices(target)
    mesh = meshes.make_mesh(experiment.mesh, devices)
    batch = experiment.data.batch_size = rows * len(devices) or experiment.data.batch_size
    abstract = state.abstract(experiment, adamw.build(experiment.optimizer, lambda count: 1e-3), mesh)
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    inputs = step.abstract_inputs(experiment, mesh, STEPS)
    found = {"devices": len(devices), "mesh": dict(mesh.shape), "batch": batch, "jax": jax.__version__}
    begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    traced = step.build(experiment, graphdef, mesh, abstract).trace(abstract, *inputs)
    ways = rules.placement(mesh).ways("B")
    found["bytes"] = {
        "parameters": _bytes(abstract.params),
        "optimizer": _bytes(abstract.opt_state),
        "average": _bytes(abstract.average),
        "batch": _bytes(inputs[0]),
        "gradients": _bytes(abstract.params),  # of the parameters' dtype and cut
        "saved activations": _saved(traced.jaxpr, experiment.model.layers) / ways,
    }
    error = ""
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as problem:
        if "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        error = str(problem)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["seconds"] = {"compile": time.perf_counter() - begun, "cpu": usage.ru_utime - used}
    found["host_bytes"] = usage.ru_maxrss * 1024
    if error:
        return found | {"memory": overflow(error)}
    if text:
        Path(text).write_text(compiled.as_text(), encoding="utf-8")
    memory = compiled.memory_analysis()
    sizes = {name: getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "alias", "temp", "generated_code")}
    needed = sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"] + sizes["generated_code"]
    available = target.chip.memory / target.chip.devices
    found["memory"] = {"needed": needed, "available": available, "fits": needed <= available, **sizes}
    return found | analyse(target, experiment, mesh, hlo.parse(compiled.as_text()))


def analyse(target: topology.Target, experiment: config.Experiment, mesh, program: hlo.Program) -> dict:
    """FLOPs, collectives and the roofline of a compiled step."""
    devices, model, length = list(mesh.devices.flat), experiment.model, experiment.data.sequence_length
    tokens, accumulation = experiment.data.batch_size * length / len(devices), experiment.optimizer.accumulation
    kernels = hlo.kernels(program)
    products = hlo.products(program)
    each = {source: times / accumulation for source, times in kernels.items()}
    executed = products + roofline.attention_kernel_flops(model, each, tokens, length)
    exchanged, seconds = {}, 0.0
    for one in hlo.collectives(program, len(devices)):
        speed = roofline.wires(target, [_place(target, devices[i], i) for i in one.devices])
        key = f"{one.kind} over {'+'.join(hlo.axes_of(one.devices, dict(mesh.shape))) or 'devices'} ({speed / 1e9:.0f} GB/s)"
        exchanged[key] = exchanged.get(key, 0.0) + one.bytes * one.times
        seconds += one.bytes * one.times / speed
    chip = target.chip
    line = roofline.Roofline(
        compute=executed / (roofline.EFFICIENCY * chip.flops / chip.devices),
        memory=roofline.memory_traffic(model, experiment.precision, len(devices), mesh.shape["tensor"], tokens, accumulation)
        / (chip.bandwidth / chip.devices),
        exchange=seconds,
        tokens=tokens,
        model=flops.per_token(model, length) * tokens,
        executed=executed,
        peak=chip.flops / chip.devices,
    )
    return {
        "flops": {"model": line.model, "products": products, "executed": executed},
        "kernels": kernels,
        "collectives": exchanged,
        "roofline": {name: getattr(line, name) for name in ("compute", "memory", "exchange", "bound", "tokens_per_second", "mfu", "hfu")},
    }


def overflow(message: str) -> dict:
    """What a TPU's compiler says of a program that does not fit, in bytes."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    if not found:
        return {"fits": False, "said": message.splitlines()[0][:300]}
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, available = float(found[1]) * scale[found[2]], float(found[3]) * scale[found[4]]
    return {"needed": needed, "available": available, "fits": False, "said": found[0]}


def _place(target, device, index: int) -> tuple[int, ...]:
    """Where a device is: coordinates in the torus, or (host, GPU)."""
    return tuple(device.coords) if target.platform == "tpu" else divmod(index, topology.HOST)


def _bytes(tree) -> int:
    """Of one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _saved(jaxpr, layers: int) -> int:
    """Bytes that the forward pass over the layers leaves for the backward pass, of all devices: what its scan stacks."""
    for equation in _equations(jaxpr.jaxpr):
        if equation.primitive.name == "scan" and equation.params["length"] == layers:
            pairs = zip(equation.outvars, equation.params["jaxpr"].jaxpr.outvars, strict=True)
            stacked = [whole.aval for whole, one in pairs if whole.aval.shape == (layers, *one.aval.shape)]
            return sum(aval.size * aval.dtype.itemsize for aval in stacked)
    return 0


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
