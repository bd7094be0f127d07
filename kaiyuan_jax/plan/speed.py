"""How fast a run can be, before anything is compiled: the roofline by arithmetic, and a band around what such runs reach.

Of one device and step, with A micro-batches of T tokens, w bytes a number in the compute dtype, P_l parameters of the layers' matrices and
P_h of the head:

    FLOPs      2 (P_l + P_h) forward, twice that backward, 2 p once more for every matrix p whose product recomputation repeats;
               attention 2 products over half of the square forward, 7 backward (`roofline.attention_flops`)
    exchange   fsdp     weights gathered forward and backward (b = w bytes, or 4 under full recomputation, as XLA gathers them), gradients
                        reduce-scattered in float32: A (n-1)/n [(w + b + 4) P_l + (w + 4) P_h]
               data     gradients of what a device holds, all-reduced, after each micro-batch
               tensor   4 all-reduces of x a layer, 6 where the layer is computed twice
               context  keys and values gathered forward, again backward, and their gradients back

The band: at best the bound, max(compute at 70% of the peak, memory, exchange), nothing waiting for anything. At worst the same three one
after the other, or LOW of the peak as MFU, whichever is slower. PUBLISHED says what runs of this size reported; which of them a user gets
is for the first hour on the machine to say.
"""

import dataclasses
import math

from kaiyuan_jax.config import Experiment
from kaiyuan_jax.models import flops
from kaiyuan_jax.plan import roofline
from kaiyuan_jax.plan.memory import WIDTHS, parameters
from kaiyuan_jax.plan.setting import Setting
from kaiyuan_jax.sharding import topology

LOW = 0.33  # MFU; the least of what follows
PUBLISHED = (
    "published MFU: 51.7% (1.43B, S = 4096, full remat, 16 v5p), 50.0% (1.5k wide, 24 deep, bf16, 8 H100), 65.4% (70B, 512 v5p), "
    "33 to 39% (8B, PyTorch compiled with FSDP); none is known for 1 to 2B on H200, v5e or v6e, and ours is not measured yet"
)


@dataclasses.dataclass(frozen=True)
class Speed:
    line: roofline.Roofline  # of one device and step
    chips: int
    devices: int
    collectives: dict[str, float]  # bytes received by a device in a step, by mesh axis

    @property
    def serial(self) -> float:
        """Seconds a step in which nothing overlaps; settings are ranked by it."""
        return self.line.compute + self.line.memory + self.line.exchange

    @property
    def worst(self) -> float:
        """Seconds a step at the bad end of the band."""
        return max(self.serial, self.line.model / (LOW * self.line.peak))

    @property
    def band(self) -> tuple[float, float]:
        """Tokens/s of all chips, at worst and at best."""
        tokens = self.line.tokens * self.devices
        return tokens / self.worst, tokens / self.line.seconds

    @property
    def utilisation(self) -> tuple[float, float]:
        """Model FLOP utilisation at both ends of the band."""
        return self.line.model / self.worst / self.line.peak, self.line.mfu


def estimate(experiment: Experiment, setting: Setting, target: topology.Target) -> Speed:
    """By arithmetic alone."""
    chip, model, length = target.chip, experiment.model, experiment.data.sequence_length
    micro = setting.tokens(experiment) / setting.tensor  # a device's share of a micro-batch's products
    tokens = micro * setting.accumulation
    executed = tokens * executed_per_token(experiment, setting)
    exchanged = collectives(experiment, setting)
    seconds = sum(size / _speed(target, setting, axis) for axis, size in exchanged.items())
    run_so = dataclasses.replace(model, remat=setting.remat)
    traffic = roofline.memory_traffic(run_so, experiment.precision, setting.devices, setting.tensor, tokens, setting.accumulation)
    peak = chip.flops / chip.devices
    line = roofline.Roofline(
        compute=executed / (roofline.EFFICIENCY * peak),
        memory=traffic / (chip.bandwidth / chip.devices),
        exchange=seconds,
        tokens=tokens,
        model=flops.per_token(model, length) * tokens,
        executed=executed,
        peak=peak,
    )
    return Speed(line, target.chips, setting.devices, exchanged)


def executed_per_token(experiment: Experiment, setting: Setting) -> float:
    """FLOPs done for a token, what recomputation repeats among them."""
    model, length = experiment.model, experiment.data.sequence_length
    D, H, K, C, F = model.width, model.heads, model.kv_heads, model.head_size, model.feedforward
    products = {
        "query_projection": D * H * C, "key_projection": D * K * C, "value": D * K * C, "attention_branch": D * H * C,
        "gate": D * F, "up": D * F, "feedforward_branch": D * F,
    }  # fmt: skip
    keeps = {"full": (), "names": setting.names, "none": (*products, "attention_out")}[setting.remat]
    again = sum(size for name, size in products.items() if name not in keeps)
    attention = roofline.attention_flops(model, 1 if "attention_out" in keeps else 2, 2, 1, length)
    return 6.0 * flops.matrix_parameters(model) + 2.0 * model.layers * again + attention


def collectives(experiment: Experiment, setting: Setting) -> dict[str, float]:
    """Bytes that a device receives in a step, by mesh axis."""
    model, width = experiment.model, WIDTHS[experiment.precision.compute]
    head = model.width * model.vocabulary / setting.tensor
    layers = (flops.matrix_parameters(model) - model.width * model.vocabulary) / setting.tensor
    x = setting.tokens(experiment) * model.width * width * model.layers
    keys = setting.tokens(experiment) * 2 * model.kv_heads / setting.tensor * model.head_size * width * model.layers
    backward = 4 if setting.remat == "full" else width  # bytes of a weight gathered for the backward pass, as XLA has it
    part = {axis: (size - 1) / size for axis, size in setting.mesh.items()}
    found = {
        "fsdp": part["fsdp"] * ((width + backward + 4) * layers + (width + 4) * head),
        "data": part["data"] * 8 * parameters(experiment, setting),
        "tensor": part["tensor"] * 2 * x * (6 if setting.remat == "full" else 4),
        "context": (setting.context - 1) * keys * 3 + part["context"] * 8 * (layers + head),
    }
    return {axis: setting.accumulation * size for axis, size in found.items() if size}


def _speed(target: topology.Target, setting: Setting, axis: str) -> float:
    """Bytes/s that a device receives over one axis, taken as neighbouring chips: tensor innermost, then context, fsdp, data."""
    order = ("tensor", "context", "fsdp", "data")
    inner = math.prod(setting.mesh[name] for name in order[: order.index(axis)])
    places = [inner * i // target.chip.devices for i in range(setting.mesh[axis])]
    if len(set(places)) == 1:
        return math.inf  # the two halves of one chip
    return roofline.wires(target, [_place(target, place) for place in places]) / target.chip.devices


def _place(target: topology.Target, number: int) -> tuple[int, ...]:
    """Of the number-th chip, when sides are walked from the last to the first."""
    found = []
    for side in reversed(target.shape):
        number, here = divmod(number, side)
        found.append(here)
    return tuple(reversed(found))
