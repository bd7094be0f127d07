"""Real processes that train together, for tests: each joins, calls functions, and answers in JSON.

A start costs seconds of every process, so one start makes many calls. None outlives the test, nor pytest if that is killed.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

from kaiyuan_jax.launchers import local

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE = 600  # seconds that processes get on a busy machine
LAG = 10  # and the others when one has ended badly: they may wait for it


def call(place: str, function: str, processes: int, devices: int, *arguments) -> list:
    """What `function(*arguments)` of the file `place` returns in each of so many processes of so many CPU devices; all JSON-able.

    Fails with what the processes said when one of them ends badly or is not done in time.
    """
    coordinator = f"127.0.0.1:{local.free_port()}"
    others = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag)
    environment = os.environ | {"XLA_FLAGS": others, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        request = {"place": place, "function": function, "arguments": arguments, "coordinator": coordinator, "processes": processes}
        started, logs = [], [pathlib.Path(folder, f"{i}.log") for i in range(processes)]
        try:
            for i in range(processes):
                asked = json.dumps(request | {"process": i, "answer": f"{folder}/{i}.json", "parent": os.getpid()})
                with open(logs[i], "w") as log:
                    command = [sys.executable, __file__, asked]
                    started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT))
            codes = _codes(started)
        finally:
            for process in started:
                process.kill()
                process.wait()
        said = (f"--- process {i}, exit code {codes[i]}\n{logs[i].read_text()[-3000:]}" for i in range(processes))
        assert codes == [0] * processes, "\n".join(said)
        return [json.loads(pathlib.Path(folder, f"{i}.json").read_text()) for i in range(processes)]


def bound(command: list[str]) -> list[str]:
    """The command, as a process from this repository's root that ends when this one does, however this one ends."""
    run = "import os, sys; from kaiyuan_jax.launchers import local; local.end_with(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-c", run, str(os.getpid()), *command]


def _codes(started: list[subprocess.Popen]) -> list[int | None]:
    """Exit codes; None of those that were not done in time."""
    end = time.monotonic() + PATIENCE
    while None in (codes := [process.poll() for process in started]) and time.monotonic() < end:
        if any(codes):
            end = min(end, time.monotonic() + LAG)
        time.sleep(0.1)
    return codes


def main(request: dict) -> None:
    local.end_with(request["parent"])
    from kaiyuan_jax.sharding import processes

    if request["processes"] > 1:
        processes.join(request["coordinator"], request["processes"], request["process"])
    specification = importlib.util.spec_from_file_location("called", request["place"])
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    try:
        result = getattr(module, request["function"])(*request["arguments"])
    except Exception:
        traceback.print_exc()
        processes.leave(1)  # else it would wait for the others
    pathlib.Path(request["answer"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
