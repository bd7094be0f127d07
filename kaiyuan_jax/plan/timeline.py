"""What happens at which step of a run: learning rate, phases, checkpoints, and curves for pictures of them.

Steps are updates: step s in [0, steps) is update s, and a checkpoint is named by the updates done before it, as in the run folder.
"""

import numpy as np

from kaiyuan_jax.config import Experiment
from kaiyuan_jax.data import order
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.schedules import build as schedules


def learning_rate(experiment: Experiment, plan: Plan):
    """The schedule of the run, step -> rate."""
    return schedules.build(experiment.schedule, plan.steps, batch_size=plan.batch_size, sequence_length=plan.sequence_length)


def peak_rate(experiment, plan) -> float:
    return float(learning_rate(experiment, plan)(spread(0, plan.steps)).max())


def saved_steps(experiment: Experiment, steps: int) -> list[int]:
    """The checkpoints that a run without interruptions makes, ascending; the last step is always one."""
    return [*range(experiment.checkpoint.every, steps, experiment.checkpoint.every), steps]


def window(experiment: Experiment, steps: int) -> list[int]:
    """The checkpoints that the average is made of, oldest first; empty without one."""
    if experiment.averaging.kind == "none":
        return []
    return saved_steps(experiment, steps)[-experiment.averaging.last :]


def window_rates(experiment, plan, steps):
    return learning_rate(experiment, plan)(spread(min(steps[0], plan.steps - 1), plan.steps))


def phase_steps(plan: Plan) -> list[tuple[int, int]]:
    """Per phase the range [first, after) of steps whose first row lies in it; empty for a phase shorter than a batch."""
    firsts = [min(max(-(-(phase.start - plan.skipped) // plan.batch_size), 0), plan.steps) for phase in plan.phases]
    return list(zip(firsts, [*firsts[1:], plan.steps], strict=True))


def curves(experiment: Experiment, plan: Plan, points: int = 512) -> dict:
    """What a picture of the plan needs, at `points` steps spread evenly over the run (fewer if the run is shorter), as numpy arrays:

    step int64[P], learning_rate float32[P], phase int32[P]; by source name, quality: mean quantile float64[P] (NaN where it has no row)
    and mixture: share of rows float64[P]. Each point looks at the batch of its step, and its neighbours up to 256 rows.
    """
    steps = spread(0, plan.steps, points)
    batches = min(max(1, round(256 / plan.batch_size)), plan.steps)
    quality = {name: np.full(steps.size, np.nan) for name in plan.sources}
    mixture = {name: np.zeros(steps.size) for name in plan.sources}
    phase = np.empty(steps.size, np.int32)
    for i, step in enumerate(steps):
        first = int(min(max(step - batches // 2, 0), plan.steps - batches))
        rows = order.rows(plan, plan.skipped + np.arange(first * plan.batch_size, (first + batches) * plan.batch_size))
        phase[i] = rows.phase[(step - first) * plan.batch_size]
        here = rows.phase == phase[i]  # a neighbour on the other side of a phase boundary says nothing about this one
        count = np.bincount(rows.source[here], minlength=len(plan.sources))
        total = np.bincount(rows.source[here], rows.quantile[here], minlength=len(plan.sources))
        for number, name in enumerate(plan.sources):
            mixture[name][i] = count[number] / here.sum()
            if count[number]:
                quality[name][i] = total[number] / count[number]
    rate = learning_rate(experiment, plan)(steps)
    return {"step": steps, "learning_rate": rate, "phase": phase, "quality": quality, "mixture": mixture}


def spread(first: int, after: int, count: int = 4096) -> np.ndarray:
    """Up to `count` steps of [first, after), evenly, both ends included."""
    return np.unique(np.linspace(first, after - 1, min(count, after - first)).round().astype(np.int64))
