"""The arithmetic of plans beside whole steps that were compiled: how far it is off, setting by setting."""

import dataclasses

from kaiyuan_jax.plan import compiled, machine, search, setting
from kaiyuan_jax.plan.section import Section, Table
from kaiyuan_jax.sharding import topology

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Compared:
    """One compiled step; bytes and FLOPs of a device."""

    name: str
    estimated: float
    compiled: float
    flops: float  # estimated, of those done
    flops_compiled: float
    received: float  # bytes
    received_compiled: float

    @property
    def error(self) -> float:
        """Of the memory, in parts of what was compiled; above 0 the estimate is on the safe side."""
        return self.estimated / self.compiled - 1


def compare(result: dict) -> Compared:
    """An entry of `compiled.known` beside the estimate of the same setting."""
    experiment, target = compiled.experiment_of(result["key"]), topology.target(result["key"]["target"])
    one = setting.asked(experiment, target)
    found = search.look(experiment, target, one)
    model = experiment.model
    shape = f", {model.layers} layers, V {model.vocabulary:,}" if (model.layers, model.vocabulary) != (28, 151_936) else ""
    return Compared(
        name=f"{target.name}: {one.words}, {machine.row_words(one, experiment)}{shape}",
        estimated=found.needed,
        compiled=result["memory"]["needed"],
        flops=found.speed.line.executed,
        flops_compiled=result["flops"]["executed"],
        received=sum(found.speed.collectives.values()),
        received_compiled=sum(result["collectives"].values()),
    )


def section() -> Section:
    """The table of all known ones."""
    rows = []
    for one in map(compare, compiled.known()):
        flops = f"{one.flops / one.flops_compiled - 1:+.1%}"
        received = f"{one.received / 1e9:.1f} / {one.received_compiled / 1e9:.1f}"
        rows.append((one.name, f"{one.estimated / GIB:.2f}", f"{one.compiled / GIB:.2f}", f"{one.error:+.0%}", flops, received))
    head = ("compiled step", "GiB", "compiled", "error", "FLOPs", "GB received / compiled")
    return Section("Estimates beside compiled steps", [Table(head, rows, "<>>>>>")])
