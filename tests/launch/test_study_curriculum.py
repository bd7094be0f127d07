"""What the study of curriculum x decay x averaging refuses, it refuses in one line and before any work."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--stores=nowhere/prose"], "--stores: nowhere/prose/train does not exist; prepare it with launch/prepare_quickstart.py"),
        (["--corpora=control,books"], "--corpora: found books, must be control, stores, or both"),
        (["--steps=301"], "--steps: found 301, must be a multiple of 30"),
        (["--seeds=1"], "seeds"),
    ],
)
def test_mistakes_end_in_one_line(flags, message, tmp_path):
    command = [sys.executable, "launch/study_curriculum.py", *flags, f"--output={tmp_path / 'study'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "study").exists()
