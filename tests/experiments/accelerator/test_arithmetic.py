"""Operations, bytes and goals by hand."""

import pytest

from kaiyuan_jax.experiments.accelerator import attention_cases as cases
from kaiyuan_jax.experiments.accelerator import goals, shapes, table, traffic, train_step
from kaiyuan_jax.models import flops


def test_the_large_model_has_the_published_parameters_and_cost():
    shape = shapes.model("2b")
    assert flops.parameters(shape) == pytest.approx(2.03e9, rel=0.005)
    assert flops.per_token(shape, 4096) == pytest.approx(11.7e9, rel=0.01)


def test_both_conventions_and_recomputation_differ_by_what_they_count():
    shape, rate = shapes.model("2b"), 40_000.0
    found = shapes.utilisation(shape, 4096, rate, "NVIDIA H200", full_remat=True)
    attention = 6 * 28 * 4096 * 2048  # half of the square
    assert found["mfu_square"] - found["mfu"] == pytest.approx(attention * rate / 989e12)
    layers = 2 * 28 * (2 * 2048 * 128 * 24 + 3 * 2048 * 6144) + attention / 3
    assert found["hfu"] - found["mfu"] == pytest.approx(layers * rate / 989e12)
    assert shapes.utilisation(shape, 4096, rate, "cpu")["mfu"] is None


def test_visible_pairs_are_those_of_the_mask():
    for case in cases.CASES:
        segments = cases.documents(2, 96) if case.documents else [[0] * 96] * 2
        seen = [(i - j, row[i] == row[j]) for row in segments for i in range(96) for j in range(i + 1)]
        count = sum(same and not (case.window and age >= case.window) for age, same in seen)
        assert cases.pairs(case, 2, 96) == count
        assert cases.flops(case, 2, 96, 4, 64, backward=True) == 14 * count * 4 * 64


def test_packed_documents_fill_their_rows():
    rows = cases.documents(3, 4096)
    assert all(len(row) == 4096 and row == sorted(row) and row[0] == 1 for row in rows)
    assert 3 < max(max(row) for row in rows) < 30


def test_the_largest_batch_lies_on_the_line_through_two():
    assert train_step.largest((2, 30.0), (4, 40.0), 100.0, train_step.BATCHES) == 16
    assert train_step.largest((2, 30.0), (4, 40.0), 10.0, train_step.BATCHES) == 1


PROGRAM = """HloModule m

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p)
}

ENTRY %main (x: bf16[4,8], y: f32[8]) -> (bf16[4,8], f32[8]) {
  %x = bf16[4,8]{1,0} parameter(0)
  %y = f32[8]{0} parameter(1)
  %near = f32[8]{0:T(128)S(1)} fusion(%y), kind=kLoop, calls=%fused
  %pair = (bf16[4,8]{1,0}, f32[8]{0}) fusion(%x, %near), kind=kLoop, calls=%fused
  %one = bf16[4,8]{1,0} get-tuple-element(%pair), index=0
  %two = f32[8]{0} get-tuple-element(%pair), index=1
  ROOT %out = (bf16[4,8]{1,0}, f32[8]{0}) tuple(%one, %two)
}
"""


def test_bytes_are_of_what_kernels_read_and_write_in_device_memory():
    assert traffic.kernels(PROGRAM) == [("near", 32), ("pair", 64 + 64 + 32)]
    with pytest.raises(ValueError, match="while"):
        traffic.total(PROGRAM.replace("fusion(%y)", "while(%y)"))


def results(**sections):
    return {"tiny": False, "sections": [{"name": name, "rows": rows} for name, rows in sections.items()]}


def test_goals_are_reached_missed_or_owed():
    ours = dict(compute="bfloat16", shape="Kaiyuan", tokens_per_second=50_000.0, mfu=0.59)
    plain = dict(compute="bfloat16", shape="Qwen3", tokens_per_second=52_000.0, mfu=0.61)
    torch = [dict(weights="float32", tokens_per_second=40_000.0), dict(weights="bfloat16", tokens_per_second=60_000.0)]
    kernels = [dict(case="causal", dtype="bfloat16", implementation="ours: cudnn", chosen=True, both_tflops=450.0)]
    others = [dict(case="causal", dtype="bfloat16", implementation="torch sdpa: flash", both_tflops=480.0)]
    found = {
        row["goal"]: (row["found"], row["verdict"])
        for row in goals.rows(results(step=[ours], step_plain=[plain], torch_step=torch, attention=kernels, torch_ops=others))
    }
    assert found["2.03B bf16 step, MFU (causal halved)"] == (0.59, "missed")
    assert found["ours over PyTorch, tokens/s, both Qwen3"] == (1.3, "reached")
    assert found["fp16 over bf16, tokens/s"] == (None, "owed")
    assert found["attention over the best other, causal, with backward"] == (450 / 480, "reached")
    tiny = results(step=[ours]) | {"tiny": True}
    assert {row["verdict"] for row in goals.rows(tiny)} == {"owed"}


def test_rows_with_the_same_columns_share_a_table():
    text = table.section(
        {"name": "x", "status": "done", "seconds": 1.0, "rows": [{"a": 1, "b": 0.123456}, {"c": None, "a": 2}, {"a": 3, "b": None}]}
    )
    assert "| a | b |\n| --- | --- |\n| 1 | 0.1235 |\n| 3 |  |" in text
    assert "| a |\n| --- |\n| 2 |" in text
