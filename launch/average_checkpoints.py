"""Averages checkpoints of a run: python launch/average_checkpoints.py --run=runs/x [--kind=sma] [--last=6] [--steps=800,900,1000]

What is not given comes from the run's config (config.averaging). --kind=metric weighs each checkpoint by a loss of the run's metrics.jsonl
at its step, which config.evaluation.every puts there: exp(-loss / temperature) (kaiyuan_jax/averaging/weights.py). Writes
runs/x/averages/<name>, which launch/evaluate.py takes as --model. Streams leaf by leaf: memory is that of two models, whatever the count.
"""

import dataclasses
import os

from absl import flags

from kaiyuan_jax import config, storage
from kaiyuan_jax.averaging import weights
from kaiyuan_jax.flags import run
from kaiyuan_jax.training import saved

RUN = flags.DEFINE_string("run", None, "Run folder (with config.json and checkpoints/).", required=True)
KIND = flags.DEFINE_string("kind", None, "sma | ema | ema_seeded | ema_powers | wma | weights | metric, or online: in the train state.")
LAST = flags.DEFINE_integer("last", None, "Number of newest checkpoints.")
STEPS = flags.DEFINE_list("steps", None, "Steps of the checkpoints, instead of --last.")
ALPHA = flags.DEFINE_float("alpha", None, "Of the EMA readings.")
SHAPE = flags.DEFINE_string("shape", None, "wma: the decay shape it emulates.")
WEIGHTS = flags.DEFINE_list("weights", None, "Kind weights: one weight a checkpoint, newest first, summing to 1.")
METRIC = flags.DEFINE_string("metric", "heldout/mean", "Kind metric: field of metrics.jsonl, a loss; the lower the better.")
TEMPERATURE = flags.DEFINE_float("temperature", 0.01, "Kind metric: the difference of that loss which makes a weight e times smaller.")
NAME = flags.DEFINE_string("name", None, "Folder under averages/; default from kind and window, such as sma_last6.")


def main(argv):
    folder = storage.path(RUN.value)
    if not (folder / "config.json").is_file():
        raise config.UserError(f"--run: found no {folder / 'config.json'}, must be the folder of a run; launch/train.py makes one")
    experiment = config.read(folder / "config.json")
    kept = saved.steps(folder / "checkpoints")
    if not kept:
        raise config.UserError(f"--run: {folder / 'checkpoints'} holds no complete checkpoint; train first")
    if KIND.value == "online":
        steps, item, vector = [kept[-1]], "average", [1.0]
        name = NAME.value or "online"
    elif KIND.value == "metric":
        steps, item = window(kept, experiment.checkpoint.every, experiment.averaging), "parameters"
        losses = metric(folder, steps)
        vector = weights.metric_weights(losses, TEMPERATURE.value).tolist()
        of = "" if METRIC.value == METRIC.default else f"{METRIC.value.replace('/', '-')}_"  # two metrics are two averages
        name = NAME.value or f"metric_{of}{TEMPERATURE.value:g}_{which(STEPS.value, len(steps))}"
    else:
        steps, item = window(kept, experiment.checkpoint.every, experiment.averaging), "parameters"
        averaging = settings(experiment.averaging, len(steps))
        vector = weights.weights(averaging).tolist()
        name = NAME.value or default_name(averaging, STEPS.value)
    if not name or "/" in name or name.startswith("."):
        raise config.UserError(f"--name: found {name!r}, must be a plain folder name")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a matter of host memory: an accelerator may be training meanwhile
    from kaiyuan_jax.averaging import offline  # seconds that a mistake need not wait for
    from kaiyuan_jax.training import checkpoint

    readers = [checkpoint.leaf_reader(folder / "checkpoints" / str(step), item) for step in steps]
    leaves = offline.average([read for _, read in readers], vector, readers[0][0])
    facts = {"steps": steps, "weights": vector, "item": item, "step": max(steps)}
    if KIND.value == "metric":
        averaging = dataclasses.replace(experiment.averaging, kind="weights", last=len(steps), weights=tuple(vector))
        facts["metric"] = {"name": METRIC.value, "temperature": TEMPERATURE.value, "values": losses}
    facts |= {} if item == "average" else {"averaging": dataclasses.asdict(averaging)}
    target = folder / "averages" / name
    checkpoint.save_parameters(target, leaves, facts)
    for step, weight in zip(steps, vector, strict=True):
        print(f"step {step:>8}  weight {weight:.6f}")
    print(f"written: {target}")


