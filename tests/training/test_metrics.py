import contextlib
import json
import struct
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2

from kaiyuan_jax.training import metrics

SOURCES = ("code", "prose", "math")


def batch(seed, rows=8):
    random = np.random.default_rng(seed)
    places = types.SimpleNamespace(
        source=random.integers(0, 2, rows), pass_=random.integers(0, 4, rows).astype(np.int32), quantile=random.random(rows)
    )
    return places, random.random(rows).astype(np.float32)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(0, 100), st.integers(1, 12), st.integers(0, 12))
def test_sums_saved_and_restored_anywhere_give_the_same_line_bit_for_bit(seed, steps, cut):
    whole, first = metrics.Seen(SOURCES), metrics.Seen(SOURCES)
    for step in range(steps):
        if step == cut:
            first = metrics.Seen(SOURCES, json.loads(json.dumps(first.state())))
        whole.add(*batch(seed + step))
        first.add(*batch(seed + step))
    assert whole.take() == first.take()


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    st.lists(st.lists(st.floats(0, 60_000, width=16) | st.just(np.nan), min_size=3, max_size=3), max_size=6), st.integers(0, 6)
)
def test_largest_values_saved_and_restored_anywhere_give_the_same_line(steps, cut):
    whole, first = metrics.Largest(), metrics.Largest()
    for step, values in enumerate(steps):
        measured = {"residual": np.array(values, np.float32), "logits": np.float32(step)}
        if step == cut:
            first = metrics.Largest(json.loads(json.dumps(first.state())))
        whole.add(measured)
        first.add(measured)
    line = whole.take()
    assert first.take() == line and whole.take() == {}
    assert bool(line) == bool(steps)
    if line:
        tops = np.max(steps, axis=0)  # NaN where one is
        assert line["largest_by_layer/residual"] == [pytest.approx(top, rel=1e-4) if np.isfinite(top) else None for top in tops]
        assert (line["largest/residual"] is None) == (not np.isfinite(tops).all()) and line["largest/logits"] == len(steps) - 1
        assert "largest_by_layer/logits" not in line
        json.dumps(line, allow_nan=False)


def test_a_line_holds_means_over_what_each_source_showed():
    seen = metrics.Seen(SOURCES)
    batches = [batch(seed) for seed in range(3)]
    for rows, loss_B in batches:
        seen.add(rows, loss_B)
    line = seen.take()
    source, pass_, quantile = (np.concatenate([getattr(rows, name) for rows, _ in batches]) for name in ("source", "pass_", "quantile"))
    loss = np.concatenate([loss_B for _, loss_B in batches]).astype(np.float64)
    assert line["loss"] == pytest.approx(loss.mean())
    for i, name in enumerate(SOURCES[:2]):
        assert line[f"mixture/{name}"] == pytest.approx((source == i).mean())
        assert line[f"loss/{name}"] == pytest.approx(loss[source == i].mean())
        assert line[f"pass/{name}"] == pytest.approx(pass_[source == i].mean())
        assert line[f"quantile/{name}"] == pytest.approx(quantile[source == i].mean())
    assert line["mixture/math"] == 0 and "loss/math" not in line


def test_lines_beyond_the_checkpoint_and_a_torn_last_line_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = ['{"step": 10, "loss": 3.0}', '{"step": 20, "loss": 2.0}', '{"step": 20, "heldout/mean": 2.5}', '{"step": 30, "loss": 1.0}']
    path.write_text("\n".join([*whole, '{"st']))
    metrics.truncate(path, 20)
    assert [line["step"] for line in metrics.read(path)] == [10, 20, 20]
    metrics.truncate(path, 0)
    assert path.read_text() == ""


def scalars(folder):
    """(step, tag) of every scalar of a TensorBoard folder, in the order written."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # a record is its length, a checksum of that, the event, a checksum of that
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value]
            at += 16 + length
    return found


def test_a_new_board_begins_with_the_lines_that_are_there_and_an_old_one_goes_on(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 3, "loss": 5.0, "phase": "main"}\n{"step": 6, "loss": 4.0}\n{"step": 9, "loss": 3.0}\n'
    )
    board = tmp_path / "tensorboard"
    for step in (6, 9):
        with contextlib.closing(metrics.Log(tmp_path, step, tensorboard=True)) as log:
            log.write(step + 3, {"loss": 2.0})
        (written,) = board.glob("events*")
        written.rename(board / f"session{step}")  # files begun in one second have one name
    assert scalars(board) == [(step, "loss") for step in (3, 6, 9, 12)]


def test_the_clock_stands_still_while_paused():
    clock = metrics.Clock(100.0)
    before = clock.seconds
    with clock.paused():
        sum(range(3_000_000))
    assert clock.seconds - before < 0.01
    assert clock.lap() < 0.01


def test_the_host_that_takes_longest_is_named_with_what_it_costs_the_others():
    hosts = metrics.Hosts([0, 0, 1, 1, 2, 2])  # two devices each
    for _ in range(4):
        hosts.add(np.repeat([0.1, 0.5, 0.2], 2), np.repeat([1.0, 1.5, 3.0], 2))
    line = hosts.take()
    assert line["input_wait"] == pytest.approx(0.5)
    assert (line["straggler"], line["straggler_seconds"]) == (2, pytest.approx(1.75))
    alone = metrics.Hosts([0])
    alone.add(np.array([0.25]), np.array([0.5]))
    assert alone.take().keys() == {"input_wait", "longest_step"} <= set(metrics.CLOCKED)
