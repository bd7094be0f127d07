"""The report of the study says what its numbers say."""

import json

import pytest

from kaiyuan_jax.report import schedule_study

STEPS = [20, 30, 39]


def spread(mean, half=0.01):
    return {"mean": mean, "interval": [mean - half, mean + half], "seeds": [mean - half / 4, mean + half / 4]}


def row(role, label, final, predicted, baseline=(4.0, 4.0)):
    return {
        "role": role, "label": label, "rates": [0.0, *[3e-3] * 39], "steps": STEPS, "losses": [5.0, 4.5, final],
        "predicted": [5.0, 4.5, predicted], "low": [4.9, 4.4, predicted - 0.1], "high": [5.1, 4.6, predicted + 0.1], "own_from": 30,
        "final": spread(final), "predicted_final": {"value": predicted, "band": [predicted - 0.1, predicted + 0.1]},
        "predicted_final_seeds": [predicted] * 2, "errors": {"mae": 0.02, "worst": 0.03, "final": predicted - final},
        "seed_errors": spread(predicted - final), "coverage": 0.5,
        "gap": {"actual": spread(final - baseline[0]), "predicted": predicted - baseline[1], "error": 0.0},
    }  # fmt: skip


@pytest.fixture
def results():
    differences = [
        {"first": "designed", "second": "cosine_to_10", "predicted": -0.3, "verdict": "designed is better than cosine to 1/10 here."}
        | spread(-0.2) | {"documents": [-0.21, -0.19]},
        {"first": "designed", "second": "wsd20_to_10", "predicted": -0.01, "verdict": "No conclusion between the two."}
        | spread(0.001) | {"documents": [-0.001, 0.003]},
    ]  # fmt: skip
    table = {
        "constant": row("train", "constant", 4.1, 4.1),
        "cosine_to_10": row("train", "cosine to 1/10", 4.0, 4.0),
        "wsd20_to_10": row("test", "WSD 20% to 1/10", 3.8, 3.75),
        "designed": row("designed", "designed", 3.801, 3.74),
    }
    return {
        "size": dict(steps=40, warmup=4, peak=3e-3, batch_size=4, sequence_length=16, first=8),
        "parameters": 1_300_000, "runs": 8, "updates": 160, "seeds": 2,
        "law": {"name": "multi_power_fading", "protocol": "robust", "parameters": {}, "moved": {"C": -0.5, "beta": 0.2}},
        "schedules": table,
        "unseen": dict(names=["wsd20_to_10", "designed"], mae=0.02, final=0.055, bias=-0.055, gap=0.051, gap_size=0.2,
                       coverage=0.5, final_coverage=1.0,
                       noise=0.012, rank_correlation=-1.0),
        "laws": [dict(law="linear", protocol="converged", objective=1.0, mae=0.1, final=0.2, gap=0.3)],
        "comparison": {
            "tuned": {"cosine": "cosine_to_10", "WSD": "wsd20_to_10"}, "differences": differences,
            "finals": {name: spread(entry["final"]["mean"]) for name, entry in table.items()},
        },
    }  # fmt: skip


def test_everything_is_written_and_the_same_twice(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results))
    table = schedule_study.build(tmp_path)
    names = ["report.html", "schedules.md", *(f"schedule_study_{name}.png" for name in ("curves", "finals", "comparison"))]
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert all(before.values()) and schedule_study.build(tmp_path) == table
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())


def test_findings_carry_the_numbers_whatever_they_are(results):
    text = " ".join(schedule_study.findings(results))
    assert "training curves by 0.020 nats" in text and "by more than 0.5 of its deviations" in text
    assert "off by 0.055 nats" in text and "(-0.055 with the sign kept" in text and "scatter by 0.012" in text
    assert "a tenth, 0.200 on average, are off by 0.051" in text
    assert "holds 50% of the points" in text and "100% of the final losses" in text
    assert "No conclusion between the two. Actual +0.0010 nats per token (95% over seeds -0.0090 to +0.0110" in text
    assert "designed schedule is number 2 of 4; the lowest is WSD 20% to 1/10, 0.0010 below" in text


def test_the_setting_says_what_was_trained(results):
    text = schedule_study.setting(results)
    assert "1.30M parameters, 40 steps of 64 tokens (2,560 in all)" in text and "8 runs, 160 updates: the other 50%" in text
    assert "fitted to constant, cosine to 1/10" in text


def test_schedules_are_listed_by_what_they_reached(results):
    _, rows = schedule_study.final_rows(results)
    assert [row[0] for row in rows] == ["WSD 20% to 1/10", "designed", "cosine to 1/10", "constant"]


def test_the_law_of_the_study_stands_first_among_laws(results):
    _, rows = schedule_study.law_rows(results)
    assert [row[0] for row in rows] == ["multi_power_fading", "linear"] and rows[0][2:] == ["0.0200", "0.0550", "0.0510"]


def test_columns_line_up_numbers_to_the_right():
    lines = schedule_study.text(["name", "x"], [["a", "1.0"], ["long", "-10.0"]]).splitlines()
    assert lines == ["name      x", "a       1.0", "long  -10.0"]


def test_a_study_of_seeds_without_an_interval_says_unknown():
    one = {"mean": 0.1, "interval": None, "documents": None, "predicted": 0.2}
    assert "over seeds unknown, over documents unknown" in schedule_study.difference(one)