def window(kept: list[int], every: int, averaging: config.Averaging) -> list[int]:
    """The steps to average, newest first: those asked for, or the newest that are kept.

    What a stop saved between multiples of `every` is left out where there are enough without, so that a run that was stopped averages what
    the same run averages that was not. Raises UserError where a checkpoint is not there.
    """
    if STEPS.value is not None:
        try:
            steps = sorted({int(step) for step in STEPS.value}, reverse=True)
        except ValueError:
            raise config.UserError(f"--steps: found {','.join(STEPS.value)}, must be whole numbers such as 800,900,1000") from None
        missing = [step for step in steps if step not in kept]
        if missing or not steps:
            raise config.UserError(f"--steps: found {missing or 'none'}, must be among the kept checkpoints {', '.join(map(str, kept))}")
        return steps
    last = LAST.value if LAST.value is not None else averaging.last
    if not 1 <= last <= len(kept):
        raise config.UserError(
            f"--last: found {last}, the window reaches before the first kept checkpoint; must be 1 to {len(kept)} "
            f"(kept: {', '.join(map(str, kept))}); another run can keep more with config.checkpoint.keep"
        )
    regular = [step for step in kept if step % every == 0 or step == kept[-1]]
    return (regular if len(regular) >= last else kept)[::-1][:last]


def metric(folder, steps: list[int]) -> list[float]:
    """The value of --metric at each step, as the run wrote it down. Raises UserError where one is not there."""
    from kaiyuan_jax.training import metrics

    try:
        lines = metrics.read(folder / "metrics.jsonl")
    except FileNotFoundError:
        lines = []
    found = {line["step"]: line[METRIC.value] for line in lines if isinstance(line.get(METRIC.value), int | float)}
    if missing := [step for step in steps if step not in found]:
        there = f"only at {', '.join(map(str, sorted(found)))}" if found else "at no step"
        raise config.UserError(
            f"--metric={METRIC.value}: {folder / 'metrics.jsonl'} has it {there}, not at {', '.join(map(str, missing))}; name another "
            "field or --steps, or train with a config.evaluation.every that divides config.checkpoint.every"
        )
    return [float(found[step]) for step in steps]


def settings(averaging: config.Averaging, count: int) -> config.Averaging:
    """The run's averaging with the flags put over it; a run without one is averaged by sma."""
    kind = KIND.value or ("sma" if averaging.kind == "none" else averaging.kind)
    given = {"alpha": ALPHA.value, "shape": SHAPE.value}
    if WEIGHTS.value is not None:
        if KIND.value not in (None, "weights"):
            raise config.UserError(f"--weights: given with --kind={KIND.value}, must go with --kind=weights")
        kind = "weights"
        try:
            given["weights"] = tuple(float(weight) for weight in WEIGHTS.value)
        except ValueError:
            raise config.UserError(f"--weights: found {','.join(WEIGHTS.value)}, must be numbers such as 0.5,0.3,0.2") from None
    return dataclasses.replace(averaging, kind=kind, last=count, **{name: value for name, value in given.items() if value is not None})


def default_name(averaging: config.Averaging, steps: list[str] | None) -> str:
    """Such as sma_last6, ema_0.2_last6, wma_sqrt_steps800-900-1000; metric_0.01_last6 is made apart."""
    detail = averaging.shape if averaging.kind == "wma" else f"{averaging.alpha:g}" if averaging.kind.startswith("ema") else ""
    return "_".join(part for part in (averaging.kind, detail, which(steps, averaging.last)) if part)


def which(steps: list[str] | None, last: int) -> str:
    """Which checkpoints, in a folder's name."""
    return f"steps{'-'.join(sorted(steps, key=int))}" if steps else f"last{last}"


if __name__ == "__main__":
    run(main)
