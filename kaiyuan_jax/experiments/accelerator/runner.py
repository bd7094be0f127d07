"""Runs sections one after the other, each in a process of its own, and keeps what each has measured.

A process of its own gives every section the whole memory of the device (JAX and PyTorch both keep what they once took), and a crash, an
exhausted memory or a hang costs that section alone. Results are written after every section.
"""

import dataclasses
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from kaiyuan_jax import files
from kaiyuan_jax.experiments.accelerator.child import Job
from kaiyuan_jax.experiments.accelerator.sections import PACKAGE, Section

ROOT = Path(__file__).parents[3]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "transformers", "triton", "tokamax")
SHORTEST = 10.0  # seconds; a section is not begun with less
LOG = 3000  # characters of a failed section's output that are kept


def run(
    sections: Sequence[Section],
    output: str | Path,
    *,
    minutes: float,
    tiny: bool = False,
    torch_python: str = sys.executable,
    cache: str | Path,
    report: Callable[[dict], None] = lambda result: None,
) -> dict:
    """Measures `sections` within `minutes` and writes everything to the JSON file `output`, which is also returned.

    torch_python: interpreter of the sections that need PyTorch; empty: they are not run. cache: folder of compiled programs, kept.
    report: called with the result of every section: name, status ("done" or what went wrong), seconds, rows and, when it failed, log.
    """
    end = time.time() + 60 * minutes
    results = {"command": " ".join(sys.argv), "when": _now(), "machine": _machine(), "tiny": tiny, "minutes": minutes, "sections": []}
    for index, section in enumerate(sections):
        reserved = sum(later.seconds for later in sections[index + 1 :] if torch_python or not later.torch)
        results["sections"].append(_one(section, end, reserved, tiny, torch_python, Path(cache).absolute()))
        files.replace(output, json.dumps(results, indent=1) + "\n")
        report(results["sections"][-1])
    return results


def limit(share: float, left: float, reserved: float) -> float:
    """Seconds that a section may take: what is left but the shares of those behind it, and its own share as long as there is as much."""
    return min(left, max(share, left - reserved))


def _one(section: Section, end: float, reserved: float, tiny: bool, torch_python: str, cache: Path) -> dict:
    left = end - time.time()
    if left < min(SHORTEST, section.seconds):
        return _result(section, f"not run: {max(0, left):.0f} s left of the time for all")
    if section.torch and not torch_python:
        return _result(section, "not run: no Python with PyTorch (--torch_python)")
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder, "rows.jsonl"), Path(folder, "log")
        begin = time.time()
        job = Job(section.module, section.options, str(rows), begin + limit(section.seconds, left, reserved), tiny)
        command = [torch_python if section.torch else sys.executable, "-m", f"{PACKAGE}.child", json.dumps(dataclasses.asdict(job))]
        with open(log, "wb") as sink:
            process = subprocess.Popen(command, env=_environment(cache), stdout=sink, stderr=sink, start_new_session=True)
            try:
                code = process.wait(job.left())
                status = "done" if code == 0 else f"failed: {_reason(code)}"
            except subprocess.TimeoutExpired:
                status = f"stopped after {time.time() - begin:.0f} s"
            finally:
                _end(process)
        found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []
        text = "" if status == "done" else log.read_text(encoding="utf-8", errors="replace")[-LOG:]
        return _result(section, status, round(time.time() - begin, 1), found, text)


def _result(section: Section, status: str, seconds: float = 0.0, rows: Sequence[dict] = (), log: str = "") -> dict:
    return {"name": section.name, "status": status, "seconds": seconds, "rows": list(rows)} | ({"log": log} if log else {})


def _reason(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


def _end(process: subprocess.Popen) -> None:
    """Nothing of a section outlives it: PyTorch leaves compile workers behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _environment(cache: Path) -> dict:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "HF_HUB_OFFLINE": "1",
    }


def _machine() -> dict:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(), "versions": versions}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
