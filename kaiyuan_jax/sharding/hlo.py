"""What a compiled program does on one device, read off its HLO text: collectives, matrix products and kernels, with loops multiplied out.

XLA's own `cost_analysis` counts the body of a loop once. Here a computation counts as often as it is called, a loop's body by its trip
count: XLA states it, or it is the bound in the loop's condition by the step in its body, from 0.

Bytes are those that one device receives in a ring of n devices, I being what it puts in: all-gather (n - 1) I; reduce-scatter and
all-to-all I (n - 1) / n; all-reduce 2 I (n - 1) / n; collective-permute I. Asynchronous collectives of a TPU appear in the text several
times under one channel and count once; an all-reduce fused with the slice of its result, which is how TPUs write it, is a reduce-scatter.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
COUNTERS = ("s32", "u32", "s64", "u64")  # JAX's loops count in signed integers; loops that XLA makes to gather while it multiplies, not
BITS = {"pred": 8, "bf": 16}  # of dtypes whose name does not end in them


@dataclasses.dataclass(frozen=True)
class Op:
    name: str
    kind: str  # HLO opcode
    result: str  # its shape, as text
    operands: tuple[str, ...]
    attributes: str
    root: bool


@dataclasses.dataclass(frozen=True)
class Collective:
    kind: str
    devices: tuple[int, ...]  # one of its groups, positions in the mesh
    bytes: float  # received by one device each time
    times: int  # in a run of the program
    source: str  # the operation of the model that it came from


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, how often each runs, and shapes by the names of the operations that give them."""

    computations: Mapping[str, Sequence[Op]]
    times: Mapping[str, int]

    def ops(self):
        """(op, how often it runs, shapes of its computation) of everything that runs."""
        for name, ops in self.computations.items():
            if self.times.get(name):
                shapes = {op.name: op.result for op in ops}
                for op in ops:
                    yield op, self.times[name], shapes, name


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if current is None or not line.startswith(" "):
            match = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
            if match:
                current = computations.setdefault(match[2], [])
                entry = match[2] if match[1] else entry
            continue
        match = re.match(r"\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$", line)
        if match:
            inside, _, attributes = _closed(match[5])
            operands = tuple(re.findall(r"%([\w.-]+)", inside)) if "%" in inside else (inside,)
            current.append(Op(match[2], match[4], match[3], operands, attributes, bool(match[1])))
    times = collections.Counter({entry: 1})
    for name in reversed(list(computations)):  # a computation stands before those that call it
        for op in computations[name] if times[name] else ():
            for callee, count in _calls(op, computations):
                times[callee] += count * times[name]
    return Program(computations, times)


