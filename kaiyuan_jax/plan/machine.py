"""What a run needs of a machine and gets from it: memory, speed, time and cost, the same on other machines, and what some hours buy.

Everything is by arithmetic (plan/memory.py, plan/speed.py) unless a compiled step is given, and every section says on what it rests. Times
are those of training steps alone: start-up, compilation, evaluation and the work lost to failures come on top.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from kaiyuan_jax.config import ConfigError, Experiment, UserError
from kaiyuan_jax.data.recipe import Plan
from kaiyuan_jax.plan import compiled, memory, search, speed
from kaiyuan_jax.plan import setting as settings
from kaiyuan_jax.plan.search import Found
from kaiyuan_jax.plan.section import Code, Section, Table, human, short
from kaiyuan_jax.plan.timeline import phase_steps
from kaiyuan_jax.plan.traffic import gb, span
from kaiyuan_jax.sharding import chips as known_chips
from kaiyuan_jax.sharding import topology

GIB = 2**30
ELSEWHERE = ("v5e:8x8", "v5e:16x16", "v5p:2x2x4", "v5p:4x4x4", "v5p:4x8x8", "v6e:8x8", "v6e:16x16", "hopper:8", "hopper:64", "h200:64")
SLICES = {  # sides of a slice by the number of its chips
    2: {4: "2x2", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16"},
}


def named(name: str, chips: int) -> topology.Target:
    """The target of --target and --chips, either of which may leave the other out: v5p with 64 chips is v5p:4x4x4.

    Raises UserError where they contradict one another, or no slice has so many chips.
    """
    kind, _, sides = name.partition(":")
    if sides or not chips:
        found = topology.target(name)
        if chips and chips != found.chips:
            raise UserError(f"--chips={chips}: --target={name} has {found.chips}; leave one out, as in --target={kind} --chips={chips}")
        return found
    chip = known_chips.named(topology.ALIASES.get(kind, kind))
    if chip is None or chip.platform == "gpu":
        return topology.target(f"{kind}:{chips}")
    if chips not in SLICES[chip.torus]:
        allowed = ", ".join(map(str, SLICES[chip.torus]))
        raise UserError(f"--chips={chips}: no usual slice of {kind} has so many; take {allowed}, or name its sides after --target={kind}:")
    return topology.target(f"{kind}:{SLICES[chip.torus][chips]}")


def prices(given: Sequence[str], target: topology.Target) -> dict[str, float]:
    """By name of a chip, from the parts of --price: a number for the target's, or kind:number. Raises UserError for anything else."""
    found = {}
    for part in given:
        kind, _, number = part.rpartition(":")
        chip = known_chips.named(topology.ALIASES.get(kind, kind)) if kind else target.chip
        try:
            price = float(number)
        except ValueError:
            price = math.nan
        if chip is None or not 0 < price < math.inf:
            raise UserError(f"--price={part}: must be a number above 0, or a kind of chip and one, such as {target.chip.name}:4.2")
        found[chip.name] = price
    return found


@dataclasses.dataclass(frozen=True)
class Machine:
    """A target with the two ways to use it that the page compares."""

    target: topology.Target
    asked: Found | None  # as the config has it; None where its mesh or batch does not fit the number of devices
    why: str  # it is None
    best: Found | None  # the fastest that fits, None where nothing does

    @property
    def chosen(self) -> Found | None:
        """What time and cost are told of."""
        return self.asked if self.asked and self.asked.fits else self.best


def look(experiment: Experiment, target: topology.Target) -> Machine:
    """Both ways, by arithmetic."""
    asked, why = None, ""
    try:
        one = settings.asked(experiment, target)
        if one.fits_batch(experiment):
            asked = search.look(experiment, target, one)
        else:
            why = (
                f"config.data.batch_size = {experiment.data.batch_size:,} rows cannot be cut into data x fsdp x accumulation = "
                f"{one.data} x {one.fsdp} x {one.accumulation} parts"
            )
    except ConfigError as error:
        why = str(error)
    return Machine(target, asked, why, compiled.best(experiment, target))


def sections(
    experiment: Experiment,
    plan: Plan,
    machine: Machine,
    *,
    hours: float = 0.0,
    prices: Mapping[str, float],
    elsewhere: Sequence[topology.Target],
) -> list[Section]:
    """prices: by name of a chip, for one hour of one."""
    found = [_memory(experiment, machine)]
    if machine.chosen:
        found.append(_time(experiment, plan, machine, prices))
        if hours:
            found.append(_hours(plan, machine, hours))
    found.append(_elsewhere(experiment, plan, [machine.target, *elsewhere], prices))
    return found


