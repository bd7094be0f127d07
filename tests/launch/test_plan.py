"""launch/plan.py on a machine: the page, its HTML, and mistakes in one line."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*flags, config="configs/kaiyuan_2b.py"):
    command = [sys.executable, "launch/plan.py", f"--config={config}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_published_run_is_planned_for_a_pod_and_the_flags_it_recommends_are_what_it_then_finds(tmp_path):
    done = run("--target=v5p", "--chips=64", "--hours=336", "--price=4.2", "--what_if=v6e:8x8", f"--html={tmp_path / 'plan.html'}")
    assert done.returncode == 0, done.stderr
    assert "kaiyuan_2b on v5p:4x4x4, 64 chips" in done.stdout and "In 336 hours" in done.stdout and "Limits of each phase" in done.stdout
    assert (tmp_path / "plan.html").read_text().startswith("<!doctype html>")
    recommended = done.stdout.split("the same numbers trained:\n")[1].split("\n\n")[0]
    again = subprocess.run(
        ["bash", "-c", f"{sys.executable} launch/plan.py --config=configs/kaiyuan_2b.py --target=v5p:4x4x4 --what_if= \\\n{recommended}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "As configured it fits" in again.stdout and "Fastest that fits" not in again.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--target=v9:1"], "--target=v9:1: found 'v9' before the colon, must be one of"),
        (["--target=v5p:4x4x4", "--chips=8"], "--chips=8: --target=v5p:4x4x4 has 64; leave one out"),
        (["--target=v5p:4x4x4", "--price=much"], "--price=much: must be a number above 0"),
        (["--target=v5p:4x4x4", "--html=plan.md"], "--html=plan.md: must end in .html"),
        (["--target=v5p:4x4x4", "--what_if=v5p:3"], "--what_if=v5p:3: found '3', must be the 3 sides"),
        (["--hours=3"], "--hours: needs a machine; name one, such as --target=v5p:4x4x4"),
        (["--compile"], "--compile: needs a machine"),
        (["--target=v5p:4x4x4", "--config.data.batch_size=0"], "config.data.batch_size"),
    ],
)
def test_a_mistake_is_one_line(flags, message):
    done = run(*flags)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}") and len(done.stderr.splitlines()) == 1
    assert not done.stdout
