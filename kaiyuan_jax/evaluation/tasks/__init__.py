"""Tasks in local files, for models of any size: read (`open_suite`), measured (`score`) and summed up with intervals (`summary`)."""

from kaiyuan_jax.evaluation.tasks.files import Item, Suite, Task, TaskError, open_suite, write_suite
from kaiyuan_jax.evaluation.tasks.likelihood import Scores, score, score_members
from kaiyuan_jax.evaluation.tasks.metrics import METRICS, summary

__all__ = [
    "METRICS", "Item", "Scores", "Suite", "Task", "TaskError", "open_suite", "score", "score_members", "summary", "write_suite"
]  # fmt: skip
