"""What a run writes and keeps on disk, and what a start reads.

A checkpoint holds parameters and both moments in the dtype of the parameters, and the running average in float32 where there is one. The
newest `keep` (at least two) and all `keep_steps` stay, and while one is written it comes on top, because nothing is deleted before the
new one is safe; stops between multiples of `every` leave up to two more.
Copies between checkpoints (`checkpoint.local`) lie on the hosts' own disks, two at a time, each host with its part.
"""

from kaiyuan_jax.averaging.weights import weights
from kaiyuan_jax.config import Experiment
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.models import flops
from kaiyuan_jax.plan.memory import WIDTHS, averages
from kaiyuan_jax.plan.section import Section
from kaiyuan_jax.plan.timeline import saved_steps, window
from kaiyuan_jax.sharding import topology

HOSTS = {"gpu": topology.HOST, "tpu": 4}  # chips of a host


def checkpoint_bytes(experiment: Experiment) -> int:
    """Of one checkpoint, all processes together."""
    count = flops.parameters(experiment.model)
    return count * (3 * WIDTHS[experiment.precision.parameters] + (4 if averages(experiment) else 0))


def section(experiment: Experiment, plan: Plan, target: topology.Target, step_seconds: tuple[float, float]) -> Section:
    """step_seconds: of one step, at worst and at best."""
    checkpoint, averaging = experiment.checkpoint, experiment.averaging
    size, saves = checkpoint_bytes(experiment), len(saved_steps(experiment, plan.steps))
    hosts = max(1, -(-target.chips // HOSTS[target.platform]))
    most = max(checkpoint.keep, 2) + len(checkpoint.keep_steps) + 1
    slow, fast = (checkpoint.every * seconds for seconds in step_seconds)
    each = gb(size / hosts)
    parts = [
        f"One checkpoint: {gb(size)}, {each} from each of {hosts} host{'s' * (hosts > 1)}. {saves:,} saves write {gb(size * saves)} in "
        f"all; at most {most} lie on disk at once ({gb(size * most)}), one of them being written, and two more after a "
        "stop between saves.",
        f"A save every {checkpoint.every:,} steps is one every {span(fast)} to {span(slow)}. Storage must take {rate(size / fast)} in all, "
        f"{rate(size / fast / hosts)} from a host, so that saves do not run into one another. A crash loses at most that much work "
        f"and what was done while a save was under way; a start reads one checkpoint, {each} a host.",
    ]
    if checkpoint.local and checkpoint.local_every:
        slow, fast = (checkpoint.local_every * seconds for seconds in step_seconds)
        parts.append(
            f"Local copies in {checkpoint.local} every {checkpoint.local_every:,} steps ({span(fast)} to {span(slow)}): two of {each} on "
            f"each host, written at {rate(size / fast / hosts)}. A crash that leaves the hosts as they were loses no more."
        )
    count = flops.parameters(experiment.model)
    if steps := window(experiment, plan.steps):
        stored = WIDTHS[experiment.precision.parameters]
        shown = ", ".join(f"{weight:.3g}" for weight in weights(averaging)[:4]) + ", ..." * (averaging.last > 4)
        parts.append(
            f"The average ({averaging.kind}, weights {shown} newest first) of the last {len(steps)} checkpoints, made afterwards, reads "
            f"{gb(len(steps) * count * stored)} and writes {gb(count * stored)}."
        )
    online = 4 * count
    if averages(experiment):
        parts.append(f"The average in the train state costs {gb(online)} of memory over all chips and as much in every checkpoint.")
    elif averaging.kind != "none":
        parts.append(
            f"Made in the train state instead (config.averaging.online_every), it would cost {gb(online)} of memory over all chips, "
            f"{gb(online / target.chips)} on each, and as much in every checkpoint, and could be evaluated during the run."
        )
    return Section("Checkpoints: bytes and traffic", parts)


def gb(size: float) -> str:
    """Decimal, as disks are sold."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / 1e3:.3g} kB"


def rate(size: float) -> str:
    return f"{gb(size)}/s"


def span(seconds: float) -> str:
    """A duration as one says it."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