def _closed(text: str) -> tuple[str, str, str]:
    """The text before the bracket that closes it, that bracket, and the rest."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:i], letter, text[i + 1 :]
    return text, "", ""


def _calls(op: Op, computations) -> list[tuple[str, int]]:
    if op.kind == "while":
        body, condition = (re.search(rf"{name}=%?([\w.-]+)", op.attributes)[1] for name in ("body", "condition"))
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', op.attributes)
        trips = int(known[1]) if known else _trips(computations[condition], computations[body])
        return [(body, trips), (condition, trips + 1)]
    names = re.findall(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)", op.attributes)
    for group in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", op.attributes):
        names += re.findall(r"%?([\w.-]+)", group)
    return [(name, 1) for name in names]


def _trips(condition: Sequence[Op], body: Sequence[Op]) -> int:
    """Times that `for (i = 0; i < bound; i += step)` runs; XLA unrolls loops that gather while they multiply, so their step is 2."""
    bounds = [int(op.operands[0]) for op in condition if op.kind == "constant" and op.result[:3] in COUNTERS]
    places = [int(re.search(r"index=(\d+)", op.attributes)[1]) for op in condition if op.kind == "get-tuple-element"]
    named, root = {op.name: op for op in body}, next((op for op in body if op.root and op.kind == "tuple"), None)
    step = 1
    for place in places if root and len(bounds) == 1 else ():
        add = named.get(root.operands[place])
        if add is not None and add.kind == "add":
            constants = [named[name] for name in add.operands if name in named and named[name].kind == "constant"]
            step = max([step, *(int(constant.operands[0]) for constant in constants)])
    return -(-max(bounds, default=1) // step)


def dimensions(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, sizes) of an array, or of every array of a tuple."""
    found = re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shape)
    return [(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in found]


def size(shape: str) -> float:
    """Bytes of an array, or of every array of a tuple together."""
    total = 0.0
    for dtype, sizes in dimensions(shape):
        digits = re.search(r"[a-z](\d+)", dtype)
        total += math.prod(sizes) * (int(digits[1]) if digits else BITS.get(dtype, 0)) / 8
    return total


def products(program: Program) -> float:
    """FLOPs of matrix products, 2 to a multiply-add; those inside kernels written by hand are not seen."""
    total = 0.0
    for op, times, shapes, _ in program.ops():
        if op.kind in ("dot", "convolution"):
            total += times * (_dot if op.kind == "dot" else _convolution)(op, shapes)
        elif op.kind == "custom-call" and "__cublas" in op.attributes:
            total += times * _dot(op, shapes)
    return total


def _dot(op: Op, shapes) -> float:
    found = re.search(r'lhs_contracting_dim(?:ension)?s(?:=\{|":\[)([\d,"]*)', op.attributes)
    lhs, result = dimensions(shapes[op.operands[0]])[0][1], dimensions(op.result)[0][1]
    return 2.0 * math.prod(result) * math.prod(lhs[int(i)] for i in re.findall(r"\d+", found[1]))


def _convolution(op: Op, shapes) -> float:
    """TPUs write every product as a convolution; a batch of products becomes a window of which all but one place lies in the padding."""
    lhs, rhs, result = (dimensions(shape)[0][1] for shape in (shapes[op.operands[0]], shapes[op.operands[1]], op.result))
    left, right, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes).groups()
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", (re.search(r"window=\{([^}]*)\}", op.attributes) or ["", ""])[1]))
    pairs = 1
    for place in sorted(letter for letter in left if letter.isdigit()):
        i = int(place)
        stride, dilate, spread = (int(window[key].split("x")[i]) if key in window else 1 for key in ("stride", "lhs_dilate", "rhs_dilate"))
        low = int(window["pad"].split("x")[i].split("_")[0]) if "pad" in window else 0
        where = np.arange(result[out.index(place)])[:, None] * stride + np.arange(rhs[right.index(place)]) * spread - low
        pairs *= int(((where >= 0) & (where <= (lhs[left.index(place)] - 1) * dilate) & (where % dilate == 0)).sum())
    return 2.0 * result[out.index("b")] * result[out.index("f")] * rhs[right.index("i")] * pairs


def kernels(program: Program) -> dict[str, int]:
    """How often kernels written by hand run, by the operation of the model that they came from."""
    found = collections.Counter()
    for op, times, *_ in program.ops():
        if op.kind == "custom-call" and re.search(r'custom_call_target="(tpu_custom_call|mosaic_gpu|__cudnn)', op.attributes):
            found[_source(op)] += times
    return dict(found)


def collectives(program: Program, devices: int) -> list[Collective]:
    """Everything that `devices` devices exchange."""
    found = {}
    for op, times, shapes, computation in program.ops():
        kind = op.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        if kind == "all-reduce" and any(other.root and other.kind == "dynamic-slice" for other in program.computations[computation]):
            kind = "reduce-scatter"
        group = first_group(op.attributes, devices)
        n, given = len(group), sum(size(shapes[name]) for name in op.operands if name in shapes)
        part = {"all-gather": n - 1.0, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(kind, (n - 1) / n)
        channel = re.search(r"channel_id=(\d+)", op.attributes)
        key = channel[1] if channel else (computation, op.name)
        if n > 1 and (key not in found or found[key].times < times):
            found[key] = Collective(kind, group, part * given, times, _source(op))
    return list(found.values())


def _source(op: Op) -> str:
    found = re.search(r'op_name="([^"]*)"', op.attributes)
    return found[1] if found else op.name


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """The devices that exchange with one another, one group of them, in any of the forms that XLA writes."""
    if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(match[1]), int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(int(i) for i in match[1].split(","))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        groups, sizes, order = (tuple(int(i) for i in part.split(",")) if part else None for part in match.groups())
        return tuple(np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(groups)[0].tolist())
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        axes = {name: int(length) for name, length in re.findall(r"'(\w+)'=(\d+)", match[1])}
        ids = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
        wanted = {name: (int(before or 1), int(length or axes[name])) for name, before, length in _axes(match[2])}
        for axis, (name, whole) in enumerate(axes.items()):
            before, length = wanted.get(name, (1, 1))
            step = whole // before // length
            ids = ids.take(np.arange(length) * step, axis=axis)
        return tuple(ids.ravel().tolist())
    return tuple(range(devices))


def _axes(text: str) -> list[tuple[str, str, str]]:
    """(name, parts before, parts) of 'x' or of a part of an axis, 'x':(2)4."""
    return re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", text)


def axes_of(group: Sequence[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh along which the devices of a group differ."""
    places = np.stack(np.unravel_index(np.asarray(group), tuple(mesh.values())))
    return tuple(axis for axis, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)
