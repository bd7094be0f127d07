"""The loss of reference solutions: a continuous view of code long before a sampled program passes a test.

The context is HumanEval's prompt, the reference solution its one choice. Level 1 has the shorter half of the solutions, level 2 the longer.
"""

from collections.abc import Sequence

from kaiyuan_jax.data.corpora.evaluation_packages import Problem
from kaiyuan_jax.evaluation.tasks.files import Item

LEVELS = {1: "the shorter half of the solutions", 2: "the longer half"}


def human_eval(problems: Sequence[Problem]) -> list[Item]:
    """All of them, in their order, which has nothing to do with their length."""
    order = sorted(problems, key=lambda problem: len(problem.solution))
    level = {problem.id: 1 + (2 * place >= len(order)) for place, problem in enumerate(order)}
    return [Item(one.id, one.prompt.rstrip(), ("\n" + one.solution.rstrip(),), 0, level[one.id], "loss") for one in problems]
