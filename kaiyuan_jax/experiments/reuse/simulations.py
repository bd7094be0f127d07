"""The simulations of the study: E(K, N) in both regimes of 2511.13421, with what its theorems predict beside, as simulations.json.

strongly_convex   one-hot features with noise, exactly; E_sat over ln N against its slope
zipf              one-hot features with Zipf frequencies, exactly; three exponents
gaussian          dense Gaussian features, by running SGD: the first regime again, without its simplification
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kaiyuan_jax import files
from kaiyuan_jax.experiments.reuse import regression, sgd

EPOCHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 1024)
NAME = "simulations.json"


def write(folder: Path, *, quick: bool) -> dict:
    """Runs all (about a minute; seconds when `quick`) and writes simulations.json, unless it is there."""
    path = folder / NAME
    if path.exists() and (found := json.loads(path.read_text(encoding="utf-8")))["quick"] == quick:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    convex = regression.strongly_convex(condition=8.0)
    found = {
        "quick": quick,
        "strongly_convex": strongly_convex(convex, (300, 1_000) if quick else (300, 1_000, 3_000, 10_000, 30_000, 100_000)),
        "zipf": zipf(regression.zipf(1_000 if quick else 100_000), (300, 1_000) if quick else (1_000, 10_000, 100_000, 1_000_000)),
        "gaussian": gaussian((50,) if quick else (300, 1_000, 3_000), 8 if quick else 64, repeats=4 if quick else 64),
    }
    files.replace(path, json.dumps(found, indent=1) + "\n")
    return found


def strongly_convex(design: regression.Design, sizes: Sequence[int]) -> dict:
    """E(K, N) and the plateau at K = inf, of several N; theory to leading order."""
    slope = regression.slope(design.curvature)
    curve = regression.one_pass(design, int(max(sizes) * 2 * (1 + slope * np.log(max(sizes)))), points=81)
    rows = []
    for samples in tqdm(sizes, desc="strongly convex", disable=None):
        reuse = regression.reuse(design, samples, [*EPOCHS, np.inf], curve)
        plateau = regression.best(design, samples, np.inf)[0]
        rows.append(
            {
                "samples": samples,
                "reuse": reuse[:-1].tolist(),
                "saturated": float(reuse[-1]),
                "theory": slope * float(np.log(samples)),
                "plateau": plateau,
                "plateau_theory": design.noise**2 * design.probability.size / (2 * samples),
            }
        )
    logs, found = np.log(sizes), [row["saturated"] for row in rows]
    return {
        "epochs": list(EPOCHS),
        "rows": rows,
        "slope_theory": slope,
        "slope": float(np.polyfit(logs[-3:], found[-3:], 1)[0]),  # of the largest N, where the leading order is nearest
        "design": {"dimension": design.probability.size, "condition": float(design.curvature.max() / design.curvature.min()),
                   "noise": design.noise},
    }  # fmt: skip


def zipf(design: regression.Design, sizes: Sequence[int], a: float = 4.5, b: float = 1.0) -> dict:
    """E(K, N), and the exponents in N of the risk after one pass, after very many, and of E_sat; `a`, `b` those of the design."""
    many = 1e12
    grid = np.unique(np.geomspace(min(sizes), max(sizes), 7).round().astype(int))
    curve = regression.one_pass(design, int(max(sizes) * 4 * max(sizes) ** (b / (a - b))), points=161)
    saturated = np.array([regression.reuse(design, int(n), [many], curve)[0] for n in tqdm(grid, desc="Zipf", disable=None)])
    once, often = ([regression.best(design, int(n), k)[0] for n in grid] for k in (1, many))
    return {
        "epochs": list(EPOCHS),
        "rows": [{"samples": int(n), "reuse": regression.reuse(design, int(n), EPOCHS, curve).tolist()} for n in sizes],
        "samples": grid.tolist(),
        "saturated": saturated.tolist(),
        "exponents": {
            "one pass": {"found": regression.exponent(grid, once), "theory": -(a - 1) / a},
            "many passes": {"found": regression.exponent(grid, often), "theory": -(a - 1) / (a - b)},
            "E_sat": {"found": regression.exponent(grid, saturated), "theory": b / (a - b)},
        },
        "design": {"dimension": design.probability.size, "a": a, "b": b},
    }


def gaussian(sizes: Sequence[int], epochs: int, repeats: int) -> dict:
    curvature, noise = 8.0 ** -np.linspace(0, 1, 10), 0.1
    found = sgd.gaussian_reuse(curvature, noise, sizes, epochs, repeats=repeats)
    return {
        "epochs": list(range(1, epochs + 1)),
        "rows": [{"samples": samples, "reuse": reuse.tolist()} for samples, reuse in found["reuse"].items()],
        "slope_theory": regression.slope(curvature),
        "repeats": repeats,
    }
