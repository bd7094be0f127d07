"""One section in a process of its own: `python -m kaiyuan_jax.experiments.accelerator.child '<job as JSON>'`.

Every measurement is a dict, appended to the job's file as one line the moment it is known, so that what was measured before a crash or
a time limit is kept. This file is light: sections import JAX or PyTorch themselves, never both.
"""

import dataclasses
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Job:
    module: str  # dotted; its `measure(job, **options)` does the work
    options: dict
    rows: str  # file that rows are appended to
    deadline: float  # time.time() at which the process is stopped
    tiny: bool  # shapes that a CPU can run in a second

    def left(self) -> float:
        """Seconds until the section is stopped."""
        return self.deadline - time.time()

    def record(self, **row) -> None:
        with open(self.rows, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: _round(value) for name, value in row.items()}) + "\n")

    def attempt(self, work: Callable[[], dict], needs: float = 5.0, **row) -> dict:
        """Records `row | work()`, or why there is no result: an error, or fewer than `needs` seconds left. Returns what was recorded."""
        if self.left() < needs:
            result = {"error": f"not run: {self.left():.0f} s left, needs about {needs:.0f}"}
        else:
            try:
                result = work()
            except Exception as error:  # whatever a kernel does on a device it has never seen, the next one is still measured
                result = {"error": _one_line(error)}
                if not isinstance(error, NotImplementedError | ValueError):
                    traceback.print_exc()
        self.record(**row, **result)
        return row | result


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:240]


def _round(value):
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(text: str) -> None:
    job = Job(**json.loads(text))
    Path(job.rows).touch()
    importlib.import_module(job.module).measure(job, **job.options)


if __name__ == "__main__":
    main(sys.argv[1])
