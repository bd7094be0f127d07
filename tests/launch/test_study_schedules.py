"""The whole study in small: it trains, fits, designs, compares and reports, and does nothing twice."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.schedules import file
from tests.scripts import run

ROOT = pathlib.Path(__file__).parents[2]


def study(*flags):
    command = [sys.executable, "launch/study_schedules.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Text in which a token is likely to be followed by the next one, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("stores")
    for number, source in enumerate(("prose", "code", "math", "chinese")):
        for part, documents in (("train", 150), ("heldout", 40)):
            random = np.random.default_rng([number, documents])
            steps = np.where(random.random((documents, 30)) < 0.8, 1, random.integers(1, 50, (documents, 30)))
            texts = [(f"d{i}", float(i), 60, (1 + np.cumsum(row) % 50).astype(np.uint16)) for i, row in enumerate(steps)]
            write_store(folder / source / part, documents=texts, tokenizer_json="{}", vocabulary=64, eod=0)
    return str(folder)


@pytest.fixture(scope="module")
def done(stores, tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "schedules"
    flags = ["--quick", "--seeds=2", "--processes=1", f"--stores={stores}", f"--output={output}"]
    code, out, error = study(*flags)
    assert code == 0, error
    return flags, output, out


def test_one_command_does_all_stages(done):
    _, output, out = done
    assert [line for line in out.splitlines() if line in ("train", "fit", "design", "compare", "report")] == [
        "train", "fit", "design", "compare", "report",
    ]  # fmt: skip
    results = json.loads((output / "results.json").read_text())
    assert set(results["schedules"]) == {"constant", "cosine_to_10", "two_stage", "wsd20_to_10", "wsd_s", "designed"}
    for row in results["schedules"].values():
        assert len(row["final"]["seeds"]) == 2 and np.isfinite(row["predicted"]).all() and row["coverage"] >= 0
    assert {path.name for path in output.glob("*.png")} == {f"schedule_study_{name}.png" for name in ("curves", "finals", "comparison")}
    assert "What this does not show" in (output / "report.html").read_text()
    assert (output / "schedules.md").read_text().startswith("# ")


def test_the_designed_schedule_is_what_its_runs_had(done):
    _, output, _ = done
    rates = file.read(str(output / "schedule.json")).all_rates()
    lines = [json.loads(line) for line in (output / "runs/designed_seed0/metrics.jsonl").read_text().splitlines()]
    rate_of = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    assert rate_of and all(rate == pytest.approx(rates[step - 1], rel=1e-5) for step, rate in rate_of.items())


def test_branches_begin_as_the_constant_run(done):
    _, output, _ = done
    for seed in range(2):
        runs = [
            [json.loads(line) for line in (output / f"runs/{name}_seed{seed}/metrics.jsonl").read_text().splitlines()]
            for name in ("constant", "wsd20_to_10")
        ]
        ours, theirs = ([line for line in run if "heldout/mean" in line] for run in runs)
        shared = [a["heldout/mean"] == b["heldout/mean"] for a, b in zip(ours, theirs, strict=True) if a["step"] <= 32]
        assert shared and all(shared) and ours[-1] != theirs[-1]


def test_a_second_call_trains_nothing(done):
    flags, output, _ = done
    before = {path: path.read_bytes() for path in output.glob("runs/*/metrics.jsonl")}
    code, out, error = study(*flags, "--stage=train")
    assert code == 0, error
    assert out.count("was there") == 10 and len(before) == 12
    assert all(path.read_bytes() == content for path, content in before.items())


def test_runs_of_another_design_are_not_taken_for_those_of_this_one(done):
    flags, output, _ = done
    kept = output / "runs/designed_seed1/schedule.json"
    before = kept.read_bytes()
    file.write(kept, [0, 4, 39], [0.0, 3e-3, 1e-3])
    code, _, error = study(*flags, "--stage=design")
    kept.write_bytes(before)
    assert code == 2 and "designed_seed1 was trained with the schedule of another law; remove it" in error


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--stores=nowhere"], "--stores: nowhere/prose/train does not exist; prepare it with launch/prepare_quickstart.py"),
        (["--steps=7"], "--steps: found 7, must be a multiple of"),
        (["--seeds=1"], "seeds"),
    ],
)
def test_mistakes_end_in_one_line(flags, message, tmp_path):
    code, _, error = run("study_schedules", *flags, f"--output={tmp_path / 'study'}")
    assert code == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "study").exists()


def test_a_stage_whose_runs_are_missing_says_which_stage_to_run(stores, tmp_path):
    code, _, error = run("study_schedules", "--quick", f"--stores={stores}", f"--output={tmp_path / 'study'}", "--stage=fit")
    assert code == 2 and "run --stage=train first" in error and "Traceback" not in error
