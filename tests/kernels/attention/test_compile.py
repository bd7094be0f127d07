"""Splash attention compiled for TPUs that are not here: it fits VMEM with the table's tiles, and its temporaries stay small."""

from pathlib import Path

import pytest

from kaiyuan_jax.sharding import topology
from tests.kernels.attention.compiled import CASES, TARGETS

MIB = 2**20
LIMIT = 130 * MIB  # of one row of 4,096 tokens in 16-bit; twice that in float32


@pytest.mark.kernels
@pytest.mark.parametrize("name", TARGETS)
def test_forward_and_backward_compile_within_vmem_and_with_few_temporaries(name):
    target = topology.target(name)
    if why := topology.missing(target):
        pytest.skip(why)
    compiled = topology.call(target, f"{Path(__file__).parent / 'compiled.py'}:temporaries")
    assert [case for case, _, _ in compiled] == [case[0] for case in CASES]
    for case, size, kernels in compiled:
        assert kernels == 3, case
        assert size < (2 * LIMIT if "float32" in case else LIMIT), (case, size / MIB)
