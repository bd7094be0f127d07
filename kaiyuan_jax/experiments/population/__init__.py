"""Populations: many small models trained in one compiled program, each as it would be trained alone.

A member is an ordinary `config.Experiment`. Members of one population have the shape of the model, the batch, the length and the number of
steps in common, and may differ in data, seeds, schedule and weight decay (members.py). Their states are stacked along a leading axis M,
cut over devices by member, and an accelerator vectorises over the members of a device, because one member of 5M parameters fills a small
part of it (program.py).

    from kaiyuan_jax.experiments import population

    trained = population.train(members, "runs/mine")                 the same call goes on from the newest stacked checkpoint
    params_M = trained.parameters({trained.steps[-1]: 1.0})          or several steps: their average
    sums_M = population.evaluate(trained, params_M, rows=256)        per member: source -> heldout.DocumentSums
"""

from kaiyuan_jax.experiments.population.cost import Cost, predict_cost
from kaiyuan_jax.experiments.population.heldout import evaluate
from kaiyuan_jax.experiments.population.loop import train
from kaiyuan_jax.experiments.population.trained import Population

__all__ = ["Cost", "Population", "evaluate", "predict_cost", "train"]
