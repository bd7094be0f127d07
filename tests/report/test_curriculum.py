"""The report of the study says what its numbers say, and the same twice."""

import json

import pytest

from kaiyuan_jax.report import curriculum

ENDS = [1.0, 1 / 3, 1 / 10, 1 / 30, 1 / 100, 1 / 300]
GRID = [(order, schedule) for order in curriculum.ORDERS for schedule in curriculum.SCHEDULES]
GRID += [(order, schedule) for order in curriculum.PHASES for schedule in ("constant", "wsd_300")]


def spread(mean):
    return {"mean": mean, "interval": [mean - 0.01, mean + 0.01], "seeds": [mean - 0.001, mean + 0.001]}


def contrast(mean):
    return spread(mean) | {"documents": [mean - 0.002, mean + 0.002]}


@pytest.fixture(scope="module")
def results():
    losses = {f"{order} {schedule} {average}": spread(4.0) for order, schedule in GRID for average in curriculum.AVERAGES}
    losses["ascending constant ema"] = spread(3.75)
    rows = [
        {"kept": "uniform wsd_300 none", "paper": None, "loss": spread(4.0), "difference": None},
        {"kept": "ascending constant ema", "paper": 0.39, "loss": spread(3.75), "difference": contrast(-0.25)},
    ]
    findings = [
        {"title": "First", "extra": False, "outcome": "yes", "tests": [{"claim": "a", "outcome": "yes"} | contrast(-0.2)]},
        {"title": "Second", "extra": False, "outcome": "no", "tests": [{"claim": "b", "outcome": "no"} | contrast(0.3)]},
        {"title": "Third", "extra": True, "outcome": "not seen", "tests": [{"claim": "c", "outcome": "not seen"} | contrast(0.0)]},
    ]
    corpus = {
        "documents": 30, "targets": 900, "losses": losses, "diverged": [], "baseline": "uniform wsd_300 none",
        "tables": {"one phase": rows}, "findings": findings,
        "gaps": {average: [{"end": end} | contrast(0.1 * end) for end in ENDS] for average in curriculum.AVERAGES},
    }  # fmt: skip
    return {
        "size": dict(steps=300, warmup=15, peak=6e-3, batch_size=4, sequence_length=32, decay=0.2, every=10, last=6, rows=128),
        "parameters": 361_152, "tokens": 1_000_000, "seeds": 2, "control": {"share": 0.9, "rate": 0.6},
        "corpora": {"control": corpus, "stores": corpus},
        "quadratic": {
            "sizes": [100, 1000], "losses": {"uniform": [0.15, 0.13], "ascending": [0.03, 0.006]},
            "exponents": {"uniform": -0.02, "ascending": -0.66}, "ends": ENDS,
            "gaps": {"last": [0.139, 0.13, 0.13, 0.13, 0.13, 0.124], "average": [0.126] * 6}, "near_zero": 1 / 300,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def built(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "results.json").write_text(json.dumps(results))
    return folder, curriculum.build(folder)


def test_everything_is_written_and_the_same_twice(built):
    folder, said = built
    names = ["report.html", "curriculum.md", *(f"curriculum_{name}.png" for name in ("gaps", "losses", "quadratic"))]
    before = {name: (folder / name).read_bytes() for name in names}
    assert all(before.values()) and curriculum.build(folder) == said
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_findings_carry_their_outcomes_and_numbers_and_only_six_are_counted(results):
    first, second, third = curriculum.findings(results["corpora"]["control"])
    assert first == ("1. First: REPRODUCES. a: -0.2000 (seeds -0.2100 to -0.1900, documents -0.2020 to -0.1980), reproduces.")
    assert second.startswith("2. Second: THE OPPOSITE.") and third.startswith("Beside the six. Third: NOT SEEN.")


def test_what_diverged_is_said(results):
    corpus = results["corpora"]["control"] | {"diverged": ["uniform constant none"]}
    assert curriculum.findings(corpus)[-1] == "Diverged in some seed, and without a number: uniform constant none."


def test_the_papers_table_shows_ours_beside_the_papers_points(results):
    header, rows = curriculum.paper_rows(results["corpora"]["control"]["tables"]["one phase"])
    assert rows[1] == ["EMA", "ascending", "constant", "3.7500", "-0.2500", "-0.2600 to -0.2400", "-0.2520 to -0.2480", "+0.39"]
    assert rows[0][:3] == ["-", "uniform", "WSD to 1/300"] and rows[0][-1] == "" and len(header) == len(rows[0])


def test_the_table_of_all_recipes_is_relative_to_the_baseline(results):
    _, rows = curriculum.loss_rows(results["corpora"]["control"])
    assert len(rows) == 36
    assert next(row for row in rows if row[:2] == ["ascending", "constant"])[4] == "-0.2500"


def test_the_document_says_what_it_does_not_show(built):
    folder, _ = built
    text = (folder / "curriculum.md").read_text()
    assert "## What this does not show" in text and "38,400 tokens" in text and "M^-0.660" in text
    assert "There are 6 tests at 95%" in text
