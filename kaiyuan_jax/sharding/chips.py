"""What the vendors' data sheets say of the accelerators: the one table that utilisation, rooflines and memory checks read.

Figures are those of one chip: dense bf16 without sparsity, memory in GiB as programs find it (a GPU's driver keeps some of it). JAX lists
some chips as two devices (tpu7x always, v4 when it compiles without the hardware), and a device then has half of everything.

Sources: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; NVIDIA's A100, H100 and H200 data sheets (SXM). Interconnect is one
direction: Google states both together, NVIDIA's NVLink too, so half of those.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    name: str  # as targets name it
    platform: str  # tpu | gpu
    kinds: tuple[str, ...]  # how `jax.Device.device_kind` may begin
    flops: float  # peak dense bf16 FLOP/s, which is also that of fp16 where a chip multiplies it
    memory: float  # bytes
    bandwidth: float  # bytes/s between chip and memory
    interconnect: float  # bytes/s that leave the chip in one direction, all links together
    links: int  # of that interconnect
    torus: int = 0  # dimensions of the torus that the links make; 0: a switch
    wraps: int = 0  # a side of the torus closes to a ring where its length is a multiple of this
    devices: int = 1  # that JAX lists for a chip when it compiles ahead of time
    network: float = 0.0  # bytes/s of a chip between hosts that no link joins, one direction


CHIPS = (
    Chip("v4", "tpu", ("TPU v4",), 275e12, 32 * GIB, 1.2e12, 300e9, 6, torus=3, wraps=4, devices=2),
    Chip("v5e", "tpu", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 819e9, 200e9, 4, torus=2, wraps=16),
    Chip("v5p", "tpu", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2.765e12, 600e9, 6, torus=3, wraps=4),
    Chip("v6e", "tpu", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1.638e12, 400e9, 4, torus=2, wraps=16),
    Chip("tpu7x", "tpu", ("TPU7x", "TPU v7x"), 2307e12, 192 * GIB, 7.38e12, 600e9, 6, torus=3, wraps=4, devices=2),
    Chip("a100", "gpu", ("NVIDIA A100",), 312e12, 79 * GIB, 2.039e12, 300e9, 12, network=25e9),
    Chip("h100", "gpu", ("NVIDIA H100",), 989e12, 79 * GIB, 3.35e12, 450e9, 18, network=50e9),
    Chip("h200", "gpu", ("NVIDIA H200",), 989e12, 139 * GIB, 4.8e12, 450e9, 18, network=50e9),
)


def named(name: str) -> Chip | None:
    """The chip of that name, or None."""
    return next((chip for chip in CHIPS if chip.name == name), None)


def of_kind(device_kind: str) -> Chip | None:
    """The chip whose devices JAX calls so, by the longest beginning that fits; None where it is not known (CPUs among others)."""
    fits = [(len(kind), i) for i, chip in enumerate(CHIPS) for kind in chip.kinds if device_kind.startswith(kind)]
    return CHIPS[max(fits)[1]] if fits else None


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of one device of a running program, None where it is not known.

    A v4 that runs is one device; a tpu7x is two.
    """
    chip = of_kind(device_kind)
    return chip and chip.flops / (2 if chip.name == "tpu7x" else 1)
