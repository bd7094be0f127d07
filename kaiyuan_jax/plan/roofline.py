"""The least time a compiled training step can take on a chip, from what it multiplies, moves in memory and exchanges.

    seconds >= max(FLOPs / (0.7 peak), memory bytes / bandwidth, sum over collectives of bytes / bandwidth of the wires they use)

0.7 of the peak is what large matrix products reach; the rest is taken as perfectly overlapped, so the result is a bound and no forecast.

FLOPs: products of the compiled program (sharding/hlo.py) and, where attention is a kernel whose products the text does not show, those over
half of the square: 2 every time it runs forward; backward 5, or 7 where one kernel makes dq and another dk and dv.
Memory: AdamW reads and writes parameter, two moments and gradient in float32; every pass writes and reads the layers' weights in the
compute dtype and, of each layer, 6 D + 4 H C + 4 K C + 3 F numbers per token.
Wires: along the sides of a torus in which the devices of a group differ, both ways where the side closes to a ring, else half; a GPU's
NVLink inside a host, its network card between hosts.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from kaiyuan_jax import config
from kaiyuan_jax.models import flops
from kaiyuan_jax.sharding import topology

EFFICIENCY = 0.7  # of the peak


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Of one step on one chip."""

    compute: float  # seconds, each
    memory: float
    exchange: float
    tokens: float  # read by the chip in a step
    model: float  # FLOPs of the model: causal attention halved, nothing counted twice
    executed: float  # FLOPs that the chip does
    peak: float  # FLOP/s

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.exchange)

    @property
    def bound(self) -> str:
        """compute | memory | exchange: what takes longest."""
        return max(("compute", "memory", "exchange"), key=lambda name: getattr(self, name))

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation at the bound, recomputation not counted."""
        return self.model / self.seconds / self.peak

    @property
    def hfu(self) -> float:
        """The same of all FLOPs done, recomputation counted."""
        return self.executed / self.seconds / self.peak


def attention_kernel_flops(model: config.Model, kernels: Mapping[str, int], tokens: float, length: int) -> float:
    """FLOPs inside attention kernels for `tokens` tokens, by the convention above; `kernels` as `hlo.kernels` gives them.

    On TPUs they carry their own names, splash_mha_{fwd,dq,dkv}; the kernels beside them make norms. On GPUs attention is what runs once,
    or a few times, for every layer of the scan.
    """
    named = {source: times / model.layers for source, times in kernels.items() if "splash_mha" in source}
    if named:
        backward = sum(times for source, times in named.items() if "fwd" not in source)
        forward = sum(named.values()) - backward
    else:
        runs = {source: times / model.layers for source, times in kernels.items() if "while/body" in source and times % model.layers == 0}
        backward = sum(times for source, times in runs.items() if "transpose(" in source and "rematted" not in source)
        forward = sum(runs.values()) - backward
    return attention_flops(model, forward, backward, tokens, length)


def attention_flops(model: config.Model, forward: float, backward: float, tokens: float, length: int) -> float:
    """FLOPs of attention that runs so often forward, and backward in so many kernels a layer."""
    products = 2 * forward + (0 if not backward else 5 if backward == 1 else 7)
    return products * model.layers * model.heads * model.head_size * float(length) * tokens


def memory_traffic(
    model: config.Model, precision: config.Precision, chips: int, tensor: int, tokens: float, accumulation: int = 1
) -> float:
    """Bytes between a chip and its memory in a step, by the convention above; weights are gathered over all axes but tensor.

    tokens: of the chip in the whole step; weights are read anew for each of its micro-batches.
    """
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[precision.compute]
    passes = 3 if model.remat == "none" else 4  # forward, recomputed forward, backward for activations and for weights
    D, F, H, K, C = model.width, model.feedforward, model.heads, model.kv_heads, model.head_size
    layer = 6 * D + 4 * H * C + 4 * K * C + 3 * F
    optimizer = 8 * 4 * flops.parameters(model) / chips
    weights = 2 * width * passes * flops.matrix_parameters(model) / tensor * accumulation
    return optimizer + weights + 2 * width * passes * model.layers * layer * tokens


def wires(target: topology.Target, coordinates: Sequence[Sequence[int]]) -> float:
    """Bytes/s that one chip of a group receives; `coordinates` are those of the group's chips."""
    chip = target.chip
    sides = [len({place[i] for place in coordinates}) for i in range(len(coordinates[0]))]
    if target.platform == "gpu":
        return chip.network if sides[0] > 1 else chip.interconnect
    link = chip.interconnect / chip.links
    ways = [2 if target.shape[i] % chip.wraps == 0 and side == target.shape[i] else 1 for i, side in enumerate(sides[: chip.torus])]
    used = [way for way, side in zip(ways, sides, strict=False) if side > 1]
    return link * sum(used) if used else math.inf
