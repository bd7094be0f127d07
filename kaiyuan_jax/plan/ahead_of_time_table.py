"""Results of `ahead_of_time.measure` as text: one target's page, and the table of several."""

from collections.abc import Mapping

from kaiyuan_jax.plan import roofline, setting

GIB = 2**30
HEAD = (
    "target", "mesh", "sequences a chip", "remat", "fits", "arguments + temporaries a chip", "compile, wall (CPU) s", "host memory",
    "FLOPs a step and chip: model / done", "collectives a step and chip", "roofline tokens/s a chip", "bound by",
    "MFU / with recomputation",
)  # fmt: skip
NOTES = f"""
Nothing here was run. *Fits* is the compiler's word for TPUs; for GPUs, where it has none, what the program needs beside the memory of
the card. *Roofline* is a bound, not a forecast: the longest of FLOPs at {roofline.EFFICIENCY:.0%} of the bf16 peak, memory traffic by
arithmetic (plan/roofline.py), and collectives one after the other over their own wires, perfectly overlapped. MFU counts causal
attention as half and no recomputation; the figure after the stroke counts what is recomputed too. FLOPs and collectives are read off the
compiled program with loops multiplied out (sharding/hlo.py); bytes of collectives are those that one chip receives.
Programs for TPUs write gathers of weights as all-reduces, which count here twice what a gather would move.
CPU seconds are those of the compiling process, wall seconds were taken beside much other work on two cores.
"""

# The table's targets, with the batch and the recomputation that their memory allows.
KEPT = '--config.model.remat=names --config.model.remat_names="({})"'.format(",".join(f"'{name}'" for name in setting.PRODUCTS))
WANTED = {
    "v5e:4x4": "--batch_per_chip=1",
    "v5e:16x16": "--batch_per_chip=1",
    "v5p:4x4x4": f"--batch_per_chip=4 {KEPT}",
    "v5p:8x8x4": f"--batch_per_chip=4 {KEPT}",
    "v6e:8x8": "--batch_per_chip=2",
    "hopper:8": f"--batch_per_chip=4 {KEPT}",
}


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def fits(memory: Mapping) -> str:
    """yes, or by how much not."""
    if "needed" not in memory:
        return f"no: {memory['said']}"
    gap = memory["available"] - memory["needed"]
    return f"yes, {gib(gap)} left" if memory["fits"] else f"no, {gib(-gap)} over"


def row(name: str, result: Mapping) -> tuple[str, ...]:
    memory, line, seconds = result["memory"], result.get("roofline"), result["seconds"]
    mesh = " ".join(f"{axis}={size}" for axis, size in result["mesh"].items() if size > 1) or "one chip"
    start = (name, mesh, str(result["rows"]), result["remat"], fits(memory))
    sizes = f"{gib(memory['argument'])} + {gib(memory['temp'])}" if "argument" in memory else gib(memory.get("needed", 0.0))
    cost = (f"{seconds['compile']:.0f} ({seconds['cpu']:.0f})", gib(result["host_bytes"]))
    if line is None:
        return *start, sizes, *cost, *[""] * 5
    exchanged = sum(result["collectives"].values())
    work = f"{result['flops']['model'] / 1e12:.1f} / {result['flops']['executed'] / 1e12:.1f} T"
    share = f"{line['mfu']:.0%} / {line['hfu']:.0%}"
    return *start, sizes, *cost, work, f"{exchanged / 1e9:.2f} GB", f"{line['tokens_per_second']:,.0f}", line["bound"], share


def page(name: str, result: Mapping) -> str:
    """Everything about one target."""
    lines = [f"{head}: {value}" for head, value in zip(HEAD, row(name, result), strict=True) if value]
    lines += [f"  {category}: {gib(size)}" for category, size in result["bytes"].items() if size]
    lines += [f"  {name}: {moved / 1e9:.3f} GB" for name, moved in sorted(result.get("collectives", {}).items(), key=lambda item: -item[1])]
    lines += [f"  kernel, {times} times: {source}" for source, times in result.get("kernels", {}).items()]
    if line := result.get("roofline"):
        lines.append(f"  seconds at least: compute {line['compute']:.4f}, memory {line['memory']:.4f}, exchange {line['exchange']:.4f}")
    return "\n".join(lines)


def table(head, rows) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def document(results: Mapping[str, Mapping]) -> str:
    """docs/results/ahead_of_time.md."""
    categories = ("parameters", "optimizer", "gradients", "saved activations", "batch")
    share = [(name, *(gib(one["bytes"].get(key, 0.0)) for key in categories)) for name, one in results.items()]
    moved = [
        (name, kind, f"{size / 1e9:.3f} GB")
        for name, one in results.items()
        for kind, size in sorted(one.get("collectives", {}).items(), key=lambda item: -item[1])
        if size > 1e6
    ]
    lines = ["# Training steps compiled for accelerators that are not here", "", *table(HEAD, (row(*item) for item in results.items()))]
    lines += [NOTES, "Bytes a chip by category; gradients and saved activations, by arithmetic, are part of the temporaries.", ""]
    lines += table(("target", *categories), share)
    lines += ["", "What a chip receives in a step, over which axes of the mesh, and the bandwidth that was assumed there:", ""]
    lines += table(("target", "collective", "received"), moved)
    lines += ["", "Commands:", "", *(f"    {one['command']}" for one in results.values()), ""]
    owed = [f"    python launch/compile_for.py --config=configs/kaiyuan_2b.py --target={name} {rest}" for name, rest in WANTED.items()]
    if missing := [line for name, line in zip(WANTED, owed, strict=True) if name not in results]:
        lines += ["Not compiled yet:", "", *missing, ""]
    return "\n".join(lines + [f"JAX {', '.join(sorted({one['jax'] for one in results.values()}))}.", ""])
