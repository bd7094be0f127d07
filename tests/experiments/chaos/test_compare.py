"""The judge of a hurt run sees every kind of loss: a bit, a line, a sequence, a step."""

import dataclasses

import numpy as np
import pytest

from kaiyuan_jax.experiments.chaos import compare
from kaiyuan_jax.experiments.chaos.arrangement import BATCH, STEPS
from kaiyuan_jax.experiments.chaos.session import Ended


def digest(step: int, row: int) -> str:
    return f"{step}.{row}"


SEQUENCES = {digest(step, row): f"code/{step * BATCH + row}" for step in range(STEPS) for row in range(BATCH)}


def session(number: int, steps, rows=range(BATCH), processes: int = 1) -> Ended:
    """A session whose processes take the steps given, each its part of the rows."""
    parts = np.array_split(list(rows), processes)
    events = [
        {"event": "batch", "process": process, "time": number + step / 100, "step": step, "rows": part.tolist()}
        | {"digests": [digest(step, row) for row in part]}
        for step in steps
        for process, part in enumerate(parts)
    ]
    return Ended(number, processes, float(number), [0] * processes, events, "", None)


def test_sessions_that_go_on_where_a_checkpoint_was_give_every_sequence_once():
    whole = compare.consumed([session(1, range(STEPS))], SEQUENCES)
    assert whole[3][2] == SEQUENCES[digest(3, 2)]
    assert (
        compare.consumed([session(1, range(17)), session(2, range(10, 30), processes=2), session(3, range(25, STEPS))], SEQUENCES) == whole
    )


@pytest.mark.parametrize(
    ("sessions", "complaint"),
    [
        ([session(1, range(17)), session(2, range(18, STEPS))], "began with batch 18, only 17 were taken"),
        ([session(1, [*range(9), *range(10, STEPS)])], "leaves out some"),
        ([session(1, range(STEPS - 1))], "batch 59: rows .* never read"),
        ([session(1, range(STEPS), rows=range(BATCH - 1))], "rows \\[7\\] were never read"),
    ],
)
def test_a_step_or_row_that_nobody_took_is_seen(sessions, complaint):
    with pytest.raises(ValueError, match=complaint):
        compare.consumed(sessions, SEQUENCES)


def test_a_batch_that_is_another_the_second_time_is_seen():
    again = session(2, range(10, STEPS))
    again.events[3]["digests"][0] = digest(0, 0)
    with pytest.raises(ValueError, match="row 0 of batch 13 is code/0, was code/104"):
        compare.consumed([session(1, range(20)), again], SEQUENCES)


@pytest.fixture
def whole():
    leaves = {"parameters/head": np.linspace(0.1, 1, 6, dtype=np.float32), "rest/step": np.int32(STEPS)}
    lines = [{"step": step, "loss": 2.0 / step} for step in range(1, 4)]
    return compare.Outcome(leaves, lines, compare.consumed([session(1, range(STEPS))], SEQUENCES))


def test_a_run_is_equal_to_itself(whole):
    assert compare.differences(whole, whole, bitwise=True) == []


def test_the_last_bit_of_one_weight_is_seen_and_is_rounding_where_processes_changed(whole):
    head = whole.leaves["parameters/head"].copy()
    head[2] = np.nextafter(head[2], np.float32(2))
    hurt = dataclasses.replace(whole, leaves=whole.leaves | {"parameters/head": head})
    assert compare.differences(hurt, whole, bitwise=True) == ["parameters/head: 1 of 6 values differ"]
    assert compare.differences(hurt, whole, bitwise=False) == []
    head[2] += 1e-3
    assert "off by" in compare.differences(hurt, whole, bitwise=False)[0]


def test_a_counter_has_no_rounding(whole):
    hurt = dataclasses.replace(whole, leaves=whole.leaves | {"rest/step": np.int32(STEPS - 1)})
    assert compare.differences(hurt, whole, bitwise=False) == ["rest/step: 1 of 1 values differ"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: lines[:-1], "has 2 lines, undisturbed 3"),
        (lambda lines: [*lines, lines[-1]], "has 4 lines, undisturbed 3"),
        (lambda lines: [lines[0] | {"loss": 2.1}, *lines[1:]], "metrics line of step 1.*loss"),
    ],
)
def test_a_metrics_line_that_is_lost_repeated_or_changed_is_seen(whole, change, complaint):
    import re

    found = compare.differences(dataclasses.replace(whole, lines=change(whole.lines)), whole, bitwise=False)
    assert found and re.search(complaint, found[0])
