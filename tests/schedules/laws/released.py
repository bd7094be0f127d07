"""The loss curves that 2503.12811 released (models of 25M and 100M parameters, nine schedules each) and the schedules they were made with.

They are no part of this repository: `$KAIYUAN_MPL_CURVES` names the folder that holds csv_25/ and csv_100/. Tests that need them skip where
they are not there. The schedules here are the released code's formulas, so that they check what is rebuilt from the files.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from kaiyuan_jax.schedules.laws.curves import Curve

SIZES = (25, 100)
TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
TEST = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
PEAK, END, WARMUP = 3e-4, 3e-5, 2160
BESIDE = sorted(Path(__file__).parents[4].glob("*/data/mpl_curves"))  # next to the repository


def folder(size: int) -> Path:
    """The folder of one size's CSV files; skips the test where it is absent."""
    root = Path(os.environ.get("KAIYUAN_MPL_CURVES") or next(iter(BESIDE), "mpl_curves"))
    found = root / f"csv_{size}"
    if not found.is_dir():
        pytest.skip(f"the released curves are not here: {found} is no folder; name the one that holds csv_25 in KAIYUAN_MPL_CURVES")
    return found


def rates(name: str) -> np.ndarray:
    """float64[T]: the schedule of one curve, by the released code's formula. The first 2160 rates go linearly from 0 to the peak."""
    kind, *numbers = name.split("_")
    total = 16_000 if kind == "wsdcon" else int(numbers[-1])
    step = np.arange(total, dtype=np.float64)
    found = np.full(total, PEAK)
    if kind == "cosine":
        found = END + 0.5 * (PEAK - END) * (1 + np.cos(np.pi * (step - WARMUP) / (total - WARMUP)))
    elif kind == "wsdcon":
        found[8000:] = float(numbers[0]) * 1e-5
    elif kind in ("wsd", "wsdld"):
        knee = int(numbers[0])
        share = (step - knee) / (total - knee)
        decay = PEAK ** (1 - share) * END**share if kind == "wsd" else PEAK + (END - PEAK) * share
        found = np.where(step >= knee, decay, PEAK)
    found[:WARMUP] = np.linspace(0, PEAK, WARMUP)
    return found


def curve(size: int, name: str) -> Curve:
    """One curve; its first update at the peak is number 2159."""
    path = folder(size) / f"{name}.csv"
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    return Curve(name, table[:, 0].astype(np.int64), table[:, 2], rates(name), WARMUP - 1, str(path), checksum)


def curves(size: int, names=TRAIN) -> list[Curve]:
    return [curve(size, name) for name in names]
