"""law.json: a fitted law with all that it takes to use it and to know where it came from.

`tree` makes the contents, `write` puts them on disk whole or not at all, `load` gives the fit back to the last bit (JSON numbers are
written so that they read back as the same float64). A schedule.json that was designed with a law holds the same tree inside.
"""

import importlib.metadata
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import files, json_text, storage
from kaiyuan_jax.config import UserError
from kaiyuan_jax.schedules.laws import catalogue, forecast, huber
from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.fit import Fit
from kaiyuan_jax.schedules.laws.law import Law

SCHEMA = 1
LARGEST = 600  # of a number in theta: logarithms of more have no float64
UNITS = {
    "step": "updates, counted from 0; a loss at step s has felt the rates 0 to s",
    "rate": "learning rate of an update, absolute",
    "loss": "unit of the curves, nats per token unless they say otherwise",
    "theta": "natural logarithm of a parameter where logged, else the parameter",
    "residual": "ln loss - ln prediction",
}
NEEDED = ("law", "protocol", "theta", "objective", "train", "covariance", "uncertainty", "details")


def tree(fit: Fit, train: Sequence[Curve], test: Sequence[Curve] = (), metrics: dict | None = None, warnings: Sequence[str] = ()) -> dict:
    """The JSON-able contents. `metrics` as `metrics.measure` gives them."""
    inputs = [_input(curve, "train") for curve in train] + [_input(curve, "test") for curve in test]
    return _plain(
        {
            "schema": SCHEMA,
            "law": fit.law.name,
            "formula": fit.law.formula,
            "source": fit.law.source,
            "protocol": fit.protocol,
            "parameters": fit.values,
            "theta": fit.theta,
            "logged": dict(zip(fit.law.parameters, fit.law.logged, strict=True)),
            "covariance": fit.covariance,
            "intervals": _intervals(fit),
            "units": UNITS,
            "train": fit.train,
            "inputs": inputs,
            "objective": {"name": "huber", "delta": huber.DELTA, "value": fit.objective},
            "uncertainty": fit.bands,
            "details": fit.details,
            "metrics": metrics or {"mean": None, "curves": {}, "train": {}, "pairs": {}},
            "warnings": list(warnings),
            "created_by": maker(),
        }
    )


