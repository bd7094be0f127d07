"""Real processes that train together, for tests: each joins, calls one function, and answers in JSON."""

import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[1]


def call(place: str, function: str, processes: int, devices: int, *arguments, timeout: float = 300) -> list:
    """What `function(*arguments)` of the file `place` returns in each of so many processes of so many CPU devices; all JSON-able.

    Fails with what the processes said when one of them ends badly, and leaves none behind.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    others = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag)
    environment = os.environ | {"XLA_FLAGS": others, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        request = {"place": place, "function": function, "arguments": arguments, "coordinator": coordinator, "processes": processes}
        started, logs = [], [pathlib.Path(folder, f"{i}.log") for i in range(processes)]
        try:
            for i in range(processes):
                asked = json.dumps(request | {"process": i, "answer": f"{folder}/{i}.json"})
                with open(logs[i], "w") as log:
                    command = [sys.executable, __file__, asked]
                    started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT))
            codes = [process.wait(timeout) for process in started]
        finally:
            for process in started:
                process.kill()
        said = "\n".join(
            f"--- process {i}, exit code {process.poll()}\n{log.read_text()[-3000:]}"
            for i, (process, log) in enumerate(zip(started, logs, strict=True))
        )
        assert not any(codes), said
        return [json.loads(pathlib.Path(folder, f"{i}.json").read_text()) for i in range(processes)]


def main(request: dict) -> None:
    from kaiyuan_jax.sharding import processes

    if request["processes"] > 1:
        processes.join(request["coordinator"], request["processes"], request["process"], timeout=120)
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
