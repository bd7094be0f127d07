"""launch/benchmark_accelerator.py on a CPU with tiny shapes: its code runs; its figures mean nothing."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TORCH = ROOT / "build" / "parity" / "bin" / "python"


def launch(tmp_path, *flags):
    command = [sys.executable, "launch/benchmark_accelerator.py", f"--output={tmp_path}/a.json", "--tiny", f"--cache={tmp_path}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def read(tmp_path):
    return {section["name"]: section for section in json.loads((tmp_path / "a.json").read_text())["sections"]}


def errors(section):
    return [row["error"] for row in section["rows"] if "error" in row]


def test_one_section_and_pytorch_left_out(tmp_path):
    done = launch(tmp_path, "--sections=torch_step,cross_entropy", "--torch_python=")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path)
    assert list(found) == ["torch_step", "cross_entropy"]
    assert found["torch_step"]["status"].startswith("not run: no Python with PyTorch")
    assert found["cross_entropy"]["status"] == "done" and not errors(found["cross_entropy"])
    losses = {row["implementation"]: row["loss"] for row in found["cross_entropy"]["rows"] if "loss" in row}
    assert len(losses) > 1 and max(losses.values()) - min(losses.values()) < 0.02
    page = (tmp_path / "a.md").read_text()
    assert "Tiny shapes" in page and "| loss op over materialised logits | at most 1.05 | owed |" in page


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--sections=step,speed", "--sections: found 'speed', must be among ceilings, step,"),
        ("--output=/nowhere/a.json", "--output=/nowhere/a.json: must end in .json"),
        ("--torch_python=/nowhere/python", "--torch_python=/nowhere/python: no program"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, flag, said):
    done = launch(tmp_path, flag)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1


@pytest.mark.kernels
def test_every_section_runs_on_a_cpu(tmp_path):
    torch = TORCH if TORCH.exists() else ""
    done = launch(tmp_path, f"--torch_python={torch}", "--minutes=20")
    assert done.returncode == 0, done.stderr
    for name, section in read(tmp_path).items():
        if torch or not name.startswith("torch"):
            assert section["status"] == "done" and not errors(section), (name, section)
