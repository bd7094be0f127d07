"""The law that an experiment names for its forecast, and what it was fitted to.

`config.schedule.law` names a law.json for any kind of schedule; a schedule.json that was designed with a law holds it inside.
"""

from kaiyuan_jax import config
from kaiyuan_jax.schedules import file
from kaiyuan_jax.schedules.laws import artefact
from kaiyuan_jax.schedules.laws.fit import Fit

SCOPE = "A law holds for the model, batch size, optimizer and text of the runs it was fitted to; nothing here checks that they are yours."


def law_of(schedule: config.Schedule) -> Fit | None:
    """The law that forecasts a run with this schedule; None where none is named. Raises UserError for one that cannot be used."""
    if schedule.law:
        return artefact.load(schedule.law, "config.schedule.law")
    if schedule.kind == "file" and (inside := file.read(schedule.path).facts.get("law")):
        return artefact.from_tree(inside, f"config.schedule.path: the law in {schedule.path}")
    return None


def origin(fit: Fit) -> str:
    """What was fitted how to what, in a few words."""
    names = ", ".join(fit.train) if len(fit.train) <= 4 else f"{', '.join(fit.train[:3])} and {len(fit.train) - 3} more"
    loss = fit.details.get("loss")  # launch/fit_law.py --loss
    curves = {None: "curves", "train": "training losses"}.get(loss, f"{loss} losses")
    reach = fit.details.get("reach")
    if not reach:
        return f"{fit.law.name}, {fit.protocol} fit to the {curves} of {names}"
    low, high = reach["peaks"]
    peaks = f"{high:.3g}" if high <= 1.01 * low else f"{low:.3g} to {high:.3g}"
    return f"{fit.law.name}, {fit.protocol} fit to the {curves} of {names} (up to {reach['updates']:,} updates, peak rate {peaks})"
