"""Whether a run that was hurt is the run that was not: its state, its metrics, and the sequences that it read.

Every leaf of the last checkpoint is compared: weights, average, moments, counters, the random key. Between runs on the same mesh and the
same processes bit for bit; where the number of processes changed, sums across devices may be taken in another order, and floats are equal
to within `CLOSE` of the largest value of their leaf. Metrics lines are compared but for what a clock measured.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from kaiyuan_jax.experiments.chaos.arrangement import BATCH, STEPS
from kaiyuan_jax.experiments.chaos.session import Ended
from kaiyuan_jax.training import checkpoint, metrics

CLOSE = 2e-4  # of a leaf's largest value


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run left behind."""

    leaves: dict[str, np.ndarray]
    lines: list[dict]
    consumed: list[list[str]]  # for each step, the sequence of each row of its global batch


def outcome(folder: Path, sessions: list[Ended], sequences: dict[str, str]) -> Outcome:
    """Reads a finished run. Raises ValueError where its folder or its journals contradict themselves."""
    last = folder / "checkpoints" / str(STEPS)
    leaves = {}
    for item in sorted(path.name for path in last.iterdir() if (path / "_METADATA").exists()):
        paths, read = checkpoint.leaf_reader(last, item)
        leaves |= {f"{item}/{path}": np.asarray(read(path)) for path in paths}
    lines = [{key: value for key, value in line.items() if key not in metrics.CLOCKED} for line in metrics.read(folder / "metrics.jsonl")]
    lines = json.loads(json.dumps(lines).replace(str(folder), ""))  # which is named where documents were left out
    return Outcome(leaves, lines, consumed(sessions, sequences))


def consumed(sessions: list[Ended], sequences: dict[str, str]) -> list[list[str]]:
    """What each step read, from what the loops took: every row of every batch, and each time it was read the same sequence.

    Raises ValueError where a session does not go on at a step that is saved, leaves out a step, or reads something else than before.
    """
    found: list[list[str | None]] = [[None] * BATCH for _ in range(STEPS)]
    done = 0  # steps that some session has taken
    for session in sessions:
        for process in range(session.processes):
            steps = [event["step"] for event in session.batches() if event["process"] == process]
            if any(step > before + 1 for before, step in itertools.pairwise(steps)):  # a run that backs off takes some again
                raise ValueError(f"session {session.number}, process {process}: took batches {steps}, which leaves out some")
            if steps and steps[0] > done:
                raise ValueError(f"session {session.number}, process {process}: began with batch {steps[0]}, only {done} were taken before")
        for event in session.batches():
            for row, digest in zip(event["rows"], event["digests"], strict=True):
                sequence, before = sequences.get(digest, f"unknown {digest}"), found[event["step"]][row]
                if before not in (None, sequence):
                    raise ValueError(f"session {session.number}: row {row} of batch {event['step']} is {sequence}, was {before}")
                found[event["step"]][row] = sequence
        done = max(done, session.last_step + 1)
    for step, rows in enumerate(found):
        if None in rows:
            raise ValueError(f"batch {step}: rows {[row for row, sequence in enumerate(rows) if sequence is None]} were never read")
    return found


def differences(hurt: Outcome, whole: Outcome, *, bitwise: bool) -> list[str]:
    """What differs, one line each; none: nothing was lost."""
    lines = []
    if hurt.consumed != whole.consumed:
        step = next(i for i, (one, other) in enumerate(zip(hurt.consumed, whole.consumed, strict=True)) if one != other)
        lines.append(f"batch {step} held {hurt.consumed[step]}, undisturbed {whole.consumed[step]}")
    if hurt.leaves.keys() != whole.leaves.keys():
        lines.append(f"the state has other leaves: {sorted(hurt.leaves.keys() ^ whole.leaves.keys())}")
    for path in sorted(hurt.leaves.keys() & whole.leaves.keys()):
        if problem := _unequal(hurt.leaves[path], whole.leaves[path], bitwise):
            lines.append(f"{path}: {problem}")
    if len(hurt.lines) != len(whole.lines):
        lines.append(f"metrics.jsonl has {len(hurt.lines)} lines, undisturbed {len(whole.lines)}")
    for one, other in zip(hurt.lines, whole.lines, strict=False):
        if not _same(one, other, bitwise):
            keys = sorted(key for key in one.keys() | other.keys() if not _same(one.get(key), other.get(key), bitwise))
            lines.append(f"metrics line of step {other.get('step')}: {[(key, one.get(key), other.get(key)) for key in keys]}"[:300])
    return lines


def _unequal(one: np.ndarray, other: np.ndarray, bitwise: bool) -> str:
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"is {one.dtype}{one.shape}, undisturbed {other.dtype}{other.shape}"
    if bitwise or one.dtype.kind not in "f":
        return "" if one.tobytes() == other.tobytes() else f"{np.sum(one != other)} of {one.size} values differ"
    error, largest = np.abs(one - other).max(), np.abs(other).max()
    return "" if error <= CLOSE * largest else f"off by {error:.3g}, largest value {largest:.3g}"


def _same(one, other, bitwise: bool) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], bitwise) for key in one)
    if not bitwise and isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= CLOSE * max(abs(one), abs(other))
    return json.dumps(one) == json.dumps(other)
