"""Accelerators that are not here, to compile for: `v5e:4x4`, `v5p:4x4x4`, `v6e:8x8`, `hopper:8`.

XLA compiles for a TPU slice or a set of GPUs on any machine that has their compiler (`make targets` fetches them). Compilers are found and
set up when JAX starts, so a process serves one target: `environment` holds the variables it must start with, `call` runs a function in
such a process, and `devices` lists, inside it, devices that programs can be compiled for but not run on.

Lowering, which shows that a kernel can be written down for a platform but not that it compiles, needs no compiler: trace under
`abstract_mesh`, then `.lower(lowering_platforms=("tpu",))` or `("cuda",)`.
"""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

from kaiyuan_jax.config import UserError
from kaiyuan_jax.sharding import chips

FOLDER = Path(__file__).parents[2] / "build" / "targets"  # where `make targets` puts the compilers,
FOLDERS = {"tpu": "tpu", "gpu": "cuda"}  # each in its own folder
INSTALLED = tuple(Path(folder) for folder in sys.path if folder)  # and where they are when jax[tpu] or jax[cuda13] is installed
CONFIGS = Path(__file__).parent / "targets"
ALIASES = {"hopper": "h100"}
HOST = 8  # GPUs of a host, joined by NVLink
# How Google's tools call a slice, and in what they count it: libtpu warns when it finds no name.
ACCELERATORS = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1), "tpu7x": ("tpu7x", 2)}
KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "tpu7x": "TPU7x"}
KINDS |= {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
CORES = {"v5p": 2, "h100": 132, "h200": 132}  # of a device, as JAX counts them


@dataclasses.dataclass(frozen=True)
class Target:
    name: str  # v5e:4x4
    chip: chips.Chip  # its data sheet
    shape: tuple[int, ...]  # chips along every side of a TPU slice; (hosts, GPUs of a host)

    @property
    def platform(self) -> str:
        """tpu | gpu"""
        return self.chip.platform

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def device_kind(self) -> str:
        """As `jax.Device.device_kind` gives it."""
        return KINDS[self.chip.name]

    @property
    def cores(self) -> int:
        """Of one device: compute units that a kernel's grid can be spread over."""
        return CORES.get(self.chip.name, 1)


def target(name: str, flag: str = "target") -> Target:
    """The target of that name, given by a flag. Raises UserError for one that does not exist."""
    kind, _, topology = name.partition(":")
    chip = chips.named(ALIASES.get(kind, kind))
    if chip is None or chip.name not in KINDS:
        known = ", ".join([*KINDS, *ALIASES])
        raise UserError(f"--{flag}={name}: found {kind!r} before the colon, must be one of {known}, such as v5e:4x4 or hopper:8")
    if chip.platform == "gpu":
        count = int(topology) if re.fullmatch("[1-9][0-9]{0,4}", topology) else 0
        if not count or (count > HOST and count % HOST):
            raise UserError(f"--{flag}={name}: found {topology!r}, must be a number of GPUs, at most {HOST} or a multiple of it")
        return Target(name, chip, (-(-count // HOST), min(count, HOST)))
    sides = tuple(int(side) for side in topology.split("x")) if re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*)+", topology) else ()
    if len(sides) != chip.torus:
        example = "x".join(["4"] * chip.torus)
        raise UserError(f"--{flag}={name}: found {topology!r}, must be the {chip.torus} sides of a slice, such as {kind}:{example}")
    if math.prod(sides) > 1 and (sides[0] % 2 or sides[1] % 2):
        raise UserError(f"--{flag}={name}: found {topology!r}, the first two sides must be even: a host has 2x2 chips")
    return Target(name, chip, sides)


def requirements(platform: str) -> list[str]:
    """Packages, pinned to what the installed jax wants, that hold the compiler for tpu or gpu."""
    if platform == "gpu":
        version = importlib.metadata.version("jaxlib")
        return [f"jax-cuda13-plugin=={version}", f"jax-cuda13-pjrt=={version}"]
    lines = [line.partition(";")[0].strip() for line in importlib.metadata.requires("jax") or []]
    return sorted({line for line in lines if line.startswith("libtpu==")})


def compiler(platform: str) -> Path | None:
    """Where the compiler for tpu (libtpu.so) or gpu (the folder that holds its packages) is; None when absent."""
    package, inside = ("libtpu", "libtpu.so") if platform == "tpu" else ("jax_plugins/xla_cuda13", "xla_cuda_plugin.so")
    folders = [FOLDER / FOLDERS[platform], *INSTALLED]
    found = next((folder for folder in folders if (folder / package / inside).is_file()), None)
    return found and (found / package / inside if platform == "tpu" else found)


def missing(target: Target) -> str:
    """Why programs cannot be compiled for the target here, or nothing."""
    if compiler(target.platform):
        return ""
    packages = " and ".join(requirements(target.platform))
    return f"{target.name}: the compiler for {target.chip.name} is not on this machine ({packages}); run: make targets"


def environment(target: Target) -> dict[str, str]:
    """Variables that a process which compiles for the target must start with, over those that are there.

    XLA_FLAGS is emptied: this process's flags are for its own devices. Raises UserError when the compiler is absent.
    """
    if why := missing(target):
        raise UserError(why)
    path = [str(Path(__file__).parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    common = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if target.platform == "gpu":
        path.insert(0, str(compiler("gpu")))
        return common | {"PYTHONPATH": os.pathsep.join(path), "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    accelerator, cores = ACCELERATORS[target.chip.name]
    return common | {
        "PYTHONPATH": os.pathsep.join(path),
        "TPU_LIBRARY_PATH": str(compiler("tpu")),
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{accelerator}-{cores * target.chips}",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process dies on a lock file
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }


def devices(target: Target) -> list:
    """The target's devices, to make a mesh of and compile for; only in a process that began with its `environment`."""
    from jax.experimental import topologies

    if target.platform == "gpu":
        text = (CONFIGS / f"{target.chip.name}.txtpb").read_text(encoding="utf-8")
        sides = "x".join(map(str, (1, *target.shape)))  # slices x hosts x GPUs
        return topologies.get_topology_desc("", "cuda", target_config=text, topology=sides).devices
    name = f"{target.chip.name}:{'x'.join(map(str, target.shape))}"
    options = {"chips_per_host_bounds": (1, 1, 1)} if target.chips == 1 else {}
    return topologies.get_topology_desc(name, "tpu", **options).devices


def abstract_mesh(target: Target, shape: tuple[int, ...] = (1,), axes: tuple[str, ...] = ("x",)):
    """A mesh of the target's kind of devices for `jax.sharding.use_abstract_mesh`: programs are lowered under it, without a compiler."""
    from jax.sharding import AbstractDevice, AbstractMesh

    device = AbstractDevice(device_kind=target.device_kind, num_cores=target.cores, platform=target.platform)
    return AbstractMesh(shape, axes, abstract_device=device)


def lowering_platforms(target: Target) -> tuple[str]:
    """For `.lower(lowering_platforms=...)`."""
    return ("cuda" if target.platform == "gpu" else "tpu",)


def call(target: Target, function: str, arguments: dict | None = None, timeout: float = 900):
    """`function(target, **arguments)` in a process with the target's environment; arguments and result are JSON.

    function: "package.module:name" or "path/to/file.py:name". Raises UserError when the compiler is absent, RuntimeError with the end of
    the process's error output when it fails, subprocess.TimeoutExpired after `timeout` seconds.
    """
    command = [sys.executable, "-c", "from kaiyuan_jax.sharding import topology; topology.answer()"]
    request = json.dumps({"target": target.name, "function": function, "arguments": arguments or {}})
    done = subprocess.run(
        command, input=request, env=os.environ | environment(target), capture_output=True, text=True, timeout=timeout, check=False
    )
    last = done.stdout.rpartition(ANSWER)[2]
    if done.returncode or ANSWER not in done.stdout:
        end = "\n".join(done.stderr.strip().splitlines()[-30:])
        raise RuntimeError(f"{function} for {target.name} ended with code {done.returncode}:\n{end}")
    return json.loads(last)


ANSWER = "\n=== answer ===\n"  # stands before the result on the process's standard output


def answer() -> None:
    """The process's side of `call`: reads the request from standard input, prints the result."""
    request = json.load(sys.stdin)
    place, _, name = request["function"].rpartition(":")
    if place.endswith(".py"):
        specification = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    result = getattr(module, name)(target(request["target"]), **request["arguments"])
    print(ANSWER + json.dumps(result))
