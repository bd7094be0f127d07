"""The study of float16 in small: it trains, collects and draws, and does nothing twice."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax.data.store_write import write_store
from tests.scripts import start

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    texts = [(f"d{i}", float(i), 60, (1 + np.cumsum(random.integers(1, 4, 30)) % 50).astype(np.uint16)) for i in range(100)]
    write_store(folder / "text", documents=texts, tokenizer_json="{}", vocabulary=64, eod=0)
    return str(folder / "text")


def test_one_command_trains_collects_and_draws_and_again_does_nothing(store, tmp_path, monkeypatch, capsys):
    flags = ["--quick", "--seeds=1", "--variants=recipe", f"--store={store}", f"--output={tmp_path}"]
    done = subprocess.run([sys.executable, "launch/study_fp16.py", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("recipe_rate0.1_seed0: 8 steps", "(1 runs, 0 minutes", "| recipe | 1 | 0 | no |"):
        assert said in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert [run["variant"] for run in results["runs"]] == ["recipe"]
    for run in results["runs"]:
        assert run["stopped"] is None and run["headroom"] > 0 and len(run["by_layer"]["residual"]) == 2
    assert {"curves_0.1.png", "layers_0.1.png", "table.md"} <= {path.name for path in tmp_path.iterdir()}
    written = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("metrics.jsonl"))]
    assert start(monkeypatch, "study_fp16", flags, ROOT) == 0
    assert "recipe_rate0.1_seed0: done before" in capsys.readouterr().out
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("metrics.jsonl"))] == written


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--store=nowhere", "prepare_quickstart.py"),
        ("--variants=recipe,half", "--variants: found 'half', must be among recipe"),
        ("--rates=0.1,x", "--rates: found '0.1,x', must be numbers"),
    ],
)
def test_what_cannot_run_is_said_before_any_work(flag, message, store, tmp_path, monkeypatch, capsys):
    flags = ["--quick", f"--store={store}", f"--output={tmp_path}/out", flag]
    assert start(monkeypatch, "study_fp16", flags, ROOT) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