def write(path: str | Path, contents: dict) -> None:
    """Writes the file whole or not at all."""
    files.replace(path, json.dumps(contents, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read(path: str | Path, flag: str = "--law") -> dict:
    """The contents of a law.json. Raises UserError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{flag}: {path} is no file, must be a law.json; launch/fit_law.py makes one")
    try:
        return json_text.read(storage.path(path))
    except (OSError, json_text.JSONError) as error:
        raise UserError(f"{flag}: {path} is not JSON ({error}), must be a law.json; launch/fit_law.py makes one") from None


def load(path: str | Path, flag: str = "--law") -> Fit:
    """The fit of a law.json. Raises UserError for one that this version cannot use."""
    return from_tree(read(path, flag), f"{flag}: {path}")


def from_tree(contents: dict, where: str = "law") -> Fit:
    """The fit of the contents of a law.json; `where` begins the errors."""
    if not isinstance(contents, dict) or "schema" not in contents:
        raise UserError(f"{where}: has no schema, must be a law.json; launch/fit_law.py makes one")
    if contents["schema"] != SCHEMA:
        raise UserError(f"{where}: found schema {contents['schema']!r}, this version reads {SCHEMA}; fit the law again")
    missing = [key for key in NEEDED if key not in contents]
    if missing:
        raise UserError(f"{where}: has no {missing[0]}, must be a whole law.json; fit the law again")
    if not isinstance(contents["law"], str) or contents["law"] not in catalogue.LAWS:
        raise UserError(f"{where}: found the law {contents['law']!r}, must be one of {', '.join(catalogue.LAWS)}")
    law = catalogue.LAWS[contents["law"]]
    for key, good, must in _checks(contents, law):
        if not good:
            raise UserError(f"{where}: {key} must be {must}, found {_short(contents[key])}; fit the law again")
    theta, covariance = np.array(contents["theta"], np.float64), contents["covariance"]
    for name, value in law.values(theta).items():
        said = contents.get("parameters", {}).get(name, value)
        if not abs(said - value) <= 1e-9 * abs(value):
            raise UserError(f"{where}: parameters say {name} = {said:g}, theta says {value:g}; change both or neither")
    objective = contents["objective"]["value"]
    return Fit(
        law=law,
        protocol=contents["protocol"],
        theta=theta,
        objective=np.nan if objective is None else objective,
        train=tuple(contents["train"]),
        covariance=None if covariance is None else np.array(covariance, np.float64),
        details=contents["details"],
        bands=contents["uncertainty"],
    )


def maker() -> str:
    """Name and version of this package."""
    return f"kaiyuan_jax {importlib.metadata.version('kaiyuan_jax')}"


# What a file may have become by hand


def _checks(contents: dict, law: Law) -> Iterator[tuple[str, bool, str]]:
    """(key, whether its value can be used, what it must be), in an order in which each may rely on those before it."""
    size = len(law.parameters)
    theta, covariance, objective = contents["theta"], contents["covariance"], contents["objective"]
    yield "protocol", isinstance(contents["protocol"], str), "a name"
    good = _vector(theta, size) and all(abs(value) <= LARGEST for value in theta)
    yield "theta", good, f"{size} finite numbers ({', '.join(law.parameters)}), none beyond {LARGEST}"
    must = f"null or {size} times {size} finite numbers, symmetric, no eigenvalue below 0"
    yield "covariance", _is_covariance(covariance, size), must
    good = isinstance(objective, dict) and "value" in objective and (objective["value"] is None or _number(objective["value"]))
    yield "objective", good, 'an object with a number "value"'
    yield "train", isinstance(contents["train"], list) and all(isinstance(name, str) for name in contents["train"]), "a list of names"
    bands = contents["uncertainty"]
    good = isinstance(bands, dict) and isinstance(bands.get("model", {}), dict)
    good = good and all(_number(value) and value >= 0 for value in (bands.get("residual", 0), bands.get("model", {}).get("scale", 0)))
    yield "uncertainty", good, 'an object; "residual" and the "scale" of "model", where given, numbers of 0 or more'
    details = contents["details"]
    good = isinstance(details, dict) and isinstance(details.get("loss", ""), str) and _is_reach(details.get("reach"))
    yield "details", good, 'an object; its "reach", where given, needs updates, summed_rate and two peaks, all above 0'
    if "parameters" in contents:
        values = contents["parameters"]
        good = isinstance(values, dict) and all(_number(value) for value in values.values())
        yield "parameters", good, "an object of numbers by name"


def _number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not


def _vector(value, size: int) -> bool:
    return isinstance(value, list) and len(value) == size and all(_number(item) for item in value)


def _is_covariance(value, size: int) -> bool:
    if value is None:
        return True
    if not (isinstance(value, list) and len(value) == size and all(_vector(row, size) for row in value)):
        return False
    matrix = np.array(value, np.float64)
    ends = np.linalg.eigvalsh(matrix)
    return bool(np.abs(matrix - matrix.T).max() <= 1e-6 * np.abs(matrix).max() and ends[0] >= -1e-6 * abs(ends[-1]))


def _is_reach(value) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not _vector(value.get("peaks"), 2):
        return False
    numbers = [value.get("updates"), value.get("summed_rate"), *value["peaks"]]
    return all(_number(number) and number > 0 for number in numbers) and value["peaks"][0] <= value["peaks"][1]


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _intervals(fit: Fit) -> dict | None:
    """By parameter the two ends of its 90% interval, that of a normal distribution of theta with the fit's covariance."""
    if fit.covariance is None:
        return None
    half = forecast.DEVIATIONS * np.sqrt(np.maximum(np.diag(fit.covariance), 0))
    low, high = (fit.law.values(np.clip(fit.theta + sign * half, -700, 700)) for sign in (-1, 1))  # exp stays finite
    return {name: [low[name], high[name]] for name in fit.law.parameters}


def _input(curve: Curve, role: str) -> dict:
    return {
        "name": curve.name,
        "role": role,
        "path": Path(curve.path).name,
        "sha256": curve.checksum,
        "points": curve.steps.size,
        "first_step": curve.steps[0],
        "last_step": curve.steps[-1],
        "steps_total": len(curve.rates),
        "warmup": curve.warmup,
        "peak": curve.rates.max(),
        "summed_rate": curve.rates[: curve.steps[-1] + 1].sum(),
    }


def _plain(value):
    """The same tree of Python's own types; numbers that are not finite become null, which JSON can say."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