def _memory(experiment, machine):
    target, columns = machine.target, []
    chip, half = target.chip, target.chip.devices > 1
    head = f"Memory of a {'device, half a chip' if half else 'chip'}"
    parts = [
        f"{target.name}: {target.chips} chips with {chip.memory / GIB:.0f} GiB, {chip.flops / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{chip.bandwidth / 1e12:.3g} TB/s to memory and {chip.interconnect / 1e9:.0f} GB/s to the others, by data sheet."
    ]
    same = machine.asked and machine.best and machine.asked.setting == machine.best.setting
    shown = {"as configured": machine.asked} | ({} if same else {"fastest that fits": machine.best})
    results = {}
    for title, one in shown.items():
        if one is None:
            continue
        columns.append((f"{title}, GiB", one.bytes, None))
        if result := compiled.find(experiment, target, one.setting):
            results[title] = result
            columns.append(("compiled, GiB", None, result["memory"]))
    if columns:
        parts += [
            f"{title}: {one.setting.words}, {row_words(one.setting, experiment)} a micro-batch" for title, one in shown.items() if one
        ]
        parts.append(Table(("category", *(title for title, *_ in columns)), _categories(columns), "<" + ">" * len(columns)))
    parts += [_origin(title, result) for title, result in results.items()]
    if len(results) < sum(one is not None for one in shown.values()):
        why = topology.missing(target)
        parts.append(
            "Estimates are arithmetic: the state is exact, the rest is held against steps that were compiled (docs/results/plan.md) and "
            f"taken to be right within {memory.MARGIN:.0%} of the memory. "
            + (f"They cannot be checked here: {why}." if why else "--compile compiles the step that the page recommends (minutes).")
        )
    return Section(head, [*parts, *_verdict(experiment, machine, results)])


def _categories(columns):
    names = [name for name in next(sizes for _, sizes, _ in columns if sizes) if any(sizes and sizes[name] for _, sizes, _ in columns)]
    rows = [(name, *(f"{sizes[name] / GIB:.2f}" if sizes else "" for _, sizes, _ in columns)) for name in names]
    if any(result and "argument" in result for *_, result in columns):
        rows.append(("arguments", *(f"{result['argument'] / GIB:.2f}" if result else "" for *_, result in columns)))
        rows.append(("temporaries", *(f"{result['temp'] / GIB:.2f}" if result else "" for *_, result in columns)))
    totals = [sum(sizes.values()) if sizes else result.get("needed", 0.0) for _, sizes, result in columns]
    return [*rows, ("together", *(f"{total / GIB:.2f}" for total in totals))]


def _origin(title, result):
    memory_of = result["memory"]
    word = "it fits" if memory_of["fits"] else "IT DOES NOT FIT"
    when = "" if result["code"] == compiled.code() else ", by an earlier version of the code"
    return f"The whole step, {title}, was compiled with JAX {result['jax']}{when}: {word}."


def _verdict(experiment, machine, results):
    asked, best, target = machine.asked, machine.best, machine.target
    limit = f"{target.chip.memory / target.chip.devices / GIB:.0f} GiB"
    if best is None:
        least = search.smallest(experiment, target)
        if least is None:
            yield (
                f"NOTHING FITS: {experiment.data.batch_size:,} rows cannot be cut over {settings.devices(target)} devices. Take another "
                "number of chips or another config.data.batch_size."
            )
            return
        yield (
            f"NOTHING FITS: the least is {least.needed / GIB:.1f} GiB of {limit} ({least.setting.words}). Take more chips, cut rows "
            "over config.mesh.context, shorten config.data.sequence_length, or set config.precision.parameters=bfloat16."
        )
        return
    known = results.get("as configured")
    by = "as compiled" if known else "by arithmetic"
    size = f"{known['memory'].get('needed', 0.0) / GIB if known else asked.needed / GIB:.1f} GiB of {limit}, {by}" if asked else ""
    if asked is None:
        yield f"As configured it cannot run here: {machine.why}."
    elif known["memory"]["fits"] if known else asked.fits:
        yield f"As configured it fits: {size}."
    else:
        yield f"As configured it DOES NOT FIT: {size}."
    if asked is None or asked.setting != best.setting:
        before = asked and asked.setting
        gain = f", {asked.speed.serial / best.speed.serial - 1:+.0%} in speed by the same arithmetic" if asked and asked.fits else ""
        yield f"Fastest that fits{gain}, the same numbers trained:"
        yield Code(settings.flags(before, best.setting))


