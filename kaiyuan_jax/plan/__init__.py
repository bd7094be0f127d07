"""What a run will do, on one page, before any accelerator is paid for.

Order, learning rate and averaging interact: an ascending order puts the best text at the end, a decay makes the end count for little,
and an average of the last checkpoints replaces the decay only while the rate is not near zero (2511.18903). So the page shows the
three on one axis of steps, `warnings` names the combinations that the literature shows to waste data, and `problems` what cannot run.

Nothing here touches a device or reads a token; a plan of 2.2 trillion tokens takes milliseconds. A source whose store is elsewhere is
planned with its declared size, and the page says where that size is from.
"""

from kaiyuan_jax.config import ConfigError, Experiment
from kaiyuan_jax.data import recipe
from kaiyuan_jax.plan.checks import problems, store_problems, warnings
from kaiyuan_jax.plan.section import human
from kaiyuan_jax.plan.text import page
from kaiyuan_jax.plan.timeline import curves, learning_rate, phase_steps, window

__all__ = ["curves", "describe", "human", "learning_rate", "page", "phase_steps", "problems", "warnings", "window"]


def describe(experiment: Experiment) -> str:
    """The page of an experiment. Raises `ConfigError` with everything that keeps it from running, one line each."""
    tokens, scored = recipe.facts_of(experiment.data)
    plan = recipe.resolve(experiment.data, tokens, scored)
    if found := problems(experiment, plan) + store_problems(experiment):
        raise ConfigError("\n".join(found))
    return page(experiment, plan, tokens, scored)
