"""The suite from the command line: what is wrong is said before anything is fetched; templates need nothing at all."""

import pytest

from kaiyuan_jax.evaluation import tasks
from tests import scripts


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks=riddles"], "--tasks: found 'riddles', must be of definition"),
        (["--tasks=next_passage", "--heldout=stores/web"], "--heldout: found 'stores/web', must be NAME=STORE"),
        (["--tasks=next_passage", "--heldout="], "--heldout: missing"),
        (["--tasks=minimal_pairs", "--against=nothing/here"], "nothing/here"),
    ],
)
def test_mistakes_are_one_line(flags, said, monkeypatch, tmp_path, capsys):
    assert scripts.start(monkeypatch, "build_tasks", [*flags, "--output=suite"], tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error and not (tmp_path / "suite").exists()


def test_a_suite_of_templates_needs_no_package(monkeypatch, tmp_path, capsys):
    flags = ["--tasks=minimal_pairs", "--against=", "--items=5", "--output=suite"]
    assert scripts.start(monkeypatch, "build_tasks", flags, tmp_path) == 0
    assert "minimal_pairs           1: 5  2: 5  3: 5" in capsys.readouterr().out
    assert len(tasks.open_suite("--tasks", tmp_path / "suite").tasks["minimal_pairs"].items) == 15