def _time(experiment, plan, machine, prices):
    target, price = machine.target, prices.get(machine.target.chip.name)
    both = {"as configured": machine.asked if machine.asked and machine.asked.fits else None, "fastest that fits": machine.best}
    if machine.asked and machine.best and machine.asked.setting == machine.best.setting:
        del both["fastest that fits"]
    shown = {title: one.speed for title, one in both.items() if one}
    rows = [
        ("tokens/s a chip", *(pair(f"{x / target.chips:,.0f}" for x in one.band) for one in shown.values())),
        ("tokens/s, all chips", *(pair(f"{x:,.0f}" for x in one.band) for one in shown.values())),
        ("model FLOP utilisation", *(pair(f"{x:.0%}" for x in one.utilisation) for one in shown.values())),
        ("a step", *(pair(span(x) for x in (one.worst, one.line.seconds)) for one in shown.values())),
        ("the run, days", *(pair(short(x) for x in days(plan, one)) for one in shown.values())),
        ("chip-hours", *(pair(short(24 * x * target.chips) for x in days(plan, one)) for one in shown.values())),
    ]
    if price:
        cost = [pair(short(24 * x * target.chips * price) for x in days(plan, one)) for one in shown.values()]
        rows.append((f"cost at {price:g} a chip-hour", *cost))
    first = next(iter(shown.values()))
    line = first.line
    received = ", ".join(f"{axis} {gb(size)}" for axis, size in first.collectives.items()) or "nothing"
    parts = [
        Table(("at worst to at best", *shown), rows, "<" + ">" * len(shown)),
        f"Bound by {line.bound} ({next(iter(shown))}): a step takes at least {line.compute:.3g} s for {short(line.executed / 1e12)} TFLOP "
        f"at 70% of the peak, {line.memory:.3g} s of memory traffic, {line.exchange:.3g} s of exchange ({received} received).",
        "At best these overlap perfectly: a bound that no run exceeds by much. At worst they follow one another, or the step reaches "
        f"{speed.LOW:.0%} MFU, whichever is slower. MFU counts causal attention as half and nothing that is computed twice.",
        f"Where runs land, {speed.PUBLISHED}.",
        "Time is that of steps alone; start-up, evaluation and work lost to failures come on top.",
    ]
    return Section("Speed, time and cost", parts)


def _hours(plan, machine, hours):
    parts, band = [], machine.chosen.speed.band
    seen = [tokens_per_second * 3600 * hours for tokens_per_second in band]
    if seen[0] >= plan.tokens:
        left = f"{1 - plan.tokens / seen[0]:.0%} of them left over"
        parts.append(f"The run of {human(plan.tokens)} tokens ends within {hours:g} hours even at worst, with {left}.")
    else:
        reached = [min(plan.steps, int(tokens / plan.tokens * plan.steps)) for tokens in seen]
        steps, share = (pair(f"{step:,}" for step in reached), pair(f"{step / plan.steps:.0%}" for step in reached))
        parts += [
            f"{hours:g} hours are enough for {pair(human(round(tokens)) for tokens in seen)} tokens: {steps} of {plan.steps:,} steps, "
            f"{share} of the run; it would be in {pair(_phase_at(plan, step) for step in reached)}.",
            "A run cut short has not decayed its rate nor read its last phases. Give phases budgets (config.data.phases[i].tokens) that "
            f"add up to {human(round(seen[0]))}, {seen[0] / plan.tokens:.2g} of what they have, or take more chips.",
        ]
    most = pair(f"{math.ceil(machine.target.chips * 24 * needed / hours):,}" for needed in days(plan, machine.chosen.speed))
    parts.append(f"The whole run in {hours:g} hours takes {most} such chips, if speed grows with their number.")
    return Section(f"In {hours:g} hours", parts)


def _phase_at(plan, step):
    if step >= plan.steps:
        return "the end"
    return next(phase.name for phase, (first, after) in zip(plan.phases, phase_steps(plan), strict=True) if first <= step < after)


def _elsewhere(experiment, plan, targets, prices):
    rows, seen = [], set()
    for target in targets:
        if target.name in seen:
            continue
        seen.add(target.name)
        best = search.best(experiment, target)
        if best is None:
            rows.append((target.name, str(target.chips), "nothing fits", "", "", "", ""))
            continue
        needs, price = days(plan, best.speed), prices.get(target.chip.name)
        cost = pair(_thousands(24 * x * target.chips * price) for x in needs) if price else ""
        memory_ = f"{best.needed / GIB:.0f} of {best.available / GIB:.0f}"
        speeds = pair(f"{short(x / target.chips / 1000)}k" for x in best.speed.band)
        times = pair(f"{x:.{3 if x >= 1 else 2}g}" for x in needs)
        rows.append((target.name, str(target.chips), best.setting.words, memory_, speeds, times, cost))
    head = ("target", "chips", "fastest that fits", "GiB", "tokens/s a chip", "days", "cost")
    keep = [i for i in range(len(head)) if head[i] != "cost" or any(row[i] for row in rows)]
    table = Table(tuple(head[i] for i in keep), [tuple(row[i] for i in keep) for row in rows], "".join("<><>>>>"[i] for i in keep))
    note = "The same run on other machines, each used the fastest way that fits by arithmetic; at worst to at best, as above."
    return Section("What if", [note, table])


def _thousands(cost: float) -> str:
    return f"{cost / 1000:,.0f}k" if cost >= 10_000 else f"{cost:,.0f}" if cost >= 10 else f"{cost:.2g}"


def row_words(setting: settings.Setting, experiment: Experiment) -> str:
    count = setting.rows(experiment)
    return f"{count} row{'s' * (count > 1)}"


def days(plan: Plan, one: speed.Speed) -> tuple[float, float]:
    """Of the whole run, at worst and at best."""
    worst, best = one.band
    return plan.tokens / worst / 86400, plan.tokens / best / 86400


def pair(words) -> str:
    """Both ends of a band."""
    first, second = words
    return first if first == second else f"{first} to {second}"
