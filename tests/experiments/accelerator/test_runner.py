"""Sections are kept apart: what one does to its process, the others do not feel."""

import json
import pathlib
import sys

import pytest

from kaiyuan_jax.experiments.accelerator import runner
from kaiyuan_jax.experiments.accelerator.sections import SECTIONS, Section


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent))

    def run(*sections, minutes=2.0, **options):
        output = tmp_path / "results.json"
        results = runner.run(sections, output, minutes=minutes, cache=tmp_path / "cache", **options)
        assert json.loads(output.read_text()) == results
        return {result["name"]: result for result in results["sections"]}

    return run


def fake(how, seconds=60.0, **options):
    return Section(how, "fake_sections", seconds, options={"how": how}, **options)


def test_sections_that_raise_die_or_hang_are_recorded_and_the_others_go_on(run):
    found = run(fake("raises"), fake("killed"), fake("hangs", 4.0), fake("attempts", 120.0))
    assert found["raises"]["status"] == "failed: exit code 1"
    assert "a device has left" in found["raises"]["log"]
    assert found["killed"]["status"] == "failed: killed by SIGKILL"
    assert found["hangs"]["status"].startswith("stopped after")
    for how in ("raises", "killed", "hangs"):  # what was measured before the end is kept
        assert found[how]["rows"] == [{"what": "before"}]
    assert found["attempts"]["status"] == "done"
    _, large, fits, late = found["attempts"]["rows"]
    assert large == {"what": "too large", "error": "MemoryError: RESOURCE_EXHAUSTED: 400 GiB"}
    assert fits == {"what": "fits", "ms": 1.0}
    assert "not run" in late["error"]


def test_what_does_not_fit_the_time_or_lacks_pytorch_is_said(run):
    found = run(fake("raises", torch=True), torch_python="")
    assert found["raises"]["status"].startswith("not run: no Python with PyTorch")
    found = run(fake("raises"), minutes=0.01)
    assert found["raises"]["status"].startswith("not run:") and found["raises"]["rows"] == []


def test_shares_fit_nine_minutes_and_what_is_not_used_falls_to_the_next():
    shares = [section.seconds for section in SECTIONS]
    assert sum(shares) <= 9 * 60 - 5
    assert runner.limit(50, left=540, reserved=400) == 140
    assert runner.limit(50, left=120, reserved=400) == 50  # too little for all: those in front come first
    assert runner.limit(50, left=30, reserved=0) == 30


def test_the_file_holds_every_section_that_has_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent))
    seen = []
    output = tmp_path / "results.json"

    def report(result):
        seen.append([section["name"] for section in json.loads(output.read_text())["sections"]])

    runner.run([fake("attempts"), fake("raises")], output, minutes=1, cache=tmp_path, report=report)
    assert seen == [["attempts"], ["attempts", "raises"]]


def test_the_parent_leaves_the_device_to_its_children():
    import subprocess

    code = "import sys, kaiyuan_jax.experiments.accelerator.runner; print({'jax', 'torch', 'grain', 'ml_collections'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_section_names_a_module_that_measures():
    import importlib.util

    for section in SECTIONS:
        source = pathlib.Path(importlib.util.find_spec(section.module).origin).read_text()
        assert "\ndef measure(job: Job" in source, section.name
