"""Every implementation of every op is written down for TPUs and GPUs here, and compiled for them by `make test-kernels`.

The rows are the ops' own lists, so a new implementation is in the matrix by itself. What an implementation says it cannot do is not
skipped: asking for it by name must be refused, in one line. Compiled temporaries are those of a value with its gradient.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from kaiyuan_jax.config import UserError
from kaiyuan_jax.config_check import ATTENTION
from kaiyuan_jax.kernels.attention import api as attention
from kaiyuan_jax.kernels.cross_entropy import api as cross_entropy
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.sharding import topology

LOWERED = ("v5e:1x1", "hopper:1")
COMPILED = ("v5e:1x1", "v5p:1x1x1", "v6e:1x1", "hopper:1")
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    op: str
    implementation: str
    dtype: str = "bfloat16"
    documents: bool = False
    softcap: float = 0.0
    window: int = 0

    def __str__(self):
        extras = [f"softcap{self.softcap:g}"] * bool(self.softcap) + [f"window{self.window}"] * bool(self.window)
        return "-".join([self.op, self.implementation, self.dtype, *["documents"] * self.documents, *extras])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of the 2B model where the compiler's time allows it: (L, H, K, C) or (L, D, V)."""
        if self.op == "attention":
            return ({"reference": 256, "xla": 512}.get(self.implementation, 4096), 16, 8, 128)
        return (256, 256, 2048) if self.implementation == "reference" else (8192, 2048, 151_936)

    @property
    def limit(self) -> float:
        """Bytes of temporaries allowed: of the definitions, which hold everything, none is asked for."""
        if self.implementation == "reference":
            return math.inf
        if self.op == "attention":
            L, H, _, C = self.sizes
            return 24 * L * H * C * 4 if self.implementation != "xla" else 8 * H * L * L * 4
        return 0.6 * 1024 * MIB if self.op == "weighted_objective" else 1.9 * 1024 * MIB


VARIANTS = ({}, {"documents": True}, {"documents": True, "softcap": 30.0, "window": 1024}, {"dtype": "float16"})
CASES = [Case("attention", name, **variant) for name in ATTENTION for variant in VARIANTS]
CASES += [
    Case(op, name, **variant)
    for op in ("linear_cross_entropy", "weighted_objective")
    for name in cross_entropy.IMPLEMENTATIONS
    for variant in ({"softcap": 30.0}, {"dtype": "float16"})
]


def program(case: Case, target: topology.Target):
    """(function, shapes of its arguments) of the op's value and gradient on one device of the target."""
    place = Placement(device_kind=target.device_kind)
    options = dict(softcap=case.softcap, place=place, implementation=case.implementation)
    if case.op == "attention":
        L, H, K, C = case.sizes
        shapes = [jax.ShapeDtypeStruct((1, L, heads, C), case.dtype) for heads in (H, K, K)]
        segments = [jax.ShapeDtypeStruct((1, L), jnp.int32)] * case.documents

        def value(q, k, v, *segments):
            segments_BL = segments[0] if segments else None
            return attention.attention(q, k, v, segments_BL=segments_BL, window=case.window, **options).astype(jnp.float32).sum()

        return jax.value_and_grad(value, argnums=(0, 1, 2)), [*shapes, *segments]
    L, D, V = case.sizes
    shapes = [jax.ShapeDtypeStruct((2, L // 2, D), case.dtype), jax.ShapeDtypeStruct((D, V), jnp.float32)]
    shapes.append(jax.ShapeDtypeStruct((2, L // 2), jnp.int32))

    def value(x, head, targets):
        if case.op == "linear_cross_entropy":
            loss, logsumexp = cross_entropy.linear_cross_entropy(x, head, targets, **options)
            return loss.mean() + 1e-4 * jnp.square(logsumexp).mean()
        weights = jnp.full(targets.shape, 1 / targets.size, jnp.float32)
        return cross_entropy.weighted_objective(x, head, targets, weights, z_loss=1e-4, **options)[0]

    return jax.value_and_grad(value, argnums=(0, 1)), shapes


def refusal(case: Case, target: topology.Target) -> str:
    """Why the implementation does not take the case on the target's devices, by its own account."""
    if case.op != "attention":
        return ""
    L, H, K, C = case.sizes
    sizes = (1, L, H, C), (1, L, K, C)
    supports = attention._module(case.implementation).supports
    return supports(*sizes, jnp.dtype(case.dtype), case.documents, case.softcap, case.window, target.device_kind)


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_implementation_can_be_written_down_for_a_platform_or_says_why_not(case, name):
    target = topology.target(name)
    function, shapes = program(case, target)
    with jax.sharding.use_abstract_mesh(topology.abstract_mesh(target)):
        if reason := refusal(case, target):
            with pytest.raises(UserError, match=case.implementation) as error:
                jax.eval_shape(function, *shapes)
            assert reason in str(error.value) and len(str(error.value).splitlines()) == 1
            return
        lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=topology.lowering_platforms(target))
    assert "stablehlo" in lowered.as_text()[:4000]


def compile_all(target: topology.Target) -> dict[str, dict]:
    """Bytes of temporaries, or the error, of every case that the target can take; in the target's process."""
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    device = topology.devices(target)[0]
    here = NamedSharding(Mesh([device], "x"), PartitionSpec())
    found = {}
    for case in CASES:
        if refusal(case, target):
            continue
        function, shapes = program(case, target)
        shapes = [jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=here) for shape in shapes]
        try:
            compiled = jax.jit(function).trace(*shapes).lower().compile()
            found[str(case)] = {"temporaries": compiled.memory_analysis().temp_size_in_bytes}
        except Exception as error:  # whatever a compiler says belongs to its case
            found[str(case)] = {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
    return found


@functools.cache
def compiled(name: str) -> dict[str, dict]:
    return topology.call(topology.target(name), f"{__file__}:compile_all", timeout=3600)


@pytest.mark.kernels
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_implementation_compiles_for_a_chip_within_its_bound_on_temporaries(case, name):
    target = topology.target(name)
    if why := topology.missing(target):
        pytest.skip(why)
    if refusal(case, target):
        return  # the lowering test sees to it that asking is refused
    result = compiled(name)[str(case)]
    assert "error" not in result, result["error"]
    assert result["temporaries"] <= case.limit, f"{result['temporaries'] / MIB:.0f} MiB of temporaries, {case.limit / MIB:.0f} allowed"
