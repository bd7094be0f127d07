"""Which metric of which task tells models apart earliest, out of trajectories of runs with several seeds.

    python launch/evaluate_trajectory.py --runs=runs/x_seed0,runs/x_seed1,runs/x_seed2 --tasks=stores/tasks --output=runs/x_trajectory
    python launch/study_task_metrics.py --table=runs/x_trajectory/trajectory.parquet --output=runs/task_metrics

Runs that differ in their seed alone are named alike but for _seed0, _seed1, ... Writes task_metrics.json and task_metrics.md
(kaiyuan_jax/experiments/task_metrics.py says what is in them). Seconds.
"""

import json
from pathlib import Path

from absl import flags

from kaiyuan_jax import files
from kaiyuan_jax.config import UserError
from kaiyuan_jax.flags import run

TABLE = flags.DEFINE_string("table", None, "trajectory.parquet of launch/evaluate_trajectory.py.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/task_metrics", "Folder of the results.")
TRAJECTORY = flags.DEFINE_string("trajectory", "", "The recipe whose checkpoints are compared; empty: the one with most.")


def main(argv: list[str]) -> None:
    del argv
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kaiyuan_jax.experiments import task_metrics
    from kaiyuan_jax.report import task_metrics as report

    try:
        rows = pq.read_table(TABLE.value, columns=["run", "step", "tokens", "task", "level", "metric", "value", "error"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"--table={TABLE.value}: must be what launch/evaluate_trajectory.py wrote ({said:.200})") from None
    measured = task_metrics.measure(rows, TRAJECTORY.value)
    result = {"table": TABLE.value, "by_metric": task_metrics.by_metric(measured), "measured": measured}
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(folder / "task_metrics.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    files.replace(folder / "task_metrics.md", page := report.text(result))
    print(page)
    print(f"written: {folder / 'task_metrics.json'}, {folder / 'task_metrics.md'}")


if __name__ == "__main__":
    run(main)
