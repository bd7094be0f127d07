"""Data sheets are found by the names that JAX gives devices."""

import pytest

from kaiyuan_jax.sharding import chips, topology


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("cpu", None),
        ("", None),
    ],
)
def test_peak_is_found_by_the_longest_name_that_fits(kind, peak):
    assert chips.peak_flops(kind) == peak


def test_every_target_finds_its_own_data_sheet_by_its_device_kind():
    for name, kind in topology.KINDS.items():
        assert chips.of_kind(kind) == chips.named(name)


def test_no_two_chips_share_a_name_or_a_device_kind():
    kinds = [kind for chip in chips.CHIPS for kind in chip.kinds]
    names = [chip.name for chip in chips.CHIPS]
    assert len(set(kinds)) == len(kinds) and len(set(names)) == len(names)
