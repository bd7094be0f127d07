"""What a benchmark costs, said before it starts: training (experiments/population) and the reading of tasks, twice for every cell.

Reading a token takes a third of the operations of training on it, and is taken to run at the same operations a second.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kaiyuan_jax.experiments import population
from kaiyuan_jax.experiments.quantiles import work
from kaiyuan_jax.experiments.quantiles.cells import Cell
from kaiyuan_jax.experiments.quantiles.measured import Tasks
from kaiyuan_jax.models import flops


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of what is left to do."""

    cells: int  # to train
    training: population.Cost | None  # None: all are trained
    read: int  # tokens of tasks
    operations: float  # of reading them

    @property
    def seconds(self) -> float | None:
        """None where nothing was timed."""
        if self.training is None or self.training.seconds is None:
            return None
        return self.training.seconds * (1 + self.operations / self.training.flops)

    def __str__(self) -> str:
        lines = [f"training: {self.training}" if self.training else "training: nothing left"]
        lines.append(f"tasks: {self.read:,} tokens read, {self.operations:.3g} floating-point operations")
        if self.seconds is not None:
            lines.append(f"in all about {self.seconds / 60:,.1f} min on this machine, compilation apart")
        return "\n".join(lines)


def predict(cells: Sequence[Cell], measured: Tasks, folder: Path, members: int, *, timed_steps: int = 0, devices=None) -> Cost:
    """What `work.run` will cost; with `timed_steps` so many steps of the first population are timed. Raises ConfigError, UserError."""
    new = [cell.experiment for cell in cells if not work.trained_already(folder, cell)]
    training = population.predict_cost(new) if new else None
    if new and timed_steps:
        timed = population.predict_cost(new[:members], timed_steps=timed_steps, devices=devices)
        training = dataclasses.replace(training, seconds_per_token=timed.seconds_per_token)
    first = cells[0].experiment
    sizes = measured.tokens(first)
    read = len(work.PARTS) * sum(sizes[name] for cell in cells for name in work.missing(folder, cell, measured))
    return Cost(len(new), training, read, read * flops.per_token(first.model, first.data.sequence_length) / 3)
