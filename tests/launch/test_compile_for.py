"""launch/compile_for.py says what is wrong before it compiles anything."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*flags):
    command = [sys.executable, "launch/compile_for.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--target: missing; name what to compile for"),
        (["--target=v5e:4x4,v9:1"], "--target=v9:1: found 'v9' before the colon, must be one of"),
        (["--target=v5e:4x4", "--output=table.md"], "--output=table.md: must end in .json"),
        (["--target=v5e:4x4", "--hlo=no/such/folder"], "--hlo=no/such/folder: must be a folder that exists"),
    ],
)
def test_a_mistake_is_one_line(flags, message):
    done = run("--config=configs/quickstart.py", *flags)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}") and len(done.stderr.splitlines()) == 1
